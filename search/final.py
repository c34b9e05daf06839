"""The end of a run: the front's models as files, measured again on data that the search never saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..evaluators.accuracy import Quality
from ..evaluators.base import Evaluator, Measurement, Subject, evaluators
from ..spaces.errors import RunError
from .artifact import FILE, load
from .front import Front, Point
from .journal import read
from .result import Objective, Result
from .store import Store, write_atomically
from .trial import Bench

FRONT = "front.json"
SCHEMA = 1

#: Bootstrap resamples for the interval of a metric that has no closed form.
_RESAMPLES = 200
#: Metrics that depend on the machine or the split, and are measured anew; all others are exact and kept.
_MEASURED = ("latency", "memory")
#: Fewer MACs than this share of the baseline's should be faster than it by this factor, or the point is flagged.
_FEWER_MACS, _FASTER = 0.95, 0.97


def conclude(
    bench: Bench,
    best: Sequence[Result],
    baseline: Result,
    store: Store,
    folder: Path,
    tell: Callable[[int, int], None],
) -> tuple[Point, tuple[Point, ...], str]:
    """Write the front's files and measure them; return the baseline, the points and the split.

    Parameters
    ----------
    bench
        To rebuild a model whose file is missing, and for the task.
    best
        The non-dominated results. The baseline is left out unless it is the only one.
    baseline, store, folder
        Of the run.
    tell
        Called with (models measured, models in all).
    """
    compressed = [r for r in best if not r.recipe.is_baseline] or list(best)
    quality = Objective(bench.task.metric.name, bench.task.metric.direction)
    ordered = sorted(compressed, key=lambda r: quality.loss(r.value(quality.name)))
    fresh, final = folder / "front.new", folder / "front"
    shutil.rmtree(fresh, ignore_errors=True)
    for number, result in enumerate(ordered):
        _write_model(bench, result, store, fresh / str(number))
    _write_model(bench, baseline, store, folder / "baseline")
    old = folder / "front.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    if ordered:
        fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    split = "test" if bench.task.test is not None else "validation"
    tell(0, len(ordered) + 1)
    with bench.threaded():
        base = Point(-1, baseline, _measured(bench, baseline, folder / "baseline"), folder / "baseline")
        points = []
        for number, result in enumerate(ordered):
            tell(number + 1, len(ordered) + 1)
            path = final / str(number)
            figures = _measured(bench, result, path)
            points.append(Point(number, result, figures, path, _flags(figures, base.final, quality)))
    for point in (base, *points):
        assert point.path is not None
        text = json.dumps(_point_json(point, folder), indent=1)
        write_atomically(point.path / "metrics.json", text.encode())
    return base, tuple(points), split


def _write_model(bench: Bench, result: Result, store: Store, folder: Path) -> None:
    path = store.path(result.recipe.digest)
    # A file that is missing (an earlier session was killed, or someone tidied up) is made again from the seed.
    if path.is_file():
        data = path.read_bytes()
    else:
        with bench.threaded():
            data = bench.compress(result.recipe, result.seed)[0].data
    write_atomically(folder / FILE, data)
    write_atomically(folder / "recipe.json", json.dumps(result.recipe.to_json(), indent=1).encode())


def _measured(bench: Bench, result: Result, folder: Path) -> dict[str, Measurement]:
    """Return the figures of a model that is read from its file, on the test split where there is one."""
    task = bench.task
    model = load(folder, task.model)
    subject = Subject(
        model, task, task.test or task.validation, (folder / FILE).stat().st_size, baseline=bench.original
    )
    again: list[Evaluator] = [Quality(task.metric, _RESAMPLES)]
    again += [e for name, e in evaluators().items() if name in _MEASURED]
    figures = {k: m for k, m in result.measurements.items() if k not in _MEASURED}
    figures.update({e.name: e.measure(subject) for e in again})
    return figures


def _flags(figures: dict[str, Measurement], base: Any, quality: Objective) -> tuple[str, ...]:
    flags = []
    if {"macs", "latency"} <= figures.keys():
        fewer = figures["macs"].value < _FEWER_MACS * base["macs"].value
        if fewer and figures["latency"].value > _FASTER:
            flags.append("fewer MACs but not faster")
    if "size" in figures and figures["size"].value >= base["size"].value:
        flags.append("not smaller than the original")
    if "latency" in figures and figures["latency"].detail.get("noisy"):
        flags.append("latency is uncertain: the machine was busy")
    interval, reference = figures[quality.name].interval, base[quality.name].interval
    if interval and reference:
        worst = reference[0] if quality.direction == "maximize" else -reference[1]
        reach = interval[1] if quality.direction == "maximize" else -interval[0]
        if reach < worst:
            flags.append(f"{quality.name} is below the original's beyond chance")
    return tuple(flags)


def _point_json(point: Point, folder: Path) -> dict[str, Any]:
    return {
        "id": point.id,
        "trial": point.result.to_json(),
        "final": {k: m.to_json() for k, m in point.final.items()},
        "path": str(point.path.relative_to(folder)) if point.path else None,
        "flags": list(point.flags),
    }


def _point_from(data: dict[str, Any], folder: Path) -> Point:
    path = folder / data["path"] if data["path"] else None
    if path is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the path {data['path']!r} leaves the run folder")
    return Point(
        int(data["id"]),
        Result.from_json(data["trial"]),
        {k: Measurement.from_json(m) for k, m in data["final"].items()},
        path,
        tuple(data["flags"]),
    )


def save_front(front: Front, folder: Path, about: dict[str, Any]) -> None:
    """Write ``front.json``, which `load_front` reads; ``about`` holds what the report says of the run."""
    document = {
        "schema": SCHEMA,
        "objectives": [[o.name, o.direction] for o in front.objectives],
        "quality": [front.quality.name, front.quality.direction],
        "split": front.split,
        "feasible": front.feasible,
        "notes": list(front.notes),
        "about": about,
        "baseline": _point_json(front.baseline, folder),
        "points": [_point_json(p, folder) for p in front.points],
    }
    write_atomically(folder / FRONT, json.dumps(document, indent=1).encode())


def load_front(folder: Path) -> tuple[Front, dict[str, Any]]:
    """Return the front of a finished run, and what is known about the run.

    Raises
    ------
    RunError
        If there is none, or it can't be read.
    """
    _, lines = read(folder)
    path = folder / FRONT
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise RunError(f"{path}: schema {data['schema']!r} is not {SCHEMA}. Use the paretopress that wrote it.")
        front = Front(
            tuple(Objective(n, d) for n, d in data["objectives"]),
            Objective(*data["quality"]),
            _point_from(data["baseline"], folder),
            tuple(_point_from(p, folder) for p in data["points"]),
            tuple(result for result, _ in lines),
            str(data["split"]),
            bool(data["feasible"]),
            tuple(data["notes"]),
            folder,
        )
        about = dict(data["about"])
    except FileNotFoundError:
        raise RunError(
            f"{folder}: the run has {len(lines)} trials but no front yet. Finish it with: paretopress resume {folder}"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{path}: can't be read ({error}). Write it again with: paretopress resume {folder}") from error
    return front, about


def open_front(folder: Path | str) -> Front:
    """Return the front of a finished run; see `load_front` for the errors."""
    return load_front(Path(folder))[0]
