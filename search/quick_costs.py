"""The predictions of `CostModel` in a fraction of its time, for a proposer that asks for them all day.

Of a layer, only the few decisions that touch it count: what they leave is looked up for each layer and added, and
nothing is multiplied with the many settings that weren't taken.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..spaces.choices import Genomes
from .costs import CostModel
from .sensitivity import Profile

Values = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Turn:
    """For each of some units, one of the decisions that touch it."""

    units: Ints  # (u,) each once
    places: Ints  # (u,) of the decisions
    starts: Ints  # (u,) where what the decision's settings leave begins among all values


@dataclass(frozen=True)
class _Pairs:
    """For each of some units, a mask and a number format that don't multiply."""

    units: Ints  # (u,) each once
    first: Ints  # (u,) places of the masks
    second: Ints  # (u,) places of the formats
    starts: Ints  # (u,) where a pair's table begins among all values
    widths: Ints  # (u,) of a row of that table
    values: Values

    def of(self, columns: Genomes) -> Values:
        """Return (u, n) what is to be added for genomes that are given as columns (decisions, n)."""
        row = columns[self.first] * self.widths[:, None] + columns[self.second]
        corrections: Values = self.values[self.starts[:, None] + row]
        return corrections


class _Logs:
    """Sums over decisions of what their settings leave of units, in logarithms, of one metric.

    Parameters
    ----------
    costs
        Whose metric it is.
    table
        (all settings, units) logarithms.
    base
        (units,) the original's; of nothing, nothing is left whatever is taken.
    """

    def __init__(self, costs: CostModel, table: sparse.csr_matrix, base: Values) -> None:
        self.units = len(base)
        owner = np.repeat(np.arange(len(costs.choices)), costs.choices.counts)
        entries = (table @ sparse.diags((base != 0).astype(float))).tocoo()
        entries.eliminate_zeros()
        touching = np.unique(np.stack([entries.col, owner[entries.row]], 1), axis=0).astype(np.int64)
        ends = np.cumsum(costs.choices.counts[touching[:, 1]], dtype=np.int64)
        starts = ends - costs.choices.counts[touching[:, 1]]
        self.values = np.zeros(int(ends[-1]) if len(ends) else 0)
        at = {(unit, place): start for (unit, place), start in zip(touching.tolist(), starts.tolist())}
        for row, unit, value in zip(entries.row.tolist(), entries.col.tolist(), entries.data.tolist()):
            place = int(owner[row])
            self.values[at[unit, place] + row - costs.offsets[place]] = value
        # The first decision of every unit, then the second of those that have one, and so on.
        number = np.arange(len(touching)) - np.searchsorted(touching[:, 0], touching[:, 0])
        self.turns = [
            _Turn(touching[number == k, 0], touching[number == k, 1], starts[number == k])
            for k in range(int(number.max(initial=-1)) + 1)
        ]

    def sums(self, columns: Genomes) -> Values:
        """Return (units, n) sums of genomes that are given as columns (decisions, n)."""
        total = np.zeros((self.units, columns.shape[1]))
        for turn in self.turns:
            total[turn.units] += self.values[columns[turn.places] + turn.starts[:, None]]
        return total


class QuickCosts(CostModel):
    """Predicts costs of genomes: the same as a `CostModel`, to rounding.

    Parameters
    ----------
    profile
        Of the space.
    wanted
        The metrics to predict, those that the profile can; the size is always among them. All by default.
    """

    def __init__(self, profile: Profile, wanted: Collection[str] | None = None) -> None:
        super().__init__(profile)
        places = [i for i, m in enumerate(self.metrics) if wanted is None or m in wanted or m == "size"]
        self.metrics = tuple(self.metrics[i] for i in places)  # type: ignore[assignment] # fewer than a profile has
        self.base, self.logs = [self.base[i] for i in places], [self.logs[i] for i in places]
        self.fixed = self.fixed[places]
        self._sums = [_Logs(self, logs, base) for logs, base in zip(self.logs, self.base)]
        self._corrected = self._corrections()

    def _corrections(self) -> list[_Pairs]:
        """Return the corrections of `pairs`, each unit once in each: a unit may be in a pair of its group's as well."""
        found: list[list[tuple[int, int]]] = []
        seen: dict[int, int] = {}
        for number, (_, _, units, _) in enumerate(self.pairs):
            for unit in units.tolist():
                turn = seen[unit] = seen.get(unit, -1) + 1
                found += [[]] * (turn == len(found))
                found[turn] = [*found[turn], (unit, number)]
        starts = np.cumsum([0, *(table.size for *_, table in self.pairs)])
        values = np.concatenate([np.zeros(0), *(table.reshape(-1) for *_, table in self.pairs)])
        turns = []
        for rows in found:
            units, numbers = np.array(rows, dtype=np.int64).T
            first, second = (np.array([self.pairs[k][side] for k in numbers]) for side in (0, 1))
            turns.append(_Pairs(units, first, second, starts[numbers], self.choices.counts[second], values))
        return turns

    def left(self, genomes: Genomes, hot: sparse.csr_matrix | None = None) -> list[Values]:  # noqa: ARG002 - not needed here
        """Return for each metric what is left of every unit, (n, units), in the metric's own unit."""
        return [self.left_of(m, genomes) for m in range(len(self.metrics))]

    def left_of(self, metric: int, genomes: Genomes) -> Values:
        """Return what is left of every unit, (n, units), for the metric at that place in ``metrics``."""
        columns = np.ascontiguousarray(genomes.T)
        total = self._sums[metric].sums(columns)
        if self.metrics[metric] == "size":
            for pairs in self._corrected:
                total[pairs.units] += pairs.of(columns)
        np.exp(total, out=total)
        total *= self.base[metric][:, None]
        return total.T
