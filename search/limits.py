"""What limits allow of what is predicted, and what comes nearest to them where nothing keeps them all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from .goals import Goals
from .improvement import Improvement
from .outlook import Outlook
from .pareto import nondominated

Values = npt.NDArray[np.float64]

#: A predicted cost may be this share above a limit and still be tried.
MARGIN = 0.0025
#: Where no recipe keeps the limits on costs, those are near that exceed them up to so many times as far as the nearest
#: that was tried.
_NEAR = 2.0
#: The nearest was tried when a trial came as near as that to what is predicted.
_TRIED = 1.1
#: While nothing keeps all limits, coming nearer to them counts so much as keeping them, at most. With none of it,
#: limits that can only just be kept, or that contradict each other, leave nothing to go by.
_NEARER = 0.5
#: Equally likely lucks.
_LUCKS = ndtri((np.arange(16) + 0.5) / 16)


class Limits:
    """The limits of a search, and how near trials have come to them.

    Parameters
    ----------
    goals
        What counts.
    metrics
        The columns of costs.

    Attributes
    ----------
    kept
        Whether a trial kept them all; the proposer says so.
    """

    def __init__(self, goals: Goals, metrics: Sequence[str]) -> None:
        self._places = [i for i, m in enumerate(metrics) if m in goals.limits]
        self._most = np.array([goals.limits[metrics[i]] for i in self._places])
        self._base = np.array([goals.base[metrics[i]] for i in self._places])
        self._lost, self._whole = goals.lost, goals.reach
        # Where quality is an objective, what loses more than is allowed gains nothing: that counts once.
        self._counted = goals.quality and goals.span <= goals.lost
        self._excess = math.inf  # the least of what was told, of costs
        self._near: Values = np.zeros((0, 2))  # of what was told, the front of loss and excess
        self._beyond = False  # whether no candidate keeps the limits on costs, and the nearest was tried
        whole = np.array([[goals.base[m] for m in metrics]])
        self._violated = float(self.violation(np.zeros(1), whole)[0])  # and of all; at first the original's
        self.kept = False

    @property
    def sought(self) -> bool:
        """Whether a model that keeps the limits is still to be found, and that is not a matter of predicted costs."""
        return not self.kept and (math.isfinite(self._lost) or self._beyond)

    def tell(self, lost: float, costs: Values) -> float:
        """Take note of a trial's loss of quality and costs (metrics,), NaN where they weren't measured; return its
        `violation`, infinity where it isn't known.
        """
        measured = costs[None]
        excess, violated = self.excess(measured, 0.0)[0], self.violation(np.array([lost]), measured, 0.0)[0]
        if not math.isnan(excess):
            self._excess = min(self._excess, float(excess))
        if not math.isnan(excess + lost):
            rows = np.vstack([self._near, [lost / self._whole, excess]])
            self._near = rows[nondominated(rows)]
        violated = float(np.nan_to_num(violated, nan=math.inf))
        self._violated = min(self._violated, violated)
        return violated

    def excess(self, costs: Values, margin: float = MARGIN) -> Values:
        """Return (n,) by how much costs (n, metrics) are above the limits, in all, as shares of the original's."""
        above: Values = (np.maximum(costs[:, self._places] - (1 + margin) * self._most, 0.0) / self._base).sum(1)
        return above

    def violation(self, lost: Values, costs: Values, margin: float = MARGIN) -> Values:
        """Return (n,) by how much losses of quality (n,) and costs (n, metrics) are above the limits, in all, as shares
        of the original's.
        """
        violated: Values = self.excess(costs, margin) + np.maximum(lost - self._lost, 0.0) / self._whole
        return violated

    def look(self, excess: Values) -> None:
        """Take note of by how much candidates are above the limits on costs (n,)."""
        self._beyond = bool(0 < self._excess <= _TRIED * excess.min())

    def chance(self, outlook: Outlook, costs: Values) -> Values:
        """Return the chances (n,) to lose no more quality than allowed, 1 where a gain depends on that already. While a
        model that keeps the limits is sought, a share of one is for what violates less than the nearest so far. Where
        limits on costs are out of reach and there is none on quality, it is what is expected to be gained on the front
        of loss and excess, up to what is near.
        """
        if not self.sought:
            free = math.isinf(self._lost) or self._counted
            return np.ones(len(outlook.logit)) if free else outlook.chance(self._lost)
        if math.isinf(self._lost):
            return self._gain(outlook, self.excess(costs))
        violated = np.stack([self.violation(outlook.at(luck), costs) for luck in _LUCKS.tolist()])
        share = violated / self._violated if self._violated > 0 else np.ones_like(violated)
        nearer: Values = np.where(violated > 0, _NEARER * np.maximum(1 - share, 0.0), 1.0).mean(0)
        return nearer

    def _gain(self, outlook: Outlook, excess: Values) -> Values:
        reach = np.array([1.0, _NEAR * self._excess])
        front = Improvement(self._near, reach)
        rows = [np.column_stack([outlook.at(luck) / self._whole, excess]) for luck in _LUCKS.tolist()]
        gain: Values = np.stack([front.of(points) for points in rows]).mean(0) / reach.prod()
        return gain
