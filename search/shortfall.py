"""What to say of a model that breaks a limit: of the nearest where none keeps all, of one by its final figures."""

from __future__ import annotations

from collections.abc import Sequence

from .amounts import amount
from .constraint import Constraint
from .front import Front
from .result import Objective, Result


def shortfall(front: Front, constraints: Sequence[Constraint]) -> str:
    """Return a sentence on the limits that the nearest point breaks, by the figures of the search."""
    baseline, quality = front.baseline.result, front.quality
    point = min(
        front.points, key=lambda p: sum(max(0.0, c.violation(p.result, baseline, quality)) for c in constraints)
    )
    misses = []
    for constraint in constraints:
        if constraint.violation(point.result, baseline, quality) > 0:
            unit = front.baseline.result.measurements[constraint.metric].unit
            has, excess = (amount(x, unit) for x in constraint.missed_by(point.result, baseline, quality))
            misses.append(f"{constraint.text} by {excess} (it had {has} in the search)")
    if not misses:
        return "No compressed model ran to its end, so none keeps the limits; the original does."
    return f"No model that was tried keeps all limits. The nearest, point {point.id}, misses {' and '.join(misses)}."


def broken_by(constraint: Constraint, result: Result, baseline: Result, quality: Objective, split: str) -> str:
    """Return a warning if a model breaks a limit by its final figures, whatever it had in the search; or "".

    Parameters
    ----------
    result, baseline
        With the final figures.
    split
        The data that these are of.
    """
    measured = result.measurements.get(constraint.metric)
    if measured is None or constraint.metric not in baseline.measurements:
        return ""
    has, excess = constraint.missed_by(result, baseline, quality)
    if not excess > 0:
        return ""
    anew = f" on {split} data" if constraint.metric == quality.name else ""
    return f"breaks the limit {constraint.text!r}{anew}: {amount(has, measured.unit)}"


def broken_in_search(constraint: Constraint, result: Result, baseline: Result, quality: Objective) -> str:
    """Return a warning if a model broke a limit by the figures of the search, or ""."""
    broken = broken_by(constraint, result, baseline, quality, "validation")
    return f"{broken} in the search" if broken else ""
