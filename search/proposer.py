"""Proposes recipes: the predicted front first, then those that promise the most on what was learnt.

Each proposal is the candidate with the largest expected gain of hypervolume over what was measured and what is
running. Candidates are the predicted front, solved anew as the surrogate learns, and small changes of it and of the
measured front. Without trials the surrogate is the profile, so the first proposals are the profile's own front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it has no types

from ..spaces.choices import Genomes
from ..spaces.stage import Stage
from .costs import PREDICTED, CostModel, Fitted
from .descent import Descent
from .improvement import improvement
from .layerwise import Layerwise
from .pareto import nondominated
from .sensitivity import Profile
from .surrogate import LOOKED_AT, Surrogate

Values = npt.NDArray[np.float64]

#: Points of the predicted front that are solved for at the start, that are kept, and that are solved anew for each
#: proposal; the last is lower for large spaces, so that a proposal stays cheap.
_FIRST, _KEPT, _FRESH, _WORK = 300, 400, 32, 60_000
#: Candidates of each kind that are weighed for a proposal, and those of them that are weighed closely.
_WEIGHED, _CLOSELY = 80, 24
#: Nodes and weights of the three-point Gauss-Hermite rule for a standard normal.
_NODES, _WEIGHTS = np.array([-np.sqrt(3.0), 0.0, np.sqrt(3.0)]), np.array([1.0, 4.0, 1.0]) / 6
#: Damages that training is chosen for: from hardly any to far too much.
_DAMAGES = (0.003, 3.0)
#: Structures around which the knapsack is solved exactly, points of each, and the seconds for one with limits.
_STRUCTURES, _EXACT, _SECONDS = 3, 40, 0.5
#: A predicted cost may be this share above a limit and still be tried.
_MARGIN = 0.01


@dataclass(frozen=True)
class Goals:
    """What counts.

    Attributes
    ----------
    base
        The original model's costs: objectives and limited metrics, each to be lowered.
    worst
        Objective -> the largest cost that counts for the hypervolume.
    span
        The largest loss of quality that counts.
    reach
        The loss of quality from which on all models are alike.
    noise
        Standard error of a measured loss of quality.
    quality
        Whether the loss of quality is an objective.
    limits
        Metric -> the highest cost that is allowed.
    lost
        The highest loss of quality that is allowed.
    """

    base: Mapping[str, float]
    worst: Mapping[str, float]
    span: float
    reach: float
    noise: float
    quality: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)
    lost: float = math.inf


@dataclass(frozen=True)
class Told:
    """One trial: its genome, its loss of quality, and its costs (NaN where not measured)."""

    genome: npt.NDArray[np.int64]
    lost: float
    costs: Values


class Proposer:
    """Asks and tells in genomes.

    Parameters
    ----------
    profile
        Of the space.
    goals
        What counts.
    seed
        The same seed and the same results give the same proposals.
    """

    def __init__(self, profile: Profile, goals: Goals, seed: int = 0) -> None:
        self.goals, self.choices = goals, profile.choices
        self.told: dict[bytes, Told] = {}
        self.pending: dict[bytes, npt.NDArray[np.int64]] = {}
        self.costs = CostModel(profile)
        self.descent = Descent(self.costs)
        self.surrogate = Surrogate(profile, goals.reach, goals.noise)
        self.fitted = Fitted(self.costs, {m: b for m, b in goals.base.items() if m not in PREDICTED})
        self.metrics = tuple(goals.base)
        self._places = [self.metrics.index(m) for m in goals.worst]
        self._reference = np.array([goals.span] * goals.quality + list(goals.worst.values()))
        self._limits = np.array([goals.limits.get(m, math.inf) for m in self.metrics])
        self.random = np.random.default_rng(seed)
        self._threads = ThreadpoolController()
        self._learnt = self._exact = 0
        self._pool: dict[bytes, npt.NDArray[np.int64]] = {}
        self._front: Values = np.zeros((0, len(self._reference)))
        self._best: Genomes = np.zeros((0, len(self.choices)), dtype=np.int64)

    # --- telling -------------------------------------------------------------------------------------------

    def tell(self, genome: npt.NDArray[np.int64], lost: float, costs: Mapping[str, float], usable: bool = True) -> None:
        """Report a trial.

        Parameters
        ----------
        genome
            (decisions,) legal.
        lost
            Loss of quality; of a failed trial anything, infinity included.
        costs
            Metric -> value.
        usable
            False for a trial that can't be on the front (failed, stopped, infeasible).
        """
        self.pending.pop(genome.tobytes(), None)
        values = np.array([costs.get(m, math.nan) for m in self.metrics])
        self.told[genome.tobytes()] = Told(genome, min(lost, self.goals.reach), values)
        if usable:
            rows = np.vstack([self._front, self._points(np.array([lost]), values[None])])
            keep = nondominated(rows.tolist())
            self._front = rows[keep]
            self._best = np.vstack([self._best, genome])[keep]

    def forget(self, genome: npt.NDArray[np.int64]) -> None:
        """Drop a proposal that will have no result."""
        self.pending.pop(genome.tobytes(), None)

    # --- asking --------------------------------------------------------------------------------------------

    def ask(self) -> npt.NDArray[np.int64]:
        """Return a legal genome that was neither told nor is pending; a random one if the pool has none left."""
        # The matrices are small: on a machine whose cores are busy with trials, more threads only wait for each other.
        with self._threads.limit(limits=1, user_api="blas"):
            return self._asked()

    def _asked(self) -> npt.NDArray[np.int64]:
        if len(self.told) - self._learnt >= max(1, len(self.told) // 50):
            self._learn()
        settings = int(self.choices.counts.sum())
        self._solve(max(4, min(_FRESH, _WORK // settings)) if self._pool else _FIRST)
        if len(self.told) >= self._exact:
            self._exact = 2 * len(self.told) + 1
            self._solve_exactly()
        candidates = self._candidates()
        if not len(candidates):
            return self._anything()
        chosen: npt.NDArray[np.int64] = candidates[self._weigh(candidates)]
        self.pending[chosen.tobytes()] = chosen
        return chosen

    def _learn(self) -> None:
        trials = list(self.told.values())
        if len(trials) > LOOKED_AT:  # those nearest to the front, and the latest
            score = np.array([self._points(np.array([t.lost]), t.costs[None])[0].sum() for t in trials])
            recent = np.arange(len(trials)) >= len(trials) - LOOKED_AT // 4
            trials = [trials[i] for i in np.lexsort((score, ~recent))[:LOOKED_AT]]
        hot = self.costs.hot(np.stack([t.genome for t in trials]))
        self.surrogate.learn(hot, np.array([t.lost for t in trials]))
        self.fitted.learn(hot, np.stack([t.genome for t in trials]), np.stack([t.costs for t in trials]), self.metrics)
        self._learnt = len(self.told)

    def _solve(self, count: int) -> None:
        """Add points of the predicted front, with the training that gives most back and the coder on."""
        damages = self.surrogate.damages()
        start = np.zeros((count, len(self.choices)), dtype=np.int64)
        for i, decision in enumerate(self.choices.decisions):
            if decision.stage is Stage.CONTAINER:
                start[:, i] = self.choices.counts[i] - 1
            elif decision.stage is Stage.RECOVERY:
                rows = slice(self.costs.offsets[i], self.costs.offsets[i] + self.choices.counts[i])
                totals = np.exp(self.random.uniform(math.log(_DAMAGES[0]), math.log(_DAMAGES[1]), count))
                start[:, i] = self.surrogate.best_training(rows, totals, self.random)
        damages = np.where(self.surrogate.impossible, np.inf, damages)
        for genome in self.descent.solve(damages, self._prices(damages, count), start):
            self._pool.pop(genome.tobytes(), None)
            self._pool[genome.tobytes()] = genome
        for old in list(self._pool)[: max(0, len(self._pool) - _KEPT)]:
            del self._pool[old]

    def _solve_exactly(self) -> None:
        """Add points of the knapsack over the layers: its convex front, and the best that keeps all limits on costs.

        This takes longer than prices do, so it is done now and then, as trials double.
        """
        metrics = [m for m in self.costs.metrics if m in self.goals.base]
        limits = {m: (1 - _MARGIN) * self.goals.limits[m] for m in metrics if m in self.goals.limits}
        pool = list(self._pool.values())
        if not metrics or not pool:
            return
        damages = np.where(self.surrogate.impossible, np.inf, self.surrogate.damages())
        for genome in (pool[i] for i in self.random.permutation(len(pool))[:_STRUCTURES]):
            layers = Layerwise.around(self.costs, damages, genome, metrics)
            if layers is None:
                continue
            base = {m: 1 / self.goals.base[m] for m in metrics}
            found = list(layers.front(base, _EXACT))
            if limits:
                found.extend(layers.within(limits, _SECONDS))
            self._pool |= {row.tobytes(): row for row in found}

    def _prices(self, damages: Values, count: int) -> Values:
        """Return (count, metrics) prices, evenly spread over the logarithms and the mixes of costs."""
        ratios = damages[(damages > 0) & np.isfinite(damages)]
        low, high = np.quantile(ratios, [0.02, 0.98]) if len(ratios) else (1e-3, 1.0)
        # A price is for the whole cost, and the last layers to give way are a small share of it.
        smallest = min(float(np.min(b[b > 0], initial=1.0) / max(b.sum(), 1e-12)) for b in self.costs.base)
        place = (self.random.random() + np.arange(count)) / count
        along = np.exp(np.log(low) + place * (np.log(high / smallest) - np.log(low)))
        wanted = [m for m in self.costs.metrics if m in self.goals.base] or ["macs"]
        mixes = np.zeros((count, len(self.costs.metrics)))
        mixes[:, [self.costs.metrics.index(m) for m in wanted]] = self.random.dirichlet(
            np.full(len(wanted), 0.5), count
        )
        base = self.costs.predict(np.zeros((1, len(self.choices)), dtype=np.int64))[0]
        prices: Values = along[:, None] * mixes / np.maximum(base, 1e-12)
        return prices

    def _candidates(self) -> Genomes:
        """Return candidates that are neither known nor running: the predicted front and changes of the best."""
        pool = list(self._pool.values())
        chosen = [pool[i] for i in self.random.permutation(len(pool))[:_WEIGHED]]
        parents = np.vstack([*pool, self._best])
        rows = {row.tobytes(): row for row in (*chosen, *self._changed(parents, _WEIGHED))}
        fresh = [row for key, row in rows.items() if key not in self.told and key not in self.pending]
        return np.array(fresh, dtype=np.int64).reshape(len(fresh), len(self.choices))

    def _changed(self, parents: Genomes, count: int) -> Genomes:
        """Return children of random parents: crossed with another now and then, and a few settings moved."""
        n, width = len(parents), len(self.choices)
        mine = parents[self.random.integers(n, size=count)].copy()
        other = parents[self.random.integers(n, size=count)]
        crossed = (self.random.random((count, 1)) < 0.5) & (self.random.random((count, width)) < 0.3)
        mine = np.where(crossed, other, mine)
        moved = self.random.random((count, width)) < 1.5 / width
        near = mine + self.random.choice([-1, 1], size=mine.shape)
        far = self.random.integers(self.choices.counts[None].repeat(count, 0))
        aim = np.where(self.random.random(mine.shape) < 0.7, np.clip(near, 0, self.choices.counts - 1), far)
        return self.choices.legal(np.where(moved, aim, mine))

    def _weigh(self, candidates: Genomes) -> int:
        """Return the place of the candidate with the largest expected gain of hypervolume within the limits."""
        hot, ones = self.costs.hot(candidates), np.ones(len(self._reference))
        costs = self._costs(candidates, hot)
        logit = self.surrogate.expected(hot)
        front = self._front
        if self.pending:
            waiting = np.stack(list(self.pending.values()))
            there = self.costs.hot(waiting)
            lost = self.surrogate.lost(self.surrogate.expected(there))
            front = np.vstack([front, self._points(lost, self._costs(waiting, there))])
            front = front[nondominated(front.tolist())]
        refused = np.asarray(hot @ self.surrogate.impossible.astype(float)).reshape(-1)
        excess = np.maximum(costs / self._limits - 1 - _MARGIN, 0.0).sum(1)
        gain = improvement(front, ones, self._points(self.surrogate.lost(logit), costs))
        # What is expected to gain nothing may still gain by chance: optimism decides who is looked at closely.
        gain += improvement(front, ones, self._points(self.surrogate.lost(logit - self.surrogate.misfit), costs))
        if math.isfinite(self.goals.lost):  # most of what gains most may lose too much
            limit = self.surrogate.logit(np.array([self.goals.lost]))[0]
            allowed = ndtr((limit - logit) / self.surrogate.misfit)
            gain = gain * allowed if len(self._front) else allowed + 1e-6 * gain
        order = np.lexsort((-gain, excess, refused))[:_CLOSELY]
        mean, spread = self.surrogate.predict(hot[order])
        expected = np.zeros(len(order))
        for node, weight in zip(_NODES, _WEIGHTS):
            points = self._points(self.surrogate.lost(mean + node * spread), costs[order])
            expected += weight * improvement(front, ones, points)
        if math.isfinite(self.goals.lost):
            allowed = ndtr((self.surrogate.logit(np.array([self.goals.lost]))[0] - mean) / spread)
            expected = expected * allowed if len(self._front) else allowed + 1e-6 * expected
        expected = np.where(excess[order] > 0, -excess[order], expected)
        expected = np.where(refused[order] > 0, -np.inf, expected)
        return int(order[expected.argmax()])

    def _costs(self, genomes: Genomes, hot: sparse.csr_matrix) -> Values:
        """Return predicted costs (n, metrics)."""
        known = self.costs.predict(genomes, hot)
        fitted = self.fitted.predict(known)
        columns = [
            known[:, self.costs.metrics.index(m)] if m in self.costs.metrics else fitted[m] for m in self.metrics
        ]
        return np.column_stack(columns) if columns else np.zeros((len(genomes), 0))

    def _points(self, lost: Values, costs: Values) -> Values:
        """Return objectives (n, objectives) as shares of the largest that count; a better quality is no loss."""
        quality = np.maximum(lost, 0.0)[:, None] if self.goals.quality else np.zeros((len(lost), 0))
        points: Values = np.hstack([quality, costs[:, self._places]]) / self._reference
        return points

    def _anything(self) -> npt.NDArray[np.int64]:
        row: npt.NDArray[np.int64] = self.choices.legal(self.random.integers(self.choices.counts)[None])[0]
        self.pending[row.tobytes()] = row
        return row
