"""What recovery training gives back, learnt from the trials that have finished.

Losses here: smaller is better, whatever the metric's direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..spaces.catalogue import technique
from ..spaces.recipe import Recipe
from ..spaces.stage import Stage
from .result import Objective, Result

#: Nothing is foretold before so many trials were seen at a rung.
ENOUGH = 8
#: With so many trials, the margin is twice what it is with a great many.
_FEW = 20
#: Only the latest are kept: they travel with every trial, and late recipes are more alike.
_KEPT = 400
#: Ridge of the regression on standardised features: keeps it calm while trials are few.
_RIDGE = 1.0
#: A cost that training changes may shrink by this share more than was ever seen.
_SLACK = 0.02

Settings = tuple[tuple[str, float], ...]


def settings_of(recipe: Recipe) -> Settings:
    """Return the numbers that the recipe's recovery training is set to, by ``technique.parameter``."""
    found = []
    for step in recipe.steps:
        if technique(step.technique).stage is Stage.RECOVERY:
            numbers = [(k, float(v)) for k, v in step.params if isinstance(v, int | float)]
            found += [(f"{step.technique}.{name}", value) for name, value in numbers]
    return tuple(sorted(found))


@dataclass(frozen=True)
class Forecast:
    """The loss a trial will end with: the least to be reckoned with, the one to expect, and the most."""

    least: float
    expected: float
    most: float


@dataclass(frozen=True)
class Seen:
    """A finished trial: its loss at a rung, its loss at the end, and the settings of its training."""

    at: float
    end: float
    settings: Settings = ()


@dataclass(frozen=True)
class Gains:
    """The trials with recovery training so far.

    Attributes
    ----------
    seen
        Rung -> the trials that passed it, as estimated or measured.
    ratios
        Cost -> the lowest and the highest ratio of what it was after training and before (coded weights can get
        shorter), and how many were seen.
    """

    seen: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)
    ratios: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)

    def learnt(self, result: Result, quality: Objective) -> Gains:
        """Return what is known with one more result; one that failed, or was stopped before its training ended, adds
        nothing.
        """
        end = quality.loss(result.value(quality.name))
        if not result.rungs or result.foretold or not math.isfinite(end):
            return self
        seen, ratios = dict(self.seen), dict(self.ratios)
        settings = settings_of(result.recipe)
        for rung, values in result.rungs.items():
            if quality.name in values:
                trial = Seen(quality.loss(values[quality.name]), end, settings)
                seen[rung] = (*seen.get(rung, ()), trial)[-_KEPT:]
            for name, before in values.items():
                ratio = result.value(name) / before if before > 0 else math.nan
                if name != quality.name and not math.isnan(ratio):
                    low, high, count = ratios.get(name, (ratio, ratio, 0))
                    ratios[name] = min(low, ratio), max(high, ratio), count + 1
        return replace(self, seen=seen, ratios=ratios)

    def lowest(self, name: str, before: float) -> float:
        """Return the lowest value to be reckoned with of a cost that is ``before`` when training starts; minus infinity
        until a trial has told what training does to it.
        """
        if name not in self.ratios:
            return -math.inf
        low, high, count = self.ratios[name]
        if low == high == 1.0 and count >= ENOUGH:  # such as multiplications, which training never changes
            return before
        return before * min(1.0, low) * (1 - _SLACK)

    def forecast(self, rung: str, loss: float, settings: Settings = ()) -> Forecast | None:
        """Return how a trial with this loss at a rung may end, or None while too little is known.

        A ridge regression tells the gain from the loss, its square, the settings and their products with the loss. The
        limits lie beyond the largest error that it made on trials left out (Allen's PRESS, 1974), by one more standard
        deviation, or more while trials are few, and widen where trials like this one are rare.
        """
        seen = self.seen.get(rung, ())
        if len(seen) < ENOUGH:
            return None
        rows = _features([*seen, Seen(loss, math.nan, settings)])
        known, asked = rows[:-1], rows[-1]
        gains = np.array([s.at - s.end for s in seen])
        ridge = _RIDGE * np.eye(rows.shape[1])
        ridge[0, 0] = 0.0
        inverse = np.linalg.inv(known.T @ known + ridge)
        weights = inverse @ known.T @ gains
        leverage = np.einsum("ij,jk,ik->i", known, inverse, known)
        errors = (gains - known @ weights) / np.maximum(1 - leverage, 0.1)
        wider = math.sqrt(1 + asked @ inverse @ asked)
        expected, spread = loss - float(asked @ weights), float(errors.std()) * (1 + _FEW / len(seen))
        least = expected - wider * (max(0.0, float(errors.max())) + spread)
        return Forecast(least, expected, expected + wider * (max(0.0, -float(errors.min())) + spread))


def _features(trials: Sequence[Seen]) -> npt.NDArray[np.float64]:
    """Return the regression's rows (trials, features): a one, and standardised columns."""
    loss = np.array([t.at for t in trials])
    columns = [loss, loss**2]
    for name in sorted({name for t in trials for name, _ in t.settings}):
        given = [dict(t.settings).get(name, math.nan) for t in trials]
        grid = sorted({v for v in given if not math.isnan(v)})
        # Knobs are grids: what counts is the place in it, be the steps even or by factors.
        place = np.array([math.nan if math.isnan(v) else float(grid.index(v)) for v in given])
        place = np.where(np.isnan(place), np.nanmean(place), place)
        columns += [place, place * loss]
    table = np.stack(columns, 1)
    spread = table.std(0)
    standard = (table - table.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.concatenate([np.ones((len(trials), 1)), standard], 1)
