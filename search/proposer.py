"""Proposes recipes: the predicted front first, then those that promise the most on what was learnt.

Each proposal is the candidate with the largest expected gain of hypervolume over what was measured and what is
running. Candidates are the predicted front, solved anew as the surrogate learns, and small changes of it and of the
measured front. Without trials the surrogate is the profile, so the first proposals are the profile's own front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it has no types

from ..spaces.choices import Genomes
from .alike import Models
from .costs import PREDICTED, SIZE, Fitted
from .failures import Failures
from .goals import Goals
from .imagined import Foretold, Imagined
from .improvement import Improvement
from .limits import MARGIN, Limits
from .outlook import Outlook
from .pareto import nondominated
from .pool import Pool
from .quick_costs import QuickCosts
from .sensitivity import Profile
from .step_bytes import StepBytes
from .surrogate import Surrogate
from .told import Told, looked_at, qualities
from .weighed import Weighed

Values = npt.NDArray[np.float64]

#: Points of the predicted front that are solved for at the start, and when something was learnt or so many proposals
#: were made since.
_FIRST, _FRESH, _EVERY = 300, 32, 16
#: Candidates of each kind that are weighed for a proposal, and those of them that are weighed closely.
_WEIGHED, _CLOSELY = 160, 80
#: For so many that are running, and for so many that were told, one more proposal comes from the same candidates, up to
#: so many in a row, until something is learnt or the front changes. One more matters less then.
_MANY, _OLD, _IN_A_ROW = 64, 500, 8
#: Nodes and weights of the three-point Gauss-Hermite rule for a standard normal.
_NODES, _WEIGHTS = np.array([0.0, -np.sqrt(3.0), np.sqrt(3.0)]), np.array([4.0, 1.0, 1.0]) / 6
#: Lucks before those of the nodes: as expected, and if all that is unexplained goes well.
_EXTREMES = 2
#: Structures around which the knapsack is solved exactly as trials double, one for each of as many proposals.
_STRUCTURES = 3
#: While a model that keeps the limits is sought, so many that came nearest are changed.
_PARENTS = 8
#: Nothing is hoped to lose so many standard errors less than the best that was measured.
_HOPED = 2.0
#: All later trials gain from a training that turns out to be better than the best: a gain counts more by so much for
#: each unit of what is expected of that.
_TEACHES = 2.0
#: Steps of learning at most from trials that come at once.
_AT_ONCE = 12
#: When all that was weighed is known, so many random recipes are looked at.
_DRAWN = 100


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
        self._passed: dict[bytes, tuple[npt.NDArray[np.int64], float]] = {}
        self.pending: dict[bytes, npt.NDArray[np.int64]] = {}
        self._models = Models(self.choices)  # told or running
        unknown = {m: b for m, b in goals.base.items() if m not in PREDICTED}
        # What is fitted looks at all that is predicted; where no predicted cost counts, that is what prices are for.
        self.costs = QuickCosts(profile, None if unknown or not goals.base else goals.base.keys())
        self.fitted = Fitted(self.costs, unknown)
        self.surrogate = Surrogate(profile, goals.reach, goals.noise)
        self.steps = StepBytes(self.choices)
        self.failures = Failures(self.choices)
        self.pool = Pool(self.costs, self.surrogate, goals.base)
        self.metrics = tuple(goals.base)
        self._places = [self.metrics.index(m) for m in goals.worst]
        self._reference = np.array([goals.span] * goals.quality + list(goals.worst.values()))
        self._limits = Limits(goals, self.metrics)
        self._shares = {m: (1 - MARGIN) * limit / goals.base[m] for m, limit in goals.limits.items()}
        self.random = np.random.default_rng(seed)
        self._threads = ThreadpoolController()
        self._learnt = self._since = self._exact = self._structures = 0
        self._front: Values = np.zeros((0, len(self._reference)))
        self._best: Genomes = np.zeros((0, len(self.choices)), dtype=np.int64)
        self._reached = self._improvement(self._front)
        self._foretold: dict[bytes, Foretold] = {}  # of what is running, until something is learnt
        self._imagined: Imagined | None = None
        self._weighed: Weighed | None = None  # and not taken; still worth what it was
        self._row = 0
        self._best_lost = 0.0  # what loses less counts like that

    # --- telling -------------------------------------------------------------------------------------------

    def tell(self, genome: npt.NDArray[np.int64], lost: float, costs: Mapping[str, float], usable: bool = True) -> None:
        """Report a trial. Of a genome that is told again, the latest result counts.

        Parameters
        ----------
        genome
            (decisions,) legal.
        lost
            Loss of quality; infinity if the trial failed, NaN if it was stopped for its costs before that was known.
        costs
            Metric -> value.
        usable
            False for a trial that can't be on the front (failed, stopped, infeasible).
        """
        key = genome.tobytes()
        if key not in self.pending or self._limits.sought or not math.isfinite(lost):
            self._weighed = None
        self._remove(key)
        if self._best_lost < 0:
            self._best_lost = min(self._best_lost, lost - _HOPED * self.goals.noise)
        values = np.array([costs.get(m, math.nan) for m in self.metrics])
        point = self._points(np.array([lost]), values[None])[0]
        if not math.isnan(lost):  # else it did not run to its end, and no step is to blame
            self.failures.tell(genome, math.isinf(lost))
        lost = min(lost, self.goals.reach)
        violated, usable = self._limits.tell(lost, values), usable and bool(np.isfinite(point).all())
        trial = Told(genome, lost, values, point, violated, usable)
        again = self.told.pop(key, None)
        self._models.count(genome, again is None)
        self.told[key] = trial
        if again is not None and again.usable:  # it may have been on the front, and others behind it
            self._enter([t for t in self.told.values() if t.usable], fresh=True)
        elif trial.usable and not (self._front <= point).all(1).any():
            self._enter([trial])

    def _enter(self, trials: Sequence[Told], fresh: bool = False) -> None:
        """Put trials on the front, or on a new one."""
        front = np.vstack([self._front[: 0 if fresh else None], *(t.point for t in trials)])
        best = np.vstack([self._best[: 0 if fresh else None], *(t.genome for t in trials)])
        keep = nondominated(front)
        self._front, self._best = front[keep], best[keep]
        self._limits.kept = bool(len(keep))
        self._reached = self._improvement(self._front)
        self._imagined = self._weighed = None

    def note(self, genome: npt.NDArray[np.int64], lost: float) -> None:
        """Report what a trial's model lost on its way, as the recipe of which it was the model then: what it had before
        its training says what that does. It is on no front, and may be proposed.

        Parameters
        ----------
        genome
            (decisions,) legal.
        lost
            Loss of quality, finite.
        """
        self._passed[genome.tobytes()] = genome, min(lost, self.goals.reach)

    def forget(self, genome: npt.NDArray[np.int64]) -> None:
        """Drop a proposal that will have no result."""
        self._remove(genome.tobytes())

    def _remove(self, key: bytes) -> None:
        """Take a genome from what is running."""
        genome = self.pending.pop(key, None)
        if genome is not None:
            self._models.count(genome, -1)
            if self._imagined is not None and self._imagined.holds(key):
                self._imagined = None
        self._foretold.pop(key, None)

    def _run(self, genome: npt.NDArray[np.int64]) -> None:
        """Put a genome to what is running."""
        self._models.count(genome, genome.tobytes() not in self.pending)
        self.pending[genome.tobytes()] = genome

    def expect(self, genome: npt.NDArray[np.int64]) -> None:
        """Take note that a genome is running that wasn't asked for."""
        self._run(genome)
        self._imagined = self._weighed = None

    # --- asking --------------------------------------------------------------------------------------------

    def ask(self) -> npt.NDArray[np.int64]:
        """Return a legal genome that was neither told nor is pending, unless no such was found: then a random one."""
        # The matrices are small: on a machine whose cores are busy with trials, more threads only wait for each other.
        with self._threads.limit(limits=1, user_api="blas"):
            self._since += 1
            row = min(1 + len(self.pending) // _MANY + len(self.told) // _OLD, _IN_A_ROW)
            if self._weighed is None or self._row >= row or not len(self._weighed.genomes) or self._due():
                self._prepare()
                candidates = self._models.new(self.pool.candidates(self._parents(), _WEIGHED, self.random))
                self._weighed, self._row = self._weigh(candidates) if len(candidates) else None, 0
            chosen = self._take(self._weighed) if self._weighed is not None else self._anything()
            chosen = chosen.copy()  # a view would keep all that it was chosen from in memory
            self._run(chosen)
            self._imagine(chosen)
        return chosen

    def _parents(self) -> Genomes:
        """Return the measured front; while a model that keeps the limits is sought, what came nearest to them."""
        if not self._limits.sought or not self.told:
            return self._best
        return np.stack([t.genome for t in nsmallest(_PARENTS, self.told.values(), key=lambda t: t.violated)])

    def _imagine(self, genome: npt.NDArray[np.int64]) -> None:
        """Let a genome that is running from now on be part of what is imagined."""
        key = genome.tobytes()
        if self._imagined is not None:
            if key not in self._foretold:
                self._foretell([genome])
            self._imagined.add(key, self._foretold[key])

    def _prepare(self) -> None:
        """Learn, and renew the predicted front, where enough has happened since."""
        learnt = self._due()
        if learnt:
            self._learn()
        if learnt or not len(self.pool) or self._since >= _EVERY:
            self.pool.solve(_FRESH if len(self.pool) else _FIRST, self.failures.drawn(self.random), self.random)
            self._since = 0
        if len(self.told) >= self._exact:
            self._exact, self._structures = 2 * len(self.told) + 1, _STRUCTURES
        if self._structures:
            self._structures -= 1
            self.pool.solve_exactly(self._within(), self.failures.drawn(self.random), self.random)

    def _within(self) -> dict[str, float]:
        """Return what limits leave of predicted costs, as shares of the original's."""
        if SIZE not in self._shares:
            return self._shares
        predicted = self.costs.predict(self.pool.genomes)[:, self.costs.metrics.index(SIZE)]
        limit = self._shares[SIZE] * self.goals.base[SIZE]
        return {**self._shares, SIZE: self._shares[SIZE] * self.steps.before(self.pool.genomes, predicted, limit)}

    def _due(self) -> bool:
        """Return whether enough was told since it learnt."""
        return len(self.told) - self._learnt >= max(1, len(self.told) // 50, len(self.pending) // 20)

    def _learn(self) -> None:
        trials = looked_at(list(self.told.values()))
        genomes = np.stack([t.genome for t in trials])
        rows = qualities(trials, [row for key, row in self._passed.items() if key not in self.told])
        if rows:  # it goes on from what was believed before; in a resumed run, all comes at once
            known, lost = np.stack([genome for genome, _ in rows]), np.array([lost for _, lost in rows])
            self.surrogate.learn(known, lost, 1 if self._learnt else _AT_ONCE)
        costs = np.stack([t.costs for t in trials])
        self.fitted.learn(self.costs.hot(genomes), genomes, costs, self.metrics)
        if SIZE in self.metrics:
            predicted = self.costs.predict(genomes)[:, self.costs.metrics.index(SIZE)]
            self.steps.learn(genomes, predicted, costs[:, self.metrics.index(SIZE)])
        self._learnt = len(self.told)
        self._foretold.clear()
        self._imagined = None
        if self.surrogate.luck.known and self._best_lost == 0:
            self._count_better()

    def _count_better(self) -> None:
        """From now on, what loses less than the original is better. Before luck is known, luck would pass for merit."""
        self._best_lost = min(0.0, *(t.lost for t in self.told.values())) - _HOPED * self.goals.noise
        for key, trial in self.told.items():
            point = self._points(np.array([trial.lost]), trial.costs[None])[0]
            self.told[key] = replace(trial, point=point)
        self._enter([t for t in self.told.values() if t.usable], fresh=True)

    def _anything(self) -> npt.NDArray[np.int64]:
        """Return a random genome, a new one if one of a few is."""
        drawn = self.choices.legal(self.random.integers(self.choices.counts, size=(_DRAWN, len(self.choices))))
        row: npt.NDArray[np.int64] = next(iter(self._models.new(drawn)), drawn[0])
        return row

    # --- weighing ------------------------------------------------------------------------------------------

    def _weigh(self, candidates: Genomes) -> Weighed:
        """Return the candidates that may have the largest expected gain of hypervolume within the limits."""
        costs, outlook = self._costs(candidates), self.surrogate.expect(candidates)
        above, refused = self._limits.excess(costs), self._refused(candidates)
        self._limits.look(above)
        excess = np.zeros(len(above)) if self._limits.sought else above
        beside, beside_lucky, *_ = self._beside_running()
        lost = outlook.at(0.0)
        points = self._points(lost, costs)
        gain = beside.of(points)
        # What is expected to gain nothing may still gain by chance: optimism decides who is looked at closely.
        gain += beside_lucky.of(self._points(outlook.lucky(), costs))
        works = self.failures.chance(candidates) * (1 + _TEACHES * self.surrogate.promise(candidates))
        gain = self._likely(gain, self._limits.chance(outlook, costs)) * works
        order = np.lexsort((self._behind(points, lost), -gain, excess, refused))[:_CLOSELY]
        outlook, costs = self.surrogate.predict(candidates[order]), costs[order]
        points, allowed = self._foreseen(costs, outlook), self._limits.chance(outlook, costs)
        counts = (above == 0) & ~refused
        rest = works[order], excess[order], counts[order], refused[order]
        return Weighed(candidates[order], points, outlook.at(0.0), allowed, *rest)

    def _take(self, among: Weighed) -> npt.NDArray[np.int64]:
        """Return the genome with the largest expected gain, beside all that is running now; it is weighed no more."""
        expected = np.zeros(len(among.genomes))
        for luck, (weight, front) in enumerate(zip(_WEIGHTS, self._beside_running()[_EXTREMES:]), _EXTREMES):
            expected += weight * front.of(among.points[:, luck])
        expected = self._likely(expected, among.allowed) * among.works
        expected = np.where(among.excess > 0, -among.excess, expected)
        expected = np.where(among.refused, -np.inf, expected)
        best = int(np.lexsort((self._behind(among.points[:, 0], among.lost), -expected))[0])
        genome: npt.NDArray[np.int64] = among.genomes[best]
        self._foretold[genome.tobytes()] = Foretold(among.points[best], bool(among.counts[best]))
        self._weighed, self._row = among.without(best), self._row + 1
        return genome

    def _beside_running(self) -> list[Improvement]:
        """Return gains over what was measured and what is running: as expected, if all goes well, and at each node."""
        if self._imagined is None:
            self._foretell([genome for key, genome in self.pending.items() if key not in self._foretold])
            running = [(key, self._foretold[key]) for key in self.pending]
            measured = self._front, self._reached
            self._imagined = Imagined(self._improvement, measured, running, _EXTREMES + len(_NODES))
        return self._imagined.gains

    def _foretell(self, genomes: Sequence[npt.NDArray[np.int64]]) -> None:
        """Predict what becomes of genomes (decisions,)."""
        if not genomes:
            return
        rows = np.stack(genomes)
        costs = self._costs(rows)
        counts = (self._limits.excess(costs) == 0) & ~self._refused(rows)
        points = self._foreseen(costs, self.surrogate.predict(rows))
        for genome, row, counted in zip(genomes, points, counts.tolist()):
            self._foretold[genome.tobytes()] = Foretold(row, bool(counted))

    def _foreseen(self, costs: Values, outlook: Outlook) -> Values:
        """Return (n, lucks, objectives): as expected, if all goes well, and at each node."""
        losses = (outlook.at(0.0), outlook.lucky(), *(outlook.at(node) for node in _NODES))
        return np.stack([self._points(lost, costs) for lost in losses], 1)

    def _improvement(self, front: Values) -> Improvement:
        return Improvement(front, np.ones(len(self._reference)))

    def _behind(self, points: Values, lost: Values) -> Values:
        """Return (n,) how far points (n, objectives) are from gaining anything, for where none does: how much less each
        would have to be in all objectives. Where nothing counts yet, as limits leave only what loses more than counts,
        it is the loss.
        """
        front = self._reached.inside
        if not len(front):
            return lost
        behind: Values = (points[:, None] - front).max(2).min(1)
        return behind

    def _refused(self, genomes: Genomes) -> npt.NDArray[np.bool_]:
        """Return (n,) whether a genome (n, decisions) holds a step that can't be applied."""
        refused: npt.NDArray[np.bool_] = self.surrogate.impossible[genomes + self.costs.offsets].any(1)
        return refused

    def _likely(self, gain: Values, chance: Values) -> Values:
        """Return gains times the chance to be allowed; while a model that is allowed is sought, the chance itself."""
        return chance + 1e-6 * gain if self._limits.sought else gain * chance

    def _costs(self, genomes: Genomes) -> Values:
        """Return predicted costs (n, metrics)."""
        known = self.costs.predict(genomes)
        fitted = self.fitted.predict(known)
        if SIZE in self.metrics:
            place = self.costs.metrics.index(SIZE)
            known[:, place] = self.steps.corrected(genomes, known[:, place])
        columns = [fitted[m] if m in fitted else known[:, self.costs.metrics.index(m)] for m in self.metrics]
        return np.column_stack(columns) if columns else np.zeros((len(genomes), 0))

    def least(self, metric: str) -> float:
        """Return the lowest cost of any recipe, the original among them, as far as is predicted; 0 of metrics that only
        trials tell.
        """
        if metric not in self.costs.metrics:
            return 0.0
        found = self._costs(self.pool.cheapest(metric))[:, self.metrics.index(metric)].min()
        return float(min(found, self.goals.base[metric]))

    def floors(self, genome: npt.NDArray[np.int64]) -> dict[str, float]:
        """Return metric -> a value below what a genome (decisions,) will be measured to have, all but surely; of those
        metrics that are learnt from trials.
        """
        return self.fitted.floors(self.costs.predict(genome[None]))

    def _points(self, lost: Values, costs: Values) -> Values:
        """Return objectives (n, objectives) as shares of the largest that count; below 0 it beats the original."""
        hoped = np.maximum(lost, self._best_lost)
        counted = np.maximum(hoped, 0.0) + np.minimum(hoped + self.goals.chance, 0.0)
        quality = counted[:, None] if self.goals.quality else np.zeros((len(lost), 0))
        points: Values = np.hstack([quality, costs[:, self._places]]) / self._reference
        return points
