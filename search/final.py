"""The end of a run: the front's models as files, measured again on data that the search never saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluators.accuracy import Quality
from ..evaluators.base import Evaluator, Measurement, Subject
from ..evaluators.latency import Latency
from ..evaluators.onnx_session import Session
from ..spaces.errors import ArtifactError
from .artifact import FILE, opened
from .card import write_cards
from .front import Point
from .pareto import compressed
from .result import Objective, Result
from .saved import point_json
from .store import Store, write_atomically
from .trial import Bench, Job

#: Bootstrap resamples for the interval of a metric that has no closed form.
_RESAMPLES = 200
#: A deployed file that gives the model's answer for fewer examples than this isn't the model.
_AGREE = 0.99
#: Of so many examples.
_EXAMPLES = 256
#: Fewer MACs than this share of the baseline's should be faster than it by this factor, or the point is flagged.
_FEWER_MACS, _FASTER = 0.95, 0.97


def conclude(
    bench: Bench,
    best: Sequence[Result],
    baseline: Result,
    store: Store,
    folder: Path,
    tell: Callable[[int, int], None],
    columns: Sequence[Evaluator] = (),
) -> tuple[Point, tuple[Point, ...], str]:
    """Write the front's files and measure them; return the baseline, the points and the split.

    Parameters
    ----------
    bench
        To make a model again whose file is missing, and for the task.
    best
        The non-dominated results. The baseline is left out unless it is the only one.
    baseline, store, folder
        Of the run.
    tell
        Called with (models measured, models in all).
    columns
        Metrics that trials don't measure.
    """
    quality = Objective(bench.task.metric.name, bench.task.metric.direction, True)
    columns = _possible(bench, columns)
    ordered = sorted(compressed(best), key=lambda r: quality.loss(r.value(quality.name)))
    fresh, final = folder / "front.new", folder / "front"
    shutil.rmtree(fresh, ignore_errors=True)
    tell(0, len(ordered) + 1)
    base = _point(bench, -1, baseline, store, folder / "baseline", None, columns)
    points = []
    for number, result in enumerate(ordered):
        tell(number + 1, len(ordered) + 1)
        points.append(_point(bench, number, result, store, fresh / str(number), base, columns))
    for point in (base, *points):
        assert point.path is not None
        text = json.dumps(point_json(point, point.path.parent), indent=1)
        write_atomically(point.path / "metrics.json", text.encode())
    split = "test" if bench.task.test is not None else "validation"
    write_cards(bench, base, points, split)
    old = folder / "front.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    moved = tuple(Point(p.id, p.result, p.final, final / str(p.id), p.flags) for p in points)
    return base, moved, split


def _possible(bench: Bench, columns: Sequence[Evaluator]) -> list[Evaluator]:
    """Return the columns; models that can't be deployed are timed in torch."""
    if not any(isinstance(m, Latency) and m.deployed for m in columns):
        return list(columns)
    try:
        with bench.threaded():
            bench.deployed_original()
    except ArtifactError:
        return [m.but(runtime="torch") if isinstance(m, Latency) and m.here else m for m in columns]
    return list(columns)


def _point(
    bench: Bench,
    number: int,
    result: Result,
    store: Store,
    folder: Path,
    base: Point | None,
    columns: Sequence[Evaluator],
) -> Point:
    """Write and measure one model."""
    data, result, flags = _file(bench, result, store)
    write_atomically(folder / FILE, data)
    write_atomically(folder / "recipe.json", json.dumps(result.recipe.to_json(), indent=1).encode())
    with bench.threaded():
        figures, failed = _measured(bench, result, folder, columns)
    if base is not None:
        flags += _flags(figures, base.final, Objective(bench.task.metric.name, bench.task.metric.direction))
    return Point(number, result, figures, folder, (*flags, *failed))


