"""The answer: the non-dominated results, how good they are together, and how to pick one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from ..evaluators.base import Measurement
from ..spaces.errors import RunError, SettingError, nearest
from ..spaces.metric import ACCURACY
from ..spaces.recipe import Recipe
from .amounts import amount
from .artifact import load
from .pareto import scaled_hypervolume
from .result import Objective, Result

if TYPE_CHECKING:
    from .deploy.export import Exported


@dataclass(frozen=True, repr=False)
class Point:
    """One model of the front.

    Attributes
    ----------
    id
        Its number in the front, from 0, by falling quality.
    result
        The trial that found it, with figures measured on validation.
    final
        Metric name -> figure measured at the end (on test where the task has a test split).
    path
        Folder with ``model.safetensors``, or None if the run kept no files.
    flags
        Warnings a reader must see, e.g. "fewer MACs but not faster".
    """

    id: int
    result: Result
    final: Mapping[str, Measurement] = field(default_factory=dict)
    path: Path | None = None
    flags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Point({self.summary({**self.final, **self.result.measurements})})"

    def summary(self, metrics: Iterable[str]) -> str:
        """Return the point's number, what it has of some metrics, and its warnings."""
        measured = {**self.result.measurements, **self.final}
        figures = [f"{m} {amount(measured[m].value, measured[m].unit)}" for m in metrics if m in measured]
        return f"{self.id}: {', '.join(figures)}" + "".join(f" ! {flag}" for flag in self.flags)

    @property
    def recipe(self) -> Recipe:
        """What was done to the model."""
        return self.result.recipe

    def value(self, name: str) -> float:
        """Return the final figure of a metric, or the search's where there is no final one; NaN if neither."""
        return self.final[name].value if name in self.final else self.result.value(name)

    def ratios(self, baseline: Point) -> dict[str, dict[str, float]]:
        """Return, for each cost, the compression rate a/a* and the space saving 1 - a*/a, and for latencies the
        speed-up s/s*: the three criteria of Cheng et al. (2017).
        """
        found: dict[str, dict[str, float]] = {}
        for name in ("size", "onnx_size", "macs", "bops", "parameters", "memory"):
            value, base = self.value(name), baseline.value(name)
            if value > 0 and base > 0:
                found[name] = {"compression": base / value, "saving": 1 - value / base}
        for name, measured in {**self.result.measurements, **self.final}.items():
            if measured.relative and measured.value > 0:
                found[name] = {"speedup": 1 / measured.value}
        return found

    def load(self, model: nn.Module | None = None) -> nn.Module:
        """Return the compressed model, in eval mode.

        Parameters
        ----------
        model
            The original model, needed only where the file says that its structure could not be traced.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged, or needs ``model``.
        """
        if self.path is None:
            raise RunError(f"point {self.id}: this front was not written to a folder, so there is no file to load.")
        return load(self.path, model)

    def export(
        self,
        out: Path | str,
        format: Literal["onnx", "torch"] = "onnx",  # noqa: A002 - as users know it
        *,
        inputs: Tensor | Sequence[Any] = (),
        model: nn.Module | None = None,
        overwrite: bool = False,
    ) -> Exported:
        """Write the compressed model as a file for other runtimes, and check its outputs.

        Parameters
        ----------
        out
            The file.
        format
            "onnx": packed weights, for ONNX Runtime. "torch": a program of `torch.export`, its weights dense.
        inputs
            What to compare outputs on, e.g. a batch of the data; without it, random numbers.
        model
            As for `load`.
        overwrite
            Whether a file that is there may be replaced.

        Raises
        ------
        SettingError
            If ``out`` can't be the file's name, or ``inputs`` isn't what the model takes.
        ArtifactError
            If the model can't be loaded or exported.
        """
        from .deploy.export import export  # noqa: PLC0415 - the exporter takes seconds to import

        if self.path is None:
            raise RunError(f"point {self.id}: this front was not written to a folder, so there is no file to export.")
        return export(self.path, out, format, model=model, inputs=inputs, overwrite=overwrite)


