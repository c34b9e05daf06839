"""What a model can become outside paretopress, tried before a search: tracing, export, integer kernels here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...compressors.base import Compressor, apply_step
from ...compressors.draft import Context, Draft
from ...evaluators.base import Evaluator
from ...evaluators.onnx_session import Session, compare
from ...spaces.catalogue import technique
from ...spaces.errors import ArtifactError
from ...spaces.recipe import Recipe, Step
from ...spaces.sites import find_sites
from ...spaces.task import Task
from ...spaces.tracing import untraceable
from ..artifact import opened
from ..calls import Pass
from ..deployment import instead_of
from ..saving import dumps
from .export import Parity, compared
from .onnx_file import to_onnx
from .widths import liked_widths

#: Batches at which integer kernels are timed, and seconds for each.
BATCHES, SECONDS = (1, 32), 1.0
#: Outputs that differ by less are the same; integer outputs that agree on fewer examples are suspicious.
SAME, AGREE = 1e-3, 0.98
#: Bits of weights with which sums of pairs of products fit 16 bits.
SAFE_BITS = 7

Verdict = Literal["yes", "partly", "no"]


@dataclass(frozen=True)
class Finding:
    """What was tried, how it went, and what to know of it."""

    what: str
    verdict: Verdict
    details: tuple[str, ...] = ()


def examine(task: Task, asked: Sequence[Evaluator] = ()) -> Iterator[Finding]:
    """Yield what was found about a task's model, the quickest first.

    Parameters
    ----------
    task
        Validation inputs are what outputs are compared on.
    asked
        What objectives and constraints are about.
    """
    reason = untraceable(task.model, len(task.example))
    if reason:
        told = (f"{reason}: saved models need your class to load, and convolutions aren't offered int8",)
        yield Finding("its forward pass can be traced", "no", told)
    else:
        yield Finding("its forward pass can be traced", "yes", ("saved models load without your class",))
    inputs = task.validation.first()[0]
    try:
        plain = to_onnx(task.model, {}, task.example)
        original = Session(plain)
        parity = compared(task.model, original, inputs, True)
    except ArtifactError as error:
        yield Finding("it can be exported to ONNX", "no", (str(error), *_culprits(task)))
        for metric in (m for m in asked if m.deployed):
            advice = f"there is no deployed file to measure: {instead_of(metric)}"
            yield Finding(f"it can be searched for {metric.name}", "no", (advice,))
        return
    ok = parity.difference < SAME
    yield Finding("it can be exported to ONNX", "yes" if ok else "partly", (f"{len(plain):,} bytes", str(parity)))
    yield _integers(task, original, inputs)
    if any(isinstance(module, nn.Conv2d) for module in task.model.modules()):
        yield _widths()


def _culprits(task: Task) -> Iterator[str]:
    """Yield the layers that can't be exported by themselves, and why."""
    model = copy.deepcopy(task.model)
    for path, calls in Pass(model, tuple(x.clone() for x in task.example)).calls.items():
        module = task.model.get_submodule(path)
        if path and not any(module.children()) and all(isinstance(a, Tensor) for a in calls[0].args):
            try:
                to_onnx(module, {}, calls[0].args)
            except ArtifactError as error:
                yield f"{path} ({type(module).__name__}): {error}"


def _integers(task: Task, original: Session, inputs: tuple[Tensor, ...]) -> Finding:
    """Return how the model runs on integers here: all layers, 8-bit weights."""
    found: dict[int, tuple[Session, Parity]] = {}
    try:
        for bits in (8, SAFE_BITS):
            model, draft = _on_integers(task, bits)
            session = Session(to_onnx(model, draft.encodings, task.example))
            found[bits] = session, compared(model, session, inputs, True)
            layers = len(draft.integer)
            if found[bits][1].agreement is None or (found[bits][1].agreement or 0) >= AGREE:
                break
    except ArtifactError as error:
        return Finding("it runs on 8-bit integers", "no", (str(error),))
    if not layers:
        return Finding("it runs on 8-bit integers", "no", ("no layer of it supports int8",))
    session, parity = found[min(found)]
    ratios = [compare(session, original, batch, SECONDS).ratio for batch in BATCHES]
    times = ", ".join(f"{ratio:.2f}x at batch {batch}" for ratio, batch in zip(ratios, BATCHES))
    details = [
        f"{layers} layers; latency as a multiple of the original's, one thread of this machine: {times}",
        str(parity),
    ]
    if len(found) > 1:
        details.append(
            f"with 8-bit weights the same class for only {found[8][1].agreement:.2%}: this processor adds products of "
            f"bytes in 16 bits. Give int8 at most {SAFE_BITS} bits: techniques: {{int8: {{bits: [7, 6, 4]}}}}"
        )
    return Finding("it runs on 8-bit integers", "yes" if min(ratios) < 1 else "partly", tuple(details))


def _widths() -> Finding:
    """Return which numbers of channels are worth pruning to here."""
    found = liked_widths()
    if found.multiple == 1:
        return Finding("any number of channels is as fast as it should be", "yes")
    told = (
        f"a number between them takes {found.waste:.2f}x its share of the next one's work (median): the table of layers"
        f" that predicts a latency knows; to remove no others: techniques: {{channels: {{round_to: {found.multiple}}}}}"
    )
    return Finding(f"convolutions here like multiples of {found.multiple} channels", "partly", (told,))


@torch.no_grad()
def _on_integers(task: Task, bits: int) -> tuple[nn.Module, Draft]:
    """Return a model all of whose layers run on integers, as a file gives it back, and its draft."""
    context = Context(task, {s.name: s for s in find_sites(task.model, task.example)[0]})
    draft, entry = Draft.of(task.model), technique("int8")
    assert isinstance(entry, Compressor)
    for site in context.sites.values():
        if entry.supports(site):
            apply_step(entry, draft, Step.of(site.name, entry.name, bits=bits), context)
    entry.settle(draft, context, task.calibration)
    saved = dumps(draft, task.model, Recipe(), task.example)
    return opened(saved.data, task.model).model, draft
