"""The end of a run: the front's models as files, measured again on data that the search never saw."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..evaluators.accuracy import Quality
from ..evaluators.base import Evaluator, Measurement, evaluators
from ..evaluators.latency import Latency
from ..evaluators.onnx_size import OnnxSize
from ..spaces.errors import RunError
from .appraisal import Parity, Unmeasured
from .artifact import FILE
from .card import write_cards
from .constraint import Constraint
from .executor import Lost, Workers
from .front import Point
from .pareto import compressed
from .result import Objective, Result
from .saved import point_json
from .shortfall import broken_by, broken_in_search
from .store import Store, write_atomically
from .trial import Bench, Finished, Job

#: Bootstrap resamples for the interval of a metric that has no closed form.
_RESAMPLES = 200
#: A deployed file that gives the model's answer for fewer examples than this isn't the model.
_AGREE = 0.99
#: Fewer MACs than this share of the baseline's should take no more than this share of its time.
_FEWER_MACS, _FASTER = 0.95, 0.95
#: A metric that cost so many workers isn't tried any more.
_LOSSES = 2
#: Seconds after which waiting for a trial that is run again looks at Ctrl-C.
_TICK = 0.5


@dataclass(frozen=True)
class Conclusion:
    """What a run ends with.

    Attributes
    ----------
    base, points
        The original and the front, with their figures and folders.
    split
        What quality was measured on.
    notes
        Which results are no points, and why.
    """

    base: Point
    points: tuple[Point, ...]
    split: str
    notes: tuple[str, ...]


def conclude(
    bench: Bench,
    workers: Workers,
    best: Sequence[Result],
    baseline: Result,
    store: Store,
    folder: Path,
    tell: Callable[[int, int], None],
    columns: Sequence[Evaluator] = (),
    constraints: Sequence[Constraint] = (),
) -> Conclusion:
    """Write the front's files and measure them.

    One figure is taken at a time, by a worker, within the limits of a trial. One that can't be taken leaves that of the
    search in its place, with a warning: hours of trials must not end in an error.

    Parameters
    ----------
    bench
        Of the run: its task, metrics and objectives.
    workers
        Measure, and make a model again whose file is missing.
    best
        The non-dominated results. The baseline is left out unless it is the only one.
    baseline, store, folder
        Of the run.
    tell
        Called with (models measured, models in all).
    columns
        Metrics that trials don't measure.
    constraints
        The search's limits. A point whose final figures break one says so.

    Raises
    ------
    RunError
        If nothing can be written or measured any more, or the original's file is missing and can't be made again.
    """
    workers.quiet()
    quality = Objective(bench.task.metric.name, bench.task.metric.direction, True)
    ordered = sorted(compressed(best), key=lambda r: quality.loss(r.value(quality.name)))
    fresh, final = folder / "front.new", folder / "front"
    shutil.rmtree(fresh, ignore_errors=True)
    tell(0, len(ordered) + 1)
    made = _Points(bench, workers, store, list(columns), tuple(constraints))
    base = made.base(baseline, folder / "baseline")
    points: list[Point] = []
    notes: list[str] = []
    for number, result in enumerate(ordered):
        tell(number + 1, len(ordered) + 1)
        try:
            points.append(made.point(len(points), result, fresh / str(len(points)), base))
        except _CannotRepeatError as error:
            notes.append(f"{error}; it would have been on the front.")
    for point in (base, *points):
        assert point.path is not None
        text = json.dumps(point_json(point, point.path.parent), indent=1)
        write_atomically(point.path / "metrics.json", text.encode())
    write_cards(bench, base, points, made.split)
    old = folder / "front.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    if points:
        fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    for name, reason in made.failed.items():
        if not any(name in point.final for point in (base, *points)):
            notes.append(f"{name} could not be measured for any model: {reason}")
    moved = tuple(Point(p.id, p.result, p.final, final / str(p.id), p.flags) for p in points)
    return Conclusion(base, moved, made.split, tuple(notes))


class _CannotRepeatError(Exception):
    """A result's file is missing, and can't be made again."""


@dataclass
class _Points:
    """Writes and measures models.

    ``lost`` counts the workers that metrics cost, ``given_up`` holds those that aren't tried any more and ``failed``
    those that could not be measured for some model, with the first reason. ``split`` is what quality is measured on.
    """

    bench: Bench
    workers: Workers
    store: Store
    columns: list[Evaluator]
    constraints: tuple[Constraint, ...]
    lost: Counter[str] = field(default_factory=Counter)
    given_up: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    split: str = ""

    def __post_init__(self) -> None:
        self.split = self._last

    @property
    def _last(self) -> str:
        """The split that nothing has been chosen by, if there is one."""
        return "test" if self.bench.task.test is not None else "validation"

    def base(self, result: Result, folder: Path) -> Point:
        """Return the original. If its quality can't be measured there is nothing to compare with, and that of no other
        model is.
        """
        try:
            data, result, flags = self._file(result)
        except _CannotRepeatError as error:
            raise RunError(f"the original model's file is missing: {error}. What was recorded is kept.") from error
        figures, failed = self._measured(data, result)
        return self._written(-1, data, result, folder, figures, (*flags, *failed))

    def point(self, number: int, result: Result, folder: Path, base: Point) -> Point:
        """Return a point of the front."""
        data, result, flags = self._file(result)
        figures, failed = self._measured(data, result)
        quality = Objective(self.bench.task.metric.name, self.bench.task.metric.direction)
        final = replace(result, measurements=figures), replace(base.result, measurements=base.final)
        broken = [
            broken_by(c, *final, quality, self.split) or broken_in_search(c, result, base.result, quality)
            for c in self.constraints
        ]
        flags = (*flags, *filter(None, broken), *_flags(figures, base.final, quality), *failed)
        return self._written(number, data, result, folder, figures, flags)

    def _written(
        self, number: int, data: bytes, result: Result, folder: Path, figures: dict[str, Measurement],
        flags: tuple[str, ...],
    ) -> Point:  # fmt: skip
        write_atomically(folder / FILE, data)
        write_atomically(folder / "recipe.json", json.dumps(result.recipe.to_json(), indent=1).encode())
        return Point(number, result, figures, folder, flags)

    def _file(self, result: Result) -> tuple[bytes, Result, tuple[str, ...]]:
        """Return the bytes of a result's model, and the result that belongs to these bytes.

        A file that is missing (a session was killed before it could write it, or someone tidied up) or damaged is made
        again from recipe and seed. If that gives another file, the figures of the new one count, and the point says so.
        """
        path = self.store.path(result.recipe.digest)
        if path.is_file():
            data = path.read_bytes()
            if result.is_of(data):
                return data, result, ()
        again = self._repeated(Job(result.number, result.recipe, result.seed, result.origin))
        if isinstance(again, Lost) or again.data is None:
            reason = again.reason if isinstance(again, Lost) else again.result.error
            raise _CannotRepeatError(f"the model of trial {result.number} can't be made again: {reason}")
        if again.result.checksum == result.checksum:
            return again.data, result, ()
        return again.data, again.result, ("made again: the file is not the one that the search measured",)

    def _repeated(self, job: Job) -> Finished | Lost:
        for attempt in range(_LOSSES):
            self.workers.submit(job, [])
            ended: list[Finished | Lost] = []
            while not ended:
                ended = self.workers.wait(_TICK)
            if not isinstance(ended[0], Lost) or ended[0].fate == "failed" or attempt == _LOSSES - 1:
                break
        return ended[0]

    def _measured(self, data: bytes, result: Result) -> tuple[dict[str, Measurement], list[str]]:
        """Return the figures of a model, and warnings of those that couldn't be taken."""
        anew = [m for m in (*self.bench.metrics, *self.columns) if m.anew]
        figures = {k: m for k, m in result.measurements.items() if k not in {m.name for m in anew}}
        quality, warnings = Quality(self.bench.task.metric, _RESAMPLES), []
        for metric in [quality, *anew, *(m for m in self.columns if not m.anew)]:
            found = self._measure(data, metric)
            if isinstance(found, Unmeasured) and result.recipe.is_baseline and metric in self.columns:
                other = self._otherwise(data, metric, found)
                if other is None:
                    continue
                found = other
            if isinstance(found, Measurement):
                figures[metric.name] = found
                continue
            self.failed.setdefault(metric.name, found.reason)
            warnings.append(f"{metric.name} could not be measured on {self._last}: {found.reason}")
            if metric is quality and result.recipe.is_baseline:
                self.split, self.given_up[metric.name] = "validation", found.reason
        if any(m.deployed and m.name in figures for m in (*self.bench.metrics, *self.columns)):
            warnings += self._parted(data)
        return figures, warnings

    def _otherwise(self, data: bytes, metric: Evaluator, found: Unmeasured) -> Measurement | Unmeasured | None:
        """Return a figure of the original in another way: models that can't be deployed are timed in torch. None for
        one that nobody asked for: the column is left out, and a note says why.
        """
        if not metric.deployed:
            return found
        if not isinstance(metric, Latency) and metric is evaluators().get(metric.name):
            self.columns.remove(metric)
            self.failed[metric.name] = found.reason
            return None
        if not (isinstance(metric, Latency) and metric.here):
            return found
        in_torch = metric.but(runtime="torch")
        self.columns[self.columns.index(metric)] = in_torch
        return self._measure(data, in_torch)

    def _measure(self, data: bytes, metric: Evaluator) -> Measurement | Unmeasured:
        name = metric.name
        if name in self.given_up:
            return Unmeasured(f"it was not tried again after this: {self.given_up[name]}")
        found = self.workers.measure(data, metric)
        if isinstance(found, Unmeasured) and found.lost:
            self.lost[name] += 1
            if self.lost[name] >= _LOSSES:
                self.given_up[name] = found.reason
        return found

    def _parted(self, data: bytes) -> list[str]:
        """Return a warning if the deployed file doesn't answer as the model does, or can't be asked."""
        found = self._measure(data, Parity())
        if isinstance(found, Unmeasured):  # such as an operator that only the runtime of the search has
            return [f"its deployed file could not be compared with it: {found.reason}"]
        if found.value >= _AGREE:
            return []
        return [f"deployed, it gives another answer for {1 - found.value:.1%} of {found.repeats} examples here"]


