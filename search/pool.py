"""What a proposer chooses from: points of the predicted front, and small changes of them and of the measured front."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Genomes
from ..spaces.stage import Stage
from .costs import stand_in
from .descent import Descent
from .joint import Joint
from .quick_costs import QuickCosts
from .surrogate import Surrogate

Values = npt.NDArray[np.float64]

#: Points of the predicted front that are kept.
_KEPT = 400
#: Damages that training is chosen for: from hardly any to far too much.
_DAMAGES = (0.003, 3.0)
#: Points of an exact front, and the nodes of HiGHS's tree for one point with limits.
_EXACT, _NODES = 40, 50


class Pool:
    """Points of the predicted front, as it was when they were added.

    Parameters
    ----------
    costs
        Predicts costs.
    surrogate
        Predicts damages; learns between calls.
    base
        Metric -> the original's cost, of all costs that count.

    Attributes
    ----------
    genomes
        (n, decisions), the latest last.
    """

    def __init__(self, costs: QuickCosts, surrogate: Surrogate, base: Mapping[str, float]) -> None:
        self.costs, self.choices, self.surrogate = costs, costs.choices, surrogate
        self.descent = Descent(costs)
        stands = {stand_in(m, costs.metrics) for m in base}
        self._metrics = [m for m in costs.metrics if m in stands]
        self._joint = Joint(costs, self._metrics)
        self._whole = np.maximum(costs.predict(np.zeros((1, len(self.choices)), dtype=np.int64))[0], 1e-12)
        self._rows: dict[bytes, npt.NDArray[np.int64]] = {}
        self.genomes: Genomes = np.zeros((0, len(self.choices)), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.genomes)

    def _add(self, rows: Genomes) -> None:
        for row in rows:
            self._rows.pop(row.tobytes(), None)
            self._rows[row.tobytes()] = row
        for old in list(self._rows)[: max(0, len(self._rows) - _KEPT)]:
            del self._rows[old]
        self.genomes = np.stack(list(self._rows.values()))

    def _damages(self, refused: npt.NDArray[np.bool_]) -> Values:
        return np.where(self.surrogate.impossible | refused, np.inf, self.surrogate.damages())

    def solve(self, count: int, refused: npt.NDArray[np.bool_], random: np.random.Generator) -> None:
        """Add points, with the training that gives most back and the coder on.

        Parameters
        ----------
        count
            How many.
        refused
            (all settings,) which settings not to take, beside those that can't be applied.
        random
            Draws prices and trainings.
        """
        start = np.zeros((count, len(self.choices)), dtype=np.int64)
        for i, decision in enumerate(self.choices.decisions):
            if decision.stage is Stage.CONTAINER:
                start[:, i] = self.choices.counts[i] - 1
            elif decision.stage is Stage.RECOVERY:
                rows = slice(self.costs.offsets[i], self.costs.offsets[i] + self.choices.counts[i])
                totals = np.exp(random.uniform(math.log(_DAMAGES[0]), math.log(_DAMAGES[1]), count))
                start[:, i] = self.surrogate.best_training(rows, totals, random)
        start[refused[self.costs.offsets + start]] = 0
        damages = self._damages(refused)
        self._add(self.descent.solve(damages, self._prices(damages, count, random), start))

    def cheapest(self, metric: str) -> Genomes:
        """Return genomes that are predicted to have the least of a cost, whatever the damage."""
        start = np.zeros((1, len(self.choices)), dtype=np.int64)
        for i, decision in enumerate(self.choices.decisions):
            if decision.stage is Stage.CONTAINER:
                start[:, i] = self.choices.counts[i] - 1
        prices = np.zeros((1, len(self.costs.metrics)))
        place = self.costs.metrics.index(metric)
        prices[0, place] = 1 / self._whole[place]
        return self.descent.solve(np.where(self.surrogate.impossible, np.inf, 0.0), prices, start)

    def solve_exactly(
        self, limits: Mapping[str, float], refused: npt.NDArray[np.bool_], random: np.random.Generator
    ) -> None:
        """Add points of the knapsack over the layers of a random point: its convex front, and the best within limits.

        This takes longer than prices do.

        Parameters
        ----------
        limits
            Metric -> the most it may be, as a share of the original's.
        refused
            As for `solve`.
        random
            Draws the point.
        """
        if not self._metrics or not len(self):
            return
        whole = {m: float(self._whole[self.costs.metrics.index(m)]) for m in self._metrics}
        genome = self.genomes[random.integers(len(self))]
        layers = self._joint.around(self._damages(refused), genome)
        if layers is None:
            return
        self._add(layers.front({m: 1 / w for m, w in whole.items()}, _EXACT))
        stands = [(stand_in(m, self._metrics), limit) for m, limit in limits.items()]
        within = {m: whole[m] * min(own) for m in self._metrics if (own := [x for name, x in stands if name == m])}
        if within:
            self._add(layers.within(within, _NODES))

    def _prices(self, damages: Values, count: int, random: np.random.Generator) -> Values:
        """Return (count, metrics) prices, evenly spread over the logarithms and the mixes of costs."""
        ratios = damages[(damages > 0) & np.isfinite(damages)]
        low, high = np.quantile(ratios, [0.02, 0.98]) if len(ratios) else (1e-3, 1.0)
        # A price is for the whole cost, and the last layers to give way are a small share of it.
        smallest = min(float(np.min(b[b > 0], initial=1.0) / max(b.sum(), 1e-12)) for b in self.costs.base)
        place = (random.random() + np.arange(count)) / count
        along = np.exp(np.log(low) + place * (np.log(high / smallest) - np.log(low)))
        wanted = self._metrics or ["macs"]
        mixes = np.zeros((count, len(self.costs.metrics)))
        mixes[:, [self.costs.metrics.index(m) for m in wanted]] = random.dirichlet(np.full(len(wanted), 0.5), count)
        prices: Values = along[:, None] * mixes / self._whole
        return prices

    def candidates(self, best: Genomes, count: int, random: np.random.Generator) -> Genomes:
        """Return legal genomes (n, decisions): so many points, as many changes of these, and of the best known alone.

        Parameters
        ----------
        best
            (b, decisions) the measured front.
        count
            How many of each kind at most.
        random
            Draws them.
        """
        chosen = self.genomes[random.permutation(len(self))[:count]]
        of = [np.vstack([self.genomes, best]), *([best] if len(best) else [])]
        return np.vstack([chosen, *(self._changed(parents, count, random) for parents in of)])

    def _changed(self, parents: Genomes, count: int, random: np.random.Generator) -> Genomes:
        """Return children of random parents: crossed with another now and then, and a few settings moved."""
        n, width = len(parents), len(self.choices)
        mine, other = (parents[random.integers(n, size=count)] for _ in range(2))
        crossed = (random.random((count, 1)) < 0.5) & (random.random((count, width)) < 0.3)
        mine = np.where(crossed, other, mine)
        row, place = np.nonzero(random.random((count, width)) < 1.5 / width)
        counts = self.choices.counts[place]
        near = np.clip(mine[row, place] + random.choice([-1, 1], len(row)), 0, counts - 1)
        mine[row, place] = np.where(random.random(len(row)) < 0.7, near, random.integers(counts))
        return self.choices.legal(mine)
