"""From a front to the data of its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...spaces.catalogue import in_stage_order
from ...spaces.errors import RunError
from ..front import Front, Point
from ..pareto import nondominated, scaled_hypervolume
from ..result import Result
from ..saved import behind
from ..store import write_atomically
from .page import render

FILE = "report.html"

#: Facts that it takes to repeat a run, in the order shown.
_REPRODUCE = (
    "seed",
    "task",
    "space",
    "objectives",
    "constraints",
    "sampler",
    "racing",
    "budget",
    "machine",
    "versions",
)

#: Points of the hypervolume curve: more can't be told apart on a screen.
_CURVE = 200


def report_data(front: Front, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `render` needs; ``about`` are the facts that ``front.json`` keeps of the run."""
    units = {k: m.unit for k, m in front.baseline.final.items()}
    shown = {p.result.recipe.digest for p in front}
    folder = front.folder or Path()
    return {
        "name": about.get("name", ""),
        "created": about.get("created", ""),
        "version": about.get("versions", {}).get("paretopress", ""),
        "objectives": [
            {"name": o.name, "direction": o.direction, "unit": units.get(o.name, "")} for o in front.objectives
        ],
        "quality": front.quality.name,
        "quality_direction": front.quality.direction,
        "larger": front.larger,
        "split": front.split,
        "baseline": _point(front.baseline, front, folder),
        "points": [_point(p, front, folder) for p in front],
        "trials": [_trial(r, shown) for r in front.results],
        "hypervolume": _curve(front),
        "sites": about.get("sites", []),
        "reproduce": {
            "command": about.get("command", ""),
            **{k: about[k] for k in _REPRODUCE if k in about},
        },
        "infeasible": "" if front.feasible else front.notes[0],
        "notes": [*filter(None, [behind(front, about)]), *front.notes[0 if front.feasible else 1 :]],
        "failures": [{"reason": r, "count": n} for r, n in Counter(r.error for r in front.errors).most_common()],
    }


def _point(point: Point, front: Front, folder: Path) -> dict[str, Any]:
    layers: dict[str, list[dict[str, Any]]] = {}
    for step in in_stage_order(point.recipe.steps):
        layers.setdefault(step.site, []).append({"technique": step.technique, "params": step.options})
    return {
        "id": point.id,
        "trial": point.result.number,
        "digest": point.recipe.digest,
        "path": str(point.path) if point.path else "",
        "pick": f"paretopress pick {folder} --point {point.id}",
        "export": f"paretopress export {folder} --point {point.id} --out point{point.id}.onnx",
        "flags": list(point.flags),
        "search": {k: m.to_json() for k, m in point.result.measurements.items()},
        "final": {k: m.to_json() for k, m in point.final.items()},
        "ratios": point.ratios(front.baseline),
        "layers": layers,
    }


def _trial(result: Result, shown: set[str]) -> dict[str, Any]:
    return {
        "number": result.number,
        "origin": result.origin,
        "status": result.status,
        "error": result.error,
        "values": {k: m.value for k, m in result.measurements.items()},
        "seconds": result.seconds,
        "front": result.recipe.digest in shown,
    }


def _curve(front: Front) -> list[list[float]]:
    """Return (trials, hypervolume) after each trial, or each few where there are many."""
    good = list(front.results)
    step = max(1, len(good) // _CURVE)
    curve: list[list[float]] = []
    best: list[Result] = []
    for start in range(0, len(good), step):
        best += [r for r in good[start : start + step] if r.status == "ok"]
        rows = [[o.loss(r.value(o.name)) for o in front.objectives] for r in best]
        best = [best[i] for i in nondominated(rows)]
        volume = scaled_hypervolume(best, front.objectives, front.baseline.result)
        curve.append([min(start + step, len(good)), volume])
    return curve


def write_report(front: Front, about: Mapping[str, Any], folder: Path) -> Path:
    """Write the report page into the run folder and return its path.

    Raises
    ------
    RunError
        If it can't be written.
    """
    path = folder / FILE
    try:
        write_atomically(path, render(report_data(front, about)).encode())
    except RunError as error:
        raise RunError(
            f"{str(error).partition('. ')[0]}. The front and its models are complete; write the page when it can "
            f"be: paretopress report {folder}"
        ) from error
    return path
