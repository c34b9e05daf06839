"""The knapsack around a recipe, from what each layer's settings leave of that layer alone.

All else stays as it is, so the costs of a layer's joint choices follow from its own tables, without predicting whole
models: that takes a hundredth of the time on a hundred layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import moocore
import numpy as np
import numpy.typing as npt

from ..spaces.choices import Genomes
from ..spaces.site import LAYER_KINDS
from ..spaces.stage import Stage
from .costs import STEP_BYTES
from .knapsack import Problem
from .layerwise import Layerwise
from .quick_costs import QuickCosts

Values = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_STAGES = (Stage.OPERATOR, Stage.MASK, Stage.NUMERIC)


@dataclass(frozen=True)
class _Layer:
    """All that a layer's operator, mask and number format can be together."""

    places: Ints  # (d,) of its decisions
    numbers: Genomes  # (choices, d)
    steps: Values  # (choices,) bytes of the steps themselves
    units: list[Ints]  # of each metric (u,) those that any choice changes
    changes: list[Values]  # of each metric (choices, u) shares less one


class Joint:
    """Puts knapsacks over the layers around genomes.

    Parameters
    ----------
    costs
        Predicts costs.
    metrics
        Which of the predicted costs count.
    """

    def __init__(self, costs: QuickCosts, metrics: Sequence[str]) -> None:
        self.costs, self.choices, self.metrics = costs, costs.choices, tuple(metrics)
        self._columns = [costs.metrics.index(m) for m in metrics]

    @cached_property
    def _layers(self) -> list[_Layer]:
        by_site: dict[str, list[int]] = {}
        for i, decision in enumerate(self.choices.decisions):
            if decision.stage in _STAGES and self.choices.space.sites[decision.site].kind in LAYER_KINDS:
                by_site.setdefault(decision.site, []).append(i)
        return [self._layer(places) for places in by_site.values()]

    def _layer(self, places: list[int]) -> _Layer:
        numbers = np.indices(tuple(self.choices.counts[places])).reshape(len(places), -1).T
        for i, j, table in self.choices.conflicts:
            if i in places and j in places:
                numbers = numbers[~table[numbers[:, places.index(i)], numbers[:, places.index(j)]]]
        found = [self._changes(column, places, numbers) for column in self._columns]
        steps = STEP_BYTES * np.count_nonzero(numbers, axis=1).astype(float)
        return _Layer(np.array(places), numbers, steps, [u for u, _ in found], [c for _, c in found])

    def _changes(self, column: int, places: list[int], numbers: Genomes) -> tuple[Ints, Values]:
        """Return the units (u,) that choices change, and by how much (choices, u), as shares."""
        costs = self.costs
        tables = [costs.logs[column][costs.offsets[i] : costs.offsets[i] + self.choices.counts[i]] for i in places]
        units = np.unique(np.concatenate([table.indices for table in tables])).astype(np.int64)
        logs = np.sum([table[:, units].toarray()[numbers[:, d]] for d, table in enumerate(tables)], axis=0)
        if costs.metrics[column] == "size":
            for i, j, both, table in costs.pairs:
                if i in places and j in places:
                    together = table[numbers[:, places.index(i)], numbers[:, places.index(j)]]
                    logs[:, np.isin(units, both)] += together[:, None]
        return units, np.expm1(logs)

    def around(self, damages: Values, genome: Ints) -> Layerwise | None:
        """Return the knapsack of the layers that a genome leaves, or None if it leaves no choice.

        Parameters
        ----------
        damages
            (all settings,) of each decision's settings in turn, infinite where one can't be applied.
        genome
            (decisions,) legal; its operators, masks and formats are what is decided anew.
        """
        alive = np.ones(len(self.choices), dtype=bool)
        for block, within in self.choices.inside:
            alive[within] &= genome[block] == 0
        layers = [layer for layer in self._layers if alive[layer.places].all()]
        if not layers:
            return None
        plain = genome.copy()
        plain[np.concatenate([layer.places for layer in layers])] = 0
        left = [self.costs.left_of(column, plain[None])[0] for column in self._columns]
        joint, damage, cost = [], [], []
        for layer in layers:
            harm = damages[self.costs.offsets[layer.places] + layer.numbers].sum(1)
            spent = [
                change @ rest[units] + layer.steps * (metric == "size")
                for metric, units, change, rest in zip(self.metrics, layer.units, layer.changes, left)
            ]
            usable = np.flatnonzero(np.isfinite(harm))
            points = np.column_stack([harm, *spent])[usable]
            keep = moocore.is_nondominated(points, maximise=False, keep_weakly=False)
            joint.append(layer.numbers[usable[keep]])
            damage.append(points[keep, 0])
            cost.append(points[keep, 1:])
        table = {m: [c[:, k] for c in cost] for k, m in enumerate(self.metrics)}
        whole = self.costs.predict(plain[None])[0, self._columns]
        problem = Problem(damage, table, dict(zip(self.metrics, whole)))
        return Layerwise(problem, genome, [layer.places for layer in layers], joint)
