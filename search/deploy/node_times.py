"""How long each layer of a deployed model takes in the midst of the others: ONNX Runtime notes each node's time."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from scipy.stats import trim_mean

from ...evaluators.onnx_session import Session
from ...evaluators.pairing import Program, alone, paired

#: Turns in which notes are taken, the fewest if one takes long, and the seconds for them; as much without notes.
TURNS, FEWEST, SECONDS = 400, 12, 0.4
#: How often a file is loaded to be timed, unless that takes long.
LOADS = 4
#: Turns that only warm up.
_WARM = 2
#: The share of what was noted of a layer that is its own at least.
_LEAST = 0.05
#: Where the exporter says which modules a node comes from, the innermost last.
_SCOPES = "pkg.torch.onnx.name_scopes"
_MARK = re.compile(r"@(\d+)@")


@dataclass(frozen=True)
class Marked:
    """A file whose nodes say whose they are.

    Attributes
    ----------
    data
        The file.
    owners
        The layer of each numbered node, "" for nobody's.
    readers
        Layer -> the layers that read what it gives.
    """

    data: bytes
    owners: tuple[str, ...]
    readers: Mapping[str, tuple[str, ...]]


def marked(model: ir.Model, layers: Collection[str]) -> Marked:
    """Return a graph as a file whose nodes and values carry numbers, and whose they are; the graph is changed.

    The runtime merges nodes and calls the result by one node's or one value's name. A node that belongs to no layer,
    such as an activation or a sum, counts for the layer that its latest input comes from, or else for the first one
    that reads it.
    """
    owners: list[str] = []
    made: dict[ir.Value | None, int] = {}
    nodes = [node for node in model.graph]  # noqa: C416 - it is no iterator that a list takes
    numbers = {node: n for n, node in enumerate(nodes)}
    kept = {*model.graph.inputs, *model.graph.outputs}
    for node in nodes:
        latest = max((made[value] for value in node.inputs if value in made), default=None)
        owner = _layer(node, layers) or (owners[latest] if latest is not None else "")
        owners.append(owner)
        if owner:
            made |= dict.fromkeys(node.outputs, numbers[node])
    for number in reversed(range(len(nodes))):
        if not owners[number]:
            readers = {owners[numbers[use.node]] for value in nodes[number].outputs for use in value.uses()}
            owners[number] = min(readers - {""}, default="")
    for number, node in enumerate(nodes):
        node.name = f"@{number}@"
        for place, value in enumerate(node.outputs):
            if value not in kept:
                value.name = f"@{number}@{place or ''}"
                value.shape = value.type = None  # they may be those of a model of other widths
    proto: Any = ir.to_proto(model)
    del proto.graph.value_info[:]
    return Marked(proto.SerializeToString(), tuple(owners), _readers(numbers, owners))


def _readers(numbers: Mapping[ir.Node, int], owners: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return layer -> the layers that read what it gives."""
    found: dict[str, dict[str, None]] = {}
    for node, owner in zip(numbers, owners):
        uses = (owners[numbers[use.node]] for value in node.outputs for use in value.uses())
        found.setdefault(owner, {}).update(dict.fromkeys(reader for reader in uses if reader not in ("", owner)))
    return {owner: tuple(readers) for owner, readers in found.items() if owner and readers}


def _layer(node: ir.Node, layers: Collection[str]) -> str:
    """Return the innermost of some layers that a node is part of, or ""."""
    for scope in reversed(re.findall(r"'([^']*)'", node.metadata_props.get(_SCOPES, ""))):
        while scope:
            if scope in layers:
                found: str = scope
                return found
            scope = scope.rpartition(".")[0]  # noqa: PLW2901 - one module further out
    return ""


@dataclass(frozen=True)
class Times:
    """Seconds that layers take, and the whole pass without anybody who takes notes."""

    layers: Mapping[str, float]
    whole: float


