"""The knapsack behind a recipe: with structure fixed, each layer takes one joint choice of operator, mask and format.

What is decided for one layer doesn't touch another, so damages and costs add up over layers and `solver` applies: exact
points between those that prices can reach, and points that keep several limits at once. All decisions of a layer are
one decision of the knapsack, of which the dominated choices are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Genomes
from ..spaces.site import LAYER_KINDS
from ..spaces.stage import Stage
from .costs import CostModel
from .knapsack import Problem, Solution
from .pareto import nondominated
from .solver import solve, sweep

Values = npt.NDArray[np.float64]

_STAGES = (Stage.OPERATOR, Stage.MASK, Stage.NUMERIC)


@dataclass(frozen=True)
class Layerwise:
    """A knapsack over the layers, around one genome.

    Attributes
    ----------
    problem
        One decision a layer.
    genome
        (decisions,) what everything else is.
    places
        For each layer, the places of its decisions in the genome.
    joint
        For each layer (choices, its decisions), what each of the knapsack's choices is.
    """

    problem: Problem
    genome: npt.NDArray[np.int64]
    places: Sequence[npt.NDArray[np.int64]]
    joint: Sequence[Genomes]

    @classmethod
    def around(
        cls, costs: CostModel, damages: Values, genome: npt.NDArray[np.int64], metrics: Sequence[str]
    ) -> Layerwise | None:
        """Return the knapsack of the layers that a genome leaves, or None if it leaves no choice.

        Parameters
        ----------
        costs
            Predicts costs.
        damages
            (all settings,) of each decision's settings in turn, infinite where one can't be applied.
        genome
            (decisions,) legal; its operators, masks and formats are what is decided anew.
        metrics
            Which of the predicted costs count.
        """
        choices = costs.choices
        alive = np.ones(len(choices), dtype=bool)
        for block, within in choices.inside:
            alive[within] &= genome[block] == 0
        by_site: dict[str, list[int]] = {}
        for i, decision in enumerate(choices.decisions):
            if decision.stage in _STAGES and alive[i] and choices.space.sites[decision.site].kind in LAYER_KINDS:
                by_site.setdefault(decision.site, []).append(i)
        columns = [costs.metrics.index(m) for m in metrics]
        plain = genome.copy()
        plain[[i for places in by_site.values() for i in places]] = 0
        whole = costs.predict(plain[None])[0, columns]
        places, joint, damage, cost = [], [], [], []
        for mine in by_site.values():
            numbers = np.array(list(product(*(range(choices.counts[i]) for i in mine))), dtype=np.int64)
            rows = np.repeat(plain[None], len(numbers), 0)
            rows[:, mine] = numbers
            usable = (choices.legal(rows) == rows).all(1)
            harm = damages[costs.offsets[mine] + numbers].sum(1)
            usable &= np.isfinite(harm)
            rows, numbers, harm = rows[usable], numbers[usable], harm[usable]
            spent = costs.predict(rows)[:, columns] - whole
            keep = nondominated(np.column_stack([harm, spent]).tolist())
            places.append(np.array(mine))
            joint.append(numbers[keep])
            damage.append(harm[keep])
            cost.append(spent[keep])
        if not places:
            return None
        table = {m: [c[:, k] for c in cost] for k, m in enumerate(metrics)}
        return cls(Problem(damage, table, dict(zip(metrics, whole))), genome, places, joint)

    def genomes(self, solutions: Sequence[Solution]) -> Genomes:
        """Return solutions as genomes (n, decisions)."""
        rows = np.repeat(self.genome[None], len(solutions), 0)
        for row, solution in zip(rows, solutions):
            for mine, numbers, choice in zip(self.places, self.joint, solution.choices):
                row[mine] = numbers[choice]
        return rows

    def front(self, prices: Mapping[str, float], points: int) -> Genomes:
        """Return genomes spread along the exact convex front for these prices."""
        return self.genomes(sweep(self.problem, prices, points))

    def within(self, limits: Mapping[str, float], nodes: int) -> Genomes:
        """Return the genome of least damage within limits, or the nearest one to them, that so many nodes find."""
        return self.genomes([solve(self.problem, limits, nodes=nodes)])
