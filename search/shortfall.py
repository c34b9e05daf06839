"""What to say when no model keeps all limits: which of them the nearest model misses, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from .constraint import Constraint
from .front import Front
from .tables import amount


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
    return f"No model keeps all limits. The nearest one, point {point.id}, misses {' and '.join(misses)}."