def _flags(figures: dict[str, Measurement], base: Any, quality: Objective) -> tuple[str, ...]:
    flags = []
    timed = {name: m for name, m in figures.items() if m.relative}
    if "macs" in figures and figures["macs"].value < _FEWER_MACS * base["macs"].value:
        slow = [n for n, m in timed.items() if (m.interval[1] if m.interval is not None else m.value) >= 1]
        hardly = [n for n, m in timed.items() if n not in slow and m.value > _FASTER]
        for names, how in ((slow, "not"), (hardly, "hardly")):
            where = f" ({', '.join(names)})" if len(timed) > 1 else ""
            flags += [f"fewer MACs but {how} faster{where}"] if names else []
    if "size" in figures and figures["size"].value >= base["size"].value:
        flags.append("not smaller than the original")
    for name, figure in timed.items():
        if figure.detail.get("noisy") or figure.detail.get("contended"):
            flags.append(f"{name} is uncertain: the machine was busy")
    name = OnnxSize.name
    if name in figures and name in base and figures[name].value >= base[name].value:
        flags.append("deployed, it is not smaller than the original")
    interval, reference = figures[quality.name].interval, base[quality.name].interval
    if interval and reference:
        worst = reference[0] if quality.direction == "maximize" else -reference[1]
        reach = interval[1] if quality.direction == "maximize" else -interval[0]
        if reach < worst:
            flags.append(f"{quality.name} is worse than the original's beyond chance")
    return tuple(flags)