@dataclass(frozen=True, repr=False)
class Front:
    """The Pareto front of compressed models.

    Attributes
    ----------
    objectives
        What was improved.
    quality
        The name of the task's own metric.
    baseline
        The original model, measured like the points.
    points
        By falling quality.
    results
        Every trial of the run, failed ones too.
    split
        Where the final figures come from: "test" or "validation".
    feasible
        Whether the points meet the constraints; if not they are the nearest ones.
    notes
        What the reader should know of this run; if it isn't feasible, first which limits the nearest point misses.
    folder
        The run's folder.
    larger
        Metrics that are better when larger, beside the objectives.
    """

    objectives: tuple[Objective, ...]
    quality: Objective
    baseline: Point
    points: tuple[Point, ...]
    results: tuple[Result, ...] = ()
    split: str = "validation"
    feasible: bool = True
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    larger: tuple[str, ...] = ()

    def __repr__(self) -> str:
        place = f", {self.folder}" if self.folder is not None else ""
        points = "1 point" if len(self) == 1 else f"{len(self)} points"
        trials = "1 trial" if len(self.results) == 1 else f"{len(self.results)} trials"
        head = f"Front({points} of {trials}, hypervolume {self.hypervolume:.3f}{place})"
        missed = [] if self.feasible else [f"! {note}" for note in self.notes[:1]]
        metrics = dict.fromkeys([self.quality.name, *(o.name for o in self.objectives), "size"])
        return "\n  ".join([head, *missed, *(f"point {p.summary(metrics)}" for p in self.points)])

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Point:
        return self.points[index]

    @property
    def errors(self) -> tuple[Result, ...]:
        """The trials that failed, with their reasons."""
        return tuple(r for r in self.results if r.status == "failed")

    @property
    def hypervolume(self) -> float:
        """See `scaled_hypervolume`; on the figures of the search."""
        return scaled_hypervolume((p.result for p in self.points), self.objectives, self.baseline.result)

    def _direction(self, metric: str) -> Objective:
        for objective in (*self.objectives, self.quality):
            if objective.name == metric:
                return objective
        known = {k for p in (self.baseline, *self.points) for k in (*p.final, *p.result.measurements)}
        if metric not in known:
            raise SettingError("minimise", metric, "was not measured in this run", nearest(metric, known))
        return Objective(metric, "maximize" if metric in self.larger else "minimize")

    def best(self, metric: str | None = None) -> Point:
        """Return the point that is best in one metric (the task's own by default).

        Raises
        ------
        RunError
            If the front is empty.
        SettingError
            If the metric was not measured.
        """
        return self._best(self.points, metric or self.quality.name)

    def _best(self, points: Sequence[Point], metric: str) -> Point:
        if not points:
            raise RunError("the front is empty: no trial succeeded. See the errors in the journal and the report.")
        objective = self._direction(metric)
        measured = [p for p in points if not math.isnan(p.value(metric))]
        if not measured:
            raise SettingError("minimise", metric, "was not measured for these points")
        return min(
            measured,
            key=lambda p: (objective.loss(p.value(metric)), self.quality.loss(p.value(self.quality.name))),
        )

    def drop(self, point: Point) -> float:
        """Return how much worse than the baseline's the point's quality is (0.01 = one point of accuracy).

        Judged on validation, as the search did: picking on test would bias the test figure.
        """
        name = self.quality.name
        return self.quality.loss(point.result.value(name)) - self.quality.loss(self.baseline.result.value(name))

    def pick(
        self,
        *,
        max_accuracy_drop: float | None = None,
        minimise: str = "size",
        at_most: Mapping[str, float] | None = None,
    ) -> Point:
        """Return the point that is smallest in one metric among those good enough.

        Parameters
        ----------
        max_accuracy_drop
            Largest acceptable loss of the task's metric against the baseline, in the metric's own units, on
            validation data.
        minimise
            The metric to minimise, e.g. "size", "macs", "latency".
        at_most
            Metric -> upper limit.

        Raises
        ------
        RunError
            If no point is good enough; the message names the nearest one.
        SettingError
            If a metric was not measured, or the drop is not a number.
        """
        if not isinstance(minimise, str):
            raise SettingError("minimise", minimise, "must be a metric's name", "E.g. 'size'.")
        points = list(self.points)
        if max_accuracy_drop is not None:
            wrong = isinstance(max_accuracy_drop, bool) or not isinstance(max_accuracy_drop, int | float)
            if wrong or not math.isfinite(max_accuracy_drop):
                raise SettingError("max_accuracy_drop", max_accuracy_drop, "must be a finite number", "E.g. 0.01.")
            if self.quality.name == ACCURACY.name and abs(max_accuracy_drop) > 1:
                advice = f"Did you mean {max_accuracy_drop / 100:g}, which is {max_accuracy_drop:g} points?"
                raise SettingError("max_accuracy_drop", max_accuracy_drop, "is more than an accuracy can be", advice)
            points = [p for p in points if self.drop(p) <= max_accuracy_drop + 1e-12]
        if not points and self.points:
            nearest_point = min(self.points, key=self.drop)
            raise RunError(
                f"no point of the front loses at most {max_accuracy_drop:g} of {self.quality.name} on validation data, "
                f"which picks go by; the best one, point {nearest_point.id}, loses {self.drop(nearest_point):.4g}. "
                "Allow more, or search longer."
            )
        for metric, limit in (at_most or {}).items():
            self._direction(metric)
            kept = [p for p in points if p.value(metric) <= limit]
            if points and not kept:
                lowest = min(p.value(metric) for p in points)
                raise RunError(f"no point that is good enough has {metric} <= {limit:g}; the lowest is {lowest:.6g}.")
            points = kept
        return self._best(points, minimise)

    def named(self, name: str) -> Point:
        """Return a point by its number as text, or the original by ``baseline``.

        Raises
        ------
        SettingError
            If there is none.
        """
        found = {str(p.id): p for p in self.points} | {"baseline": self.baseline}
        if name not in found:
            rule = f"the front has points 0 to {len(self) - 1}"
            raise SettingError("point", name, rule, "Give one of them, or 'baseline' for the original.")
        return found[name]

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary a point, ready for a table or a data frame: final figures by name."""
        rows = []
        for point in self.points:
            names = list(dict.fromkeys((*point.final, *point.result.measurements)))
            row: dict[str, Any] = {"point": point.id, "trial": point.result.number}
            row.update({name: point.value(name) for name in names})
            row["drop"] = self.drop(point)
            row["flags"] = "; ".join(point.flags)
            rows.append(row)
        return rows
