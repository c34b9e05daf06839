"""How good a profile's predictions are: a few steps are applied for real, and the outputs compared."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..spaces.errors import PressError
from ..spaces.recipe import Step
from .effects import Survey
from .profile_rows import Row
from .sensitivity import Profile

#: Steps that are looked at.
STEPS = 8


@dataclass(frozen=True)
class Check:
    """Predicted damages beside measured ones.

    Attributes
    ----------
    rows
        The steps, from the gentlest prediction to the worst.
    measured
        For each, how far the outputs of the calibration examples really moved, in the damage's unit.
    """

    rows: tuple[Row, ...]
    measured: tuple[float, ...]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of prediction and measurement; None for fewer than three steps or equal ones."""
        if len(self.rows) < 3 or len(set(self.measured)) == 1 or len({r.damage for r in self.rows}) == 1:
            return None
        return float(np.corrcoef(_ranks([r.damage for r in self.rows]), _ranks(self.measured))[0, 1])

    @property
    def ratio(self) -> float | None:
        """Median of measured over predicted; None if no step was looked at."""
        if not self.rows:
            return None
        return float(np.median([m / r.damage for r, m in zip(self.rows, self.measured)]))

    @property
    def summary(self) -> str:
        """One sentence."""
        if not self.rows:
            return "not checked: every step's damage was measured, or is none"
        words = [f"checked on {len(self.rows)} steps"]
        if self.correlation is not None:
            words.append(f"rank correlation {self.correlation:.2f}")
        if self.ratio is not None:
            words.append(f"the outputs really moved {self.ratio:.2g} times as far as predicted (median)")
        return words[0] + ": " + ", ".join(words[1:]) if words[1:] else words[0]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        steps = [{**row.to_json(), "measured": m} for row, m in zip(self.rows, self.measured)]
        return {"steps": steps, "rank_correlation": self.correlation, "median_ratio": self.ratio}


def estimate_check(survey: Survey) -> float:
    """Return about how many seconds `check_profile` will take, from comparing the original with itself."""
    survey.divergence()  # the first one also pays for what all share
    start = time.perf_counter()
    survey.divergence()
    return STEPS * (time.perf_counter() - start)


def check_profile(profile: Profile, survey: Survey) -> Check:
    """Apply a few steps whose damage was predicted without running the model, and measure it.

    Parameters
    ----------
    profile
        The predictions.
    survey
        Of the same task and space.

    Returns
    -------
    Check
        On steps that are spread evenly over the ranks of the predicted damages.
    """
    predicted = [r for r in profile.rows() if r.method in ("fisher", "channels") and 0 < r.damage < math.inf]
    rows, measured = [], []
    for row in _spread(sorted(predicted, key=lambda r: r.damage)):
        try:
            found = survey.divergence(Step.of(row.site, row.technique, **row.params))
        except (PressError, ValueError, RuntimeError):
            continue  # it can be applied to a layer alone, not to the model
        if math.isfinite(found):
            rows.append(row)
            measured.append(found)
    return Check(tuple(rows), tuple(measured))


def _spread(rows: Sequence[Row]) -> list[Row]:
    if not rows:
        return []
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, STEPS).round().astype(int))]


def _ranks(values: Sequence[float]) -> list[float]:
    """Return each value's rank, equal ones sharing the mean of theirs."""
    return [sum(v < value for v in values) + sum(v == value for v in values) / 2 for value in values]