def _file(bench: Bench, result: Result, store: Store) -> tuple[bytes, Result, tuple[str, ...]]:
    """Return the bytes of a result's model, and the result that belongs to these bytes.

    A file that is missing (a session was killed before it could write it, or someone tidied up) is made again from
    recipe and seed. If that gives another file, the figures of the new one count, and the point says so.
    """
    path = store.path(result.recipe.digest)
    if path.is_file():
        return path.read_bytes(), result, ()
    again = bench.run(Job(result.number, result.recipe, result.seed, result.origin))
    if again.data is None:
        raise RuntimeError(f"trial {result.number} can't be repeated: {again.result.error}")
    if again.result.checksum == result.checksum:
        return again.data, result, ()
    return again.data, again.result, ("made again: the file is not the one that the search measured",)


def _measured(
    bench: Bench, result: Result, folder: Path, columns: Sequence[Evaluator]
) -> tuple[dict[str, Measurement], list[str]]:
    """Return the figures of a model that is read from its file, on the test split where there is one.

    What fails there keeps the search's figure, and a warning says so: hours of trials must not end in an error.
    """
    task, data = bench.task, (folder / FILE).read_bytes()
    split, held = task.test or task.validation, opened(data, bench.task.model)
    subject = replace(bench.subject(held.model, held.encodings), split=split, file_bytes=len(data))
    anew = [m for m in (*bench.metrics, *columns) if m.anew]
    figures = {k: m for k, m in result.measurements.items() if k not in {m.name for m in anew}}
    warnings = []
    for metric in (Quality(task.metric, _RESAMPLES), *anew, *(m for m in columns if not m.anew)):
        try:
            figures[metric.name] = metric.measure(subject)
        except Exception as error:
            warnings.append(f"{metric.name} could not be measured on {split.split}: {_reason(error)}")
    if any("deployed_bytes" in m.detail for m in figures.values()):
        warnings += _parted(subject)
    return figures, warnings


def _reason(error: Exception) -> str:
    """Return what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _parted(subject: Subject) -> list[str]:
    """Return a warning if the deployed file doesn't answer as the model does, or can't be asked."""
    from .deploy.export import compared  # noqa: PLC0415 - the exporter takes seconds to import

    inputs = tuple(x[:_EXAMPLES] for x in subject.split.first()[0])
    try:
        parity = compared(subject.model, Session(subject.deployed()), inputs, True)
    except Exception as error:  # such as an operator that only the runtime of the search has
        return [f"its deployed file could not be compared with it: {_reason(error)}"]
    if parity.agreement is None or parity.agreement >= _AGREE:
        return []
    return [f"deployed, it gives another answer for {1 - parity.agreement:.1%} of {parity.examples} examples here"]


def _flags(figures: dict[str, Measurement], base: Any, quality: Objective) -> tuple[str, ...]:
    flags = []
    timed = {name: m for name, m in figures.items() if m.relative}
    if "macs" in figures and figures["macs"].value < _FEWER_MACS * base["macs"].value:
        slow = [name for name, m in timed.items() if m.value > _FASTER]
        where = f" ({', '.join(slow)})" if len(timed) > 1 else ""
        flags += [f"fewer MACs but not faster{where}"] if slow else []
    if "size" in figures and figures["size"].value >= base["size"].value:
        flags.append("not smaller than the original")
    for name, figure in timed.items():
        if figure.detail.get("noisy") or figure.detail.get("contended"):
            flags.append(f"{name} is uncertain: the machine was busy")
    lengths = next((m.detail for m in timed.values() if "deployed_bytes" in m.detail), None)
    if lengths is not None and lengths["deployed_bytes"] >= lengths["baseline_deployed_bytes"]:
        flags.append("deployed, it is not smaller than the original")
    interval, reference = figures[quality.name].interval, base[quality.name].interval
    if interval and reference:
        worst = reference[0] if quality.direction == "maximize" else -reference[1]
        reach = interval[1] if quality.direction == "maximize" else -interval[0]
        if reach < worst:
            flags.append(f"{quality.name} is worse than the original's beyond chance")
    return tuple(flags)
