"""The model card in a point's folder: what a person, or a model hub, should know of the model beside it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
import yaml
from torch import Tensor

from ..evaluators.base import Measurement
from ..spaces.catalogue import DataNeed, in_stage_order, techniques
from .artifact import FILE, needs_class
from .facts import machine
from .front import Point
from .markdown import code, table, text
from .report.figures import change, factor, kind_of, label, number, show, show_range
from .store import write_atomically
from .trial import Bench

#: The card's name in a point's folder: what model hubs look for.
CARD = "README.md"

#: Costs that people ask for first; whatever else was measured follows.
_FIRST = ("size", "onnx_size", "macs", "bops", "parameters")
#: What is larger than this is shown in short, too.
_LONG = 10_000
#: ``module:function``, safe to be put into code.
_SOURCE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_EXPORT = """from paretopress.search import export

export("{file}", "model.onnx"{original})  # for ONNX Runtime, packed as this file is"""


def write_cards(bench: Bench, base: Point, points: Sequence[Point], split: str) -> None:
    """Write a card into the folder of the original model and of every point.

    Parameters
    ----------
    bench
        Of the run: its task and objectives.
    base, points
        With their figures, and the folders where their files are.
    split
        What quality was measured on at the end: "test" or "validation".
    """
    for point in (base, *points):
        assert point.path is not None
        data = (point.path / FILE).read_bytes()
        write_atomically(point.path / CARD, card(point, base, len(points), bench, split, data).encode())