def node_times(files: Sequence[Marked], inputs: Sequence[Any]) -> list[Times]:
    """Return how long the layers of some files take, in turns.

    Parameters
    ----------
    files
        Of which all are loaded at a time, twice each.
    inputs
        Arrays that each of them takes.

    Raises
    ------
    ArtifactError
        If the runtime can't load a file.
    """
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder, alone():
        found = [_whole(file, files[0], inputs) for file in files[1:] or files]
        original = float(np.median([seconds for _, seconds in found]))
        wholes = [original, *(ratio * original for ratio, _ in found[: len(files) - 1])]
        watched = [Session(file.data, trace=Path(folder) / str(n)) for n, file in enumerate(files)]
        passes = [session.ready(*inputs) for session in watched]
        begun, turns = time.perf_counter(), 0
        while turns < FEWEST or (turns < TURNS and time.perf_counter() - begun < SECONDS):
            for noting in passes:
                noting()
            turns += 1
        return [
            Times(_by_layer(session.noted(), file.owners, turns, whole), whole)
            for session, file, whole in zip(watched, files, wholes)
        ]


def whole_ratio(file: Marked, original: Marked, inputs: Sequence[Any]) -> float:
    """Return how long a pass of a file takes as a multiple of the original's.

    Raises
    ------
    ArtifactError
        If the runtime can't load a file.
    """
    with alone():
        return _whole(file, original, inputs)[0]


def _whole(file: Marked, original: Marked, inputs: Sequence[Any]) -> tuple[float, float]:
    """Return the ratio, and the original's seconds.

    Where in memory a file comes to lie changes a short pass by a hundredth, and so may which of two is loaded first:
    each is loaded some times, first and second in turns.
    """
    ratios: list[float] = []
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(ratios) < 2 or (len(ratios) < LOADS and time.perf_counter() - begun < SECONDS):
        order = (original, file) if len(ratios) % 2 else (file, original)
        runs = [Session(each.data).ready(*inputs) for each in order]
        mine, theirs = reversed(runs) if len(ratios) % 2 else runs
        pair = paired(_program(mine), _program(theirs), SECONDS / LOADS)
        ratios.append(pair.ratio)
        seconds.append(1e-3 * pair.baseline_milliseconds)
    return float(np.mean(ratios)), float(np.median(seconds))


def _program(run: Callable[[], Any]) -> Program:
    return Program(lambda: run)


def _usual(seconds: Any) -> Any:
    """Return the mean of the middle half of (turns, ...): notes are whole microseconds, of which a median is one."""
    return trim_mean(np.asarray(seconds)[_WARM:], 0.25)


def _by_layer(noted: Sequence[tuple[str, float]], owners: Sequence[str], turns: int, whole: float) -> dict[str, float]:
    """Return layer -> seconds of its nodes, given those of all passes, one after the other, and what a pass takes of
    which nobody takes notes.

    A node that the runtime put in, such as a change of layout, counts for the layer that comes after it. To look at the
    clock takes time, too, and on some machines more than a small node: what nodes take together beyond a whole pass is
    taken from all alike.
    """
    nodes = len(noted) // turns
    marks = [_MARK.search(name) for name, _ in noted[:nodes]]
    found = dict.fromkeys((owner for owner in owners if owner), 0.0)
    if nodes * turns != len(noted):  # passes differ in what they run: nobody knows what belongs to which
        return found
    seconds = _usual(np.array([taken for _, taken in noted]).reshape(turns, nodes))
    noting = max(0.0, float(seconds.sum()) - whole) / nodes
    counts = dict.fromkeys(found, 0)
    owner = ""
    for place in reversed(range(nodes)):
        mark = marks[place]
        owner = owners[int(mark[1])] if mark is not None else owner
        if owner:
            found[owner] += float(seconds[place])
            counts[owner] += 1
    left = {owner: max(taken - noting * counts[owner], _LEAST * taken) for owner, taken in found.items()}
    share = whole / max(sum(left.values()), whole)  # a machine that is busy with something else lengthens notes
    return {owner: share * taken for owner, taken in left.items()}
