"""A limit that a front point must keep, written as people say it: ``size <= 300 kB``, ``accuracy drop <= 0.01``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..spaces.errors import SettingError
from .result import Objective, Result

_FORM = re.compile(
    r"\s*(?P<metric>[A-Za-z_]\w*)(?P<drop>\s+drop)?\s*(?P<sign><=|>=)"
    r"\s*(?P<number>[-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s*(?P<unit>x|%|k|M|G|kB|MB|GB|B)?\s*"
)
_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "%": 0.01}


@dataclass(frozen=True)
class Constraint:
    """A limit on one metric.

    Attributes
    ----------
    text
        As the user wrote it.
    metric
        Its name.
    sign
        ``<=`` or ``>=``.
    limit
        The number.
    drop
        Whether the limit is on how much worse than the baseline the metric is.
    unit
        As written. ``x`` makes the limit a multiple of the baseline's value, and so does ``%`` for a cost; for the
        task's own metric, ``%`` is a hundredth.
    """

    text: str
    metric: str
    sign: str
    limit: float
    drop: bool = False
    unit: str = ""

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read ``metric <= number``, ``metric drop <= number``, ``metric <= 0.5x`` (of the baseline).

        The number may carry k, M, G, B, kB, MB, GB or %.


        Raises
        ------
        SettingError
            If the text has another form.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        try:
            number = float(match["number"]) if match else None
        except ValueError:
            number = None
        if match is None or number is None:
            raise SettingError(
                "constraint",
                text,
                "must read like 'size <= 300 kB', 'accuracy drop <= 0.01' or 'latency <= 0.5x'",
            )
        unit = match["unit"] or ""
        limit = number * _FACTORS.get(unit, 1.0)
        return cls(text.strip(), match["metric"], match["sign"], limit, bool(match["drop"]), unit)

    def violation(self, result: Result, baseline: Result, quality: Objective) -> float:
        """Return how far a result is beyond the limit, relative to the limit's size; 0 or less means it is kept."""
        value = result.value(self.metric)
        if self.drop:
            value = quality.loss(value) - quality.loss(baseline.value(self.metric))
        limit = self._limit(baseline, quality)
        excess = value - limit if self.sign == "<=" else limit - value
        # What was never measured, because the trial was stopped before, counts as broken.
        return 1.0 if math.isnan(excess) else excess / (abs(limit) or 1.0)

    def allowed(self, baseline: Result, quality: Objective) -> tuple[float, float]:
        """Return the lowest and the highest value of the metric that keep the limit."""
        limit, upper = self._limit(baseline, quality), self.sign == "<="
        if self.drop:  # the most that the loss may be; turning the sign of a loss gives the value back
            limit = quality.loss(limit + quality.loss(baseline.value(self.metric)))
            upper = upper == (quality.direction == "minimize")
        return (-math.inf, limit) if upper else (limit, math.inf)

    def _limit(self, baseline: Result, quality: Objective) -> float:
        relative = self.unit == "x" or (self.unit == "%" and self.metric != quality.name)
        return self.limit * baseline.value(self.metric) if relative else self.limit


def check_constraints(constraints: Sequence[Constraint], quality: Objective) -> None:
    """Raise SettingError for a drop of anything but the task's own metric: only that has a good side to lose."""
    for constraint in constraints:
        if constraint.drop and constraint.metric != quality.name:
            raise SettingError(
                "constraint", constraint.text, f"only {quality.name} can drop", "Limit a cost like 'size <= 0.5x'."
            )


def allowed(constraints: Sequence[Constraint], baseline: Result, quality: Objective) -> dict[str, tuple[float, float]]:
    """Return for each limited metric the lowest and the highest value that keep all its limits."""
    found: dict[str, tuple[float, float]] = {}
    for constraint in constraints:
        low, high = constraint.allowed(baseline, quality)
        known = found.get(constraint.metric, (low, high))
        found[constraint.metric] = (max(low, known[0]), min(high, known[1]))
    return found


def violations(constraints: Sequence[Constraint], result: Result, baseline: Result, quality: Objective) -> list[float]:
    """Return one number for each constraint; of a failed trial, none."""
    if result.status == "failed":
        return []
    return [c.violation(result, baseline, quality) for c in constraints]