def card(point: Point, base: Point, count: int, bench: Bench, split: str, data: bytes) -> str:
    """Return the card of a model as Markdown.

    Parameters
    ----------
    point, base
        The model and the original, with their figures; the same one for the card of the original.
    count
        How many points the front has.
    bench, split
        As for `write_cards`.
    data
        The model's file.
    """
    original = point.recipe.is_baseline
    parts = [
        _front_matter(point),
        f"# {code(bench.task.name)}: " + ("the original model" if original else f"compressed model {point.id}"),
        _summary(point, base, count, bench.task.name),
        "\n".join(f"> **Warning:** {text(flag)}." for flag in point.flags),
        "## Figures",
        _figures(point, base, bench, split),
        "\n".join(_conditions(point, base)),
        "## What was done at each layer",
        _recipe(point, list(bench.sites)),
        "## How to use it",
        *_usage(bench, data),
        "## Where it comes from",
        _origin(point, bench, data),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(point, bench, split)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(point: Point) -> str:
    """Return what model hubs read."""
    used = dict.fromkeys(step.technique for step in in_stage_order(point.recipe.steps))
    tags = ["paretopress", "pytorch", *(["model-compression"] if used else []), *used]
    return "---\n" + yaml.safe_dump({"library_name": "paretopress", "tags": tags}, sort_keys=False) + "---"


def _summary(point: Point, base: Point, count: int, task: str) -> str:
    if point.recipe.is_baseline:
        return f"The uncompressed model of the task {code(task)}, as the compressed ones are compared with it."
    ratios = point.ratios(base)
    words = []
    if "size" in ratios:
        words.append(f"{_times(ratios['size']['compression'], 'smaller', 'larger')} as a file")
    if "macs" in ratios:
        words.append(f"{_times(ratios['macs']['compression'], 'fewer', 'more')} multiply-accumulates")
    if "latency" in ratios:
        words.append(f"{factor(point.value('latency'))} the original's latency")
    return (
        f"The model of the task {code(task)}, compressed: **{', '.join(words)}**. Point {point.id} of a Pareto front "
        f"of {count}, found in trial {point.result.number} of a search by paretopress."
    )


def _times(compression: float, less: str, more: str) -> str:
    return f"{factor(compression)} {less}" if compression >= 1 else f"{factor(1 / compression)} {more}"


def _figures(point: Point, base: Point, bench: Bench, split: str) -> str:
    """Return the table of figures beside the original's."""
    quality = bench.task.metric.name
    names = dict.fromkeys((quality, *_FIRST, *point.final))
    rows = []
    for name in (n for n in names if n in point.final):
        mine, theirs = point.final[name], base.final.get(name)
        on = text(_basis(name, point, quality, split))
        rows.append([text(label(name)), *_shown(name, mine), *_shown(name, theirs), _versus(name, point, base), on])
        searched = point.result.measurements.get(name)
        if name == quality and split != "validation" and searched is not None:
            before = base.result.measurements.get(name)
            on = f"{searched.repeats:,} validation examples, which the search optimised"
            rows.append([f"{text(label(name))}, in the search", *_shown(name, searched), *_shown(name, before), "", on])
    head = ["figure", "this model", "95 % interval", "original", "95 % interval", "against the original", "taken on"]
    if point.recipe.is_baseline:  # beside itself
        head, *rows = ([*line[:3], line[-1]] for line in (head, *rows))
    return table(head, rows)


def _shown(name: str, found: Measurement | None) -> list[str]:
    """Return a figure with its unit, and its interval."""
    if found is None:
        return ["–", ""]
    kind = kind_of(name, found.unit)
    shown = show(found.value, kind, found.unit)
    if kind in ("bytes", "count") and found.interval is None:
        unit = "bytes" if kind == "bytes" else found.unit.replace(label(name), "")
        shown = f"{found.value:,.0f} {unit}".rstrip() + (f" ({shown})" if found.value >= _LONG else "")
    interval = show_range(*found.interval, kind, found.unit) if found.interval is not None else ""
    return [text(shown), text(interval)]


def _versus(name: str, point: Point, base: Point) -> str:
    """Return by how much a figure is better or worse than the original's."""
    mine, theirs = number(point.value(name)), number(base.value(name))
    if point.recipe.is_baseline or mine is None or theirs is None:
        return ""
    found = point.ratios(base).get(name, {})
    if "saving" in found:
        return f"{_times(found['compression'], 'less', 'more')} ({change(found['saving'])})"
    if point.final[name].unit.startswith("x "):
        return f"{factor(mine)} of it"
    gap = mine - theirs
    if not gap:
        return "the same"
    size = f"{100 * abs(gap):.2f} points" if kind_of(name, point.final[name].unit) == "share" else f"{abs(gap):.4g}"
    return f"{'+' if gap > 0 else '−'}{size}"


def _basis(name: str, point: Point, quality: str, split: str) -> str:
    """Return what a figure rests on."""
    found = point.final[name]
    if found.interval is None and found.repeats == 1:
        return "counted, exact" if kind_of(name, found.unit) in ("bytes", "count") else "one observation"
    # What isn't measured again at the end is the search's own measurement.
    kept = found is point.result.measurements.get(name)
    if name == quality:
        return f"{found.repeats:,} {'validation' if kept else split} examples"
    what = "pairs of passes with the original" if "baseline_milliseconds" in found.detail else "observations"
    return f"{found.repeats:,} {what}" + (", in the search, on validation" if kept else "")


def _conditions(point: Point, base: Point) -> Iterator[str]:
    """Yield under which conditions each figure was measured, for those that say."""
    for name, found in point.final.items():
        if found.detail:
            yield f"- {text(label(name))}: {text(_facts(found.detail))}"
            theirs = base.final.get(name)
            if not point.recipe.is_baseline and theirs is not None and theirs.detail:
                yield f"  - the original: {text(_facts(theirs.detail))}"
    yield f"- all on: {text(machine())}, torch {text(version('torch'))}"


def _facts(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{str(key).replace('_', ' ')} {_fact(value)}" for key, value in detail.items())


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"({_facts(value)})"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_fact, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _recipe(point: Point, sites: Sequence[str]) -> str:
    if point.recipe.is_baseline:
        return "Nothing."
    steps = sorted(in_stage_order(point.recipe.steps), key=lambda s: sites.index(s.site))
    rows = [[code(s.site), code(s.technique), ", ".join(code(f"{k}={v}") for k, v in s.params)] for s in steps]
    return (
        "Sites are module paths of the original; `group:` are coupled channels, `heads:` attention heads, `block:` "
        "residual blocks, `<model>` is all of it. What isn't listed is unchanged.\n\n"
        + table(["site", "technique", "settings"], rows)
    )


def _usage(bench: Bench, data: bytes) -> Iterator[str]:
    """Yield how to load and export the model, as code that runs in its folder."""
    reason, inputs = needs_class(data), ", ".join(map(_zeros, bench.task.example))
    given = ""
    lines = ["import torch", "from paretopress.search import load", ""]
    if reason:
        yield f"**It needs the original model**: {text(reason)}. The file holds what differs from it."
        found = _SOURCE.fullmatch(bench.task.source or "")
        if found is not None:
            lines[2:2] = [f"from {found[1]} import {found[2]}"]
            lines.append(f"original = {found[2]}().model  # its task, with the arguments of the run")
        else:
            lines.append("original = ...  # the uncompressed model, with its trained weights")
        given = ", model=original"
    else:
        yield "The file holds the whole model: no class of yours is needed, and nothing in it is executed."
    lines.append(f'model = load("{FILE}"{given})  # an nn.Module in eval mode')
    lines.append(f"outputs = model({inputs})  # any batch")
    yield "```python\n" + "\n".join(lines) + "\n```"
    yield "```python\n" + _EXPORT.format(file=FILE, original=given) + "\n```"


def _zeros(example: Tensor) -> str:
    """Return code for an input of zeros, a batch of one."""
    kind = "" if example.dtype == torch.float32 else f", dtype={example.dtype}"
    return f"torch.zeros({tuple(example.shape)}{kind})"


def _origin(point: Point, bench: Bench, data: bytes) -> str:
    result = point.result
    rows = [
        ["task", f"{code(bench.task.name)}, from {code(bench.task.source) if bench.task.source else 'a script'}"],
        ["trial", f"{result.number}, seed {result.seed}, proposed by {code(result.origin or 'the search')}"],
        ["recipe", code(point.recipe.digest)],
        ["objectives", ", ".join(text(f"{o.name} ({o.direction})") for o in bench.objectives)],
        ["written", time.strftime("%Y-%m-%d %H:%M:%S %z")],
        ["versions", text(", ".join(f"{name} {version(name)}" for name in ("paretopress", "torch")))],
        [code(FILE), f"{len(data):,} bytes, SHA-256 {code(hashlib.sha256(data).hexdigest())}"],
    ]
    return table(["", ""], rows)


def _limits(point: Point, bench: Bench, split: str) -> Iterator[str]:
    """Yield what the figures don't say."""
    quality = text(label(bench.task.metric.name))
    goals = ", ".join(text(label(o.name)) for o in bench.objectives)
    if split == "validation":
        yield (
            f"**The {quality} above is optimistic.** The task has no test split, so it is on the validation data that "
            "the search optimised. Expect worse on new data."
        )
    elif not point.recipe.is_baseline:
        yield (
            f"It was selected on validation data, by {goals}: the {quality} there is optimistic. The search never "
            "looked at the test data, on which the figure above was taken; but once you choose among the points of the "
            "front by that figure, it is optimistic, too."
        )
    yield (
        "An interval is about chance: other examples of the same kind, or the same timing again. It says nothing of "
        "data of another kind, or of another machine."
    )
    timed = [text(label(name)) for name, found in point.final.items() if found.unit.startswith("x ")]
    if timed:
        yield (
            f"{', '.join(timed)}: an estimate, as a ratio to the original in the same process under the conditions "
            "above. Another machine or runtime gives another one: export both and time them there "
            "(`paretopress bench`)."
        )
    uncounted = point.final["macs"].detail.get("uncounted") if "macs" in point.final else None
    if uncounted:
        yield f"MACs leave out operators that are not counted: {text(', '.join(sorted(uncounted)))}."
    yield (
        f"Only the {quality} over a whole split was looked at. Single classes, rare inputs or groups of people may "
        "have lost more: check what matters to you."
    )
    known = techniques()
    needs = {known[s.technique].data_need for s in point.recipe.steps if s.technique in known}
    if DataNeed.CALIBRATION in needs:
        yield "Ranges of rounded activations were taken from calibration data; values beyond them are clipped."
    if DataNeed.TRAINING in needs:
        yield "It was trained again on the task's training data, with the original as teacher where the recipe says so."
