"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from ..evaluators.base import Measurement, evaluators
from ..evaluators.onnx_size import OnnxSize
from ..spaces.catalogue import in_stage_order, techniques
from .amounts import amount
from .front import Front, Point
from .report.figures import paired

_COLUMNS = ("size", OnnxSize.name, "macs", "memory")


def _cell(measurement: Measurement | None, fallback: float = math.nan) -> str:
    if measurement is None:
        return amount(fallback)
    return amount(measurement.value, measurement.unit)


def _quality(point: Point, name: str) -> str:
    found = point.final.get(name)
    if found is None:
        return amount(point.value(name))
    text = f"{found.value:.4f}"
    return text + (f" [{found.interval[0]:.3f}, {found.interval[1]:.3f}]" if found.interval else "")


def front_table(front: Front) -> Table:
    """Return the front, the baseline first."""
    quality = front.quality.name
    points = (front.baseline, *front.points)
    timed = list(dict.fromkeys(n for p in points for n, m in p.final.items() if m.relative))
    extra = [o.name for o in front.objectives if o.name not in (quality, *_COLUMNS, *timed)]
    table = Table(title=f"Pareto front · {quality} on {front.split} with 95 % interval", title_justify="left")
    table.caption = "\n".join([*(_timed(n, points) for n in timed), "! has a warning: see pick"])
    table.add_column("point", justify="right")
    table.add_column(quality)
    table.add_column("validation")
    deployed = [OnnxSize.name] if any(OnnxSize.name in p.final for p in points) else []
    for name in ("size", "smaller", *("ONNX" for _ in deployed), "MACs", *timed, "memory", *extra):
        table.add_column(name, justify="right")
    for point in points:
        ratio = point.ratios(front.baseline).get("size", {}).get("compression", math.nan)
        table.add_row(
            "base" if point.id < 0 else str(point.id) + (" !" if point.flags else ""),
            escape(_quality(point, quality)),
            f"{point.result.value(quality):.4f}",
            _cell(point.final.get("size"), point.value("size")),
            "" if point.id < 0 else f"{ratio:.1f}×",
            *[_cell(point.final.get(n)) for n in deployed],
            _cell(point.final.get("macs"), point.value("macs")),
            *[_cell(point.final.get(n)) for n in timed],
            _cell(point.final.get("memory")),
            *[_cell(point.final.get(n), point.value(n)) for n in extra],
            end_section=point.id < 0,
        )
    return table


def _timed(name: str, points: Sequence[Point]) -> str:
    """Return what a column of latencies is of."""
    detail = next((p.final[name].detail for p in points if name in p.final and p.final[name].detail), {})
    threads = detail.get("threads", 1)
    conditions = f"batch {detail.get('batch', 1)}, {threads} thread{'s' if threads != 1 else ''}"
    return f"{name}: {detail.get('runtime', '?')}, {conditions}, against the original"


def point_table(point: Point, front: Front) -> Table:
    """Return one point: its figures beside the baseline's, then its choices by layer."""
    title = f"point {point.id} · trial {point.result.number} · {point.recipe.digest}"
    table = Table(title=title if point.id >= 0 else "the original", title_justify="left")
    for name in ("", "this model", "original"):
        table.add_column(name)
    both, quality = (point, front.baseline), front.quality.name
    table.add_row(f"{quality} on {front.split}", *(escape(_quality(p, quality)) for p in both))
    if front.split != "validation":  # what limits and picking go by
        table.add_row(f"{quality} on validation", *(f"{p.result.value(quality):.4f}" for p in both))
    for name in dict.fromkeys((*point.final, *point.result.measurements)):
        if name != quality:
            found = point.final.get(name)
            own = escape(_cell(found, point.value(name)) + _beside(found))
            table.add_row(name, own, _cell(front.baseline.final.get(name)))
    table.add_section()
    sites = list(dict.fromkeys(s.site for s in point.recipe.steps))
    for site in sites:
        choices = [f"{s.technique} {_settings(s.params)}".strip() for s in in_stage_order(point.recipe.at(site))]
        table.add_row(escape(site), escape(" · ".join(choices)), "")
    return table


def _beside(found: Measurement | None) -> str:
    """Return what is to be known of a latency beside the ratio: its interval, and the two times."""
    if found is None:
        return ""
    between = " [{:.2f}, {:.2f}]".format(*found.interval) if found.relative and found.interval else ""
    timed = paired(found.value, found.detail)
    return between + (f" ({timed})" if timed else "")


def _settings(params: Sequence[tuple[str, object]]) -> str:
    return " ".join(f"{k}={v}" for k, v in params)


def techniques_table() -> Table:
    """Return every technique in stage order."""
    table = Table(title="techniques", title_justify="left")
    for name in ("technique", "stage", "layers", "needs", "what it does"):
        table.add_column(name, overflow="fold")
    for entry in techniques().values():
        table.add_row(
            entry.name,
            entry.stage.name.lower(),
            ", ".join(sorted(getattr(entry, "kinds", ()))),
            entry.data_need.value,
            escape(" ".join(str(getattr(entry, "summary", "")).split())),
        )
    return table


def metrics_table() -> Table:
    """Return every metric, the cheapest first."""
    table = Table(title="metrics (besides the task's own)", title_justify="left")
    for name in ("metric", "unit", "better", "what it measures"):
        table.add_column(name, overflow="fold")
    for entry in evaluators().values():
        better = "larger" if entry.direction == "maximize" else "smaller"
        table.add_row(entry.name, entry.unit, better, escape(" ".join(entry.summary.split())))
    return table
