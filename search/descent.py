"""The predicted front: for many trade-offs at once, the recipe of least damage plus weighted costs.

With a price on each cost, the best setting of a decision depends on the others only through what they leave of its
layers, so decisions are improved in turn (coordinate descent): all those of one kind together, as every layer has one
of a kind, and coupled channels one after the other. For a fixed price each pass can only lower the sum. Where every
layer takes one decision only, one pass is the exact Lagrange solution (Everett, 1963).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Genomes
from ..spaces.decision import Decision
from ..spaces.site import LAYER_KINDS
from ..spaces.stage import Stage
from .costs import CostModel

Values = npt.NDArray[np.float64]

#: Passes over all decisions.
_PASSES = 3


@dataclass(frozen=True)
class _Kind:
    """The decisions of one stage, each about layers of its own."""

    places: npt.NDArray[np.int64]  # (d,)
    owner: Values  # (units, d): 1 where a unit belongs to the decision's site
    shares: list[Values]  # of each metric (d, most settings), infinite beyond a decision's own
    real: npt.NDArray[np.bool_]  # (d, most settings)


@dataclass(frozen=True)
class _Coupled:
    """A decision about several layers."""

    place: int
    touched: npt.NDArray[np.int64]  # (t,) the units that any of its settings changes
    tables: list[Values]  # of each metric (settings, t) shares


class Descent:
    """Finds genomes of least damage plus weighted costs.

    Parameters
    ----------
    costs
        Predicts what genomes cost.
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs, self.choices = costs, costs.choices
        self.kinds: list[_Kind] = []
        self.coupled: list[_Coupled] = []
        self.blocks: list[tuple[_Coupled, npt.NDArray[np.int64]]] = []  # and the places of what is decided inside
        inside = dict(self.choices.inside)
        stages = (Stage.OPERATOR, Stage.MASK, Stage.NUMERIC)
        for stage in stages:
            places = [i for i, d in enumerate(self.choices.decisions) if d.stage is stage and self._is_layer(d)]
            if places:
                self.kinds.append(self._kind(places))
        for i, decision in enumerate(self.choices.decisions):
            if decision.stage is Stage.TOPOLOGY:
                self.blocks.append((self._of_several(i), inside[i]))
            elif decision.stage is Stage.STRUCTURE or (decision.stage in stages and not self._is_layer(decision)):
                self.coupled.append(self._of_several(i))

    def _is_layer(self, decision: Decision) -> bool:
        return self.choices.space.sites[decision.site].kind in LAYER_KINDS

    def _kind(self, places: list[int]) -> _Kind:
        costs, widest = self.costs, int(self.choices.counts[places].max())
        owner = np.zeros((len(costs.paths), len(places)))
        shares = [np.full((len(places), widest), np.inf) for _ in costs.metrics]
        column = {p: i for i, p in enumerate(costs.paths)}
        for d, i in enumerate(places):
            site = self.choices.space.sites[self.choices.decisions[i].site]
            members = [column[m] for m in site.members if m in column]
            owner[members, d] = 1
            rows = slice(costs.offsets[i], costs.offsets[i] + self.choices.counts[i])
            for table, logs in zip(shares, costs.logs):
                alike = logs[rows][:, members[:1]].toarray().sum(1)  # all members have the same shares
                table[d, : self.choices.counts[i]] = np.exp(alike)
        real = np.arange(widest) < self.choices.counts[places][:, None]
        return _Kind(np.array(places), owner, shares, real)

    def _of_several(self, place: int) -> _Coupled:
        costs = self.costs
        rows = slice(costs.offsets[place], costs.offsets[place] + self.choices.counts[place])
        tables = [np.exp(np.asarray(logs[rows].todense())) for logs in costs.logs]
        touched = np.flatnonzero(np.any([(t != 1).any(0) for t in tables], axis=0))
        return _Coupled(place, touched, [t[:, touched] for t in tables])

    def solve(self, damages: Values, prices: Values, start: Genomes | None = None) -> Genomes:
        """Return one genome a row of prices.

        Parameters
        ----------
        damages
            (all settings,) of each decision's settings in turn, none first.
        prices
            (n, metrics) damage that one unit of each cost is worth.
        start
            (n, decisions) to improve on; nothing is compressed by default. Containers and recovery stay as they are.
        """
        rows = np.zeros((len(prices), len(self.choices)), dtype=np.int64) if start is None else start.copy()
        for turn in range(_PASSES):
            for kind in self.kinds:
                self._improve(rows, kind, damages, prices)
            if turn == _PASSES - 2:
                for block, within in self.blocks:
                    self._remove(rows, block, within, damages, prices)
            left = self.costs.left(rows)
            for coupled in self.coupled:
                self._improve_coupled(rows, left, coupled, damages, prices)
            rows = self.choices.legal(rows)
        return rows

    def _improve(self, rows: Genomes, kind: _Kind, damages: Values, prices: Values) -> None:
        offsets = self.costs.offsets[kind.places]
        widest = kind.real.shape[1]
        numbers = np.minimum(np.arange(widest), self.choices.counts[kind.places][:, None] - 1)
        score = np.where(kind.real, damages[offsets[:, None] + numbers], np.inf)[None].repeat(len(rows), 0)
        now = rows[:, kind.places]
        first, last = np.arange(len(rows))[:, None], np.arange(len(kind.places))[None]
        left = self.costs.left(rows)
        for m, table in enumerate(kind.shares):
            finite = np.where(kind.real, table, 1.0)
            rest = (left[m] @ kind.owner) / np.maximum(finite[last, now], 1e-12)
            if self.costs.metrics[m] == "size":
                factor = self._together(rows, kind, finite.shape)
                rest = rest / factor[first, last, now]
                score = score + prices[:, m, None, None] * rest[:, :, None] * finite * factor
            else:
                score = score + prices[:, m, None, None] * rest[:, :, None] * finite
        self._forbid(rows, kind, score)
        rows[:, kind.places] = score.argmin(2)

    def _together(self, rows: Genomes, kind: _Kind, shape: tuple[int, ...]) -> Values:
        """Return (n, d, settings) corrections for masks and number formats of one layer."""
        factor = np.ones((len(rows), *shape))
        position = {int(p): d for d, p in enumerate(kind.places)}
        for i, j, _, table in self.costs.pairs:
            if j in position:
                factor[:, position[j], : table.shape[1]] = np.exp(table[rows[:, i]])
            elif i in position:
                factor[:, position[i], : table.shape[0]] = np.exp(table[:, rows[:, j]].T)
        return factor

    def _forbid(self, rows: Genomes, kind: _Kind, score: Any) -> None:
        position = {int(p): d for d, p in enumerate(kind.places)}
        for i, j, table in self.choices.conflicts:
            if j in position:
                score[:, position[j], : table.shape[1]][table[rows[:, i]]] = np.inf
            elif i in position:
                score[:, position[i], : table.shape[0]][table[:, rows[:, j]].T] = np.inf

    def _improve_coupled(
        self,
        rows: Genomes,
        left: list[Values],
        coupled: _Coupled,
        damages: Values,
        prices: Values,
    ) -> None:
        i, touched, tables = coupled.place, coupled.touched, coupled.tables
        offset, count = self.costs.offsets[i], self.choices.counts[i]
        score = np.broadcast_to(damages[offset : offset + count], (len(rows), count)).copy()
        rests = [x[:, touched] / np.maximum(table[rows[:, i]], 1e-12) for x, table in zip(left, tables)]
        for m, (rest, table) in enumerate(zip(rests, tables)):
            score += prices[:, m, None] * (rest @ table.T)
        rows[:, i] = score.argmin(1)
        for x, rest, table in zip(left, rests, tables):
            x[:, touched] = rest * table[rows[:, i]]

    def _remove(
        self, rows: Genomes, block: _Coupled, within: npt.NDArray[np.int64], damages: Values, prices: Values
    ) -> None:
        """Remove a block where that is better than all that is done inside it, and put it back where it isn't."""
        i = block.place
        offset = self.costs.offsets[i]
        kept = rows.copy()
        kept[:, i] = 0
        gone = np.flatnonzero(rows[:, i])
        if len(gone):
            again = kept[gone]
            for kind in self.kinds:
                self._improve(again, kind, damages, prices[gone])
            kept[np.ix_(gone, within)] = again[:, within]
        inside = damages[self.costs.offsets[within] + kept[:, within]].sum(1)
        best = int(damages[offset + 1 : offset + self.choices.counts[i]].argmin()) + 1
        saved = sum(
            prices[:, m] * (left[:, block.touched] @ (1 - table[best]))
            for m, (left, table) in enumerate(zip(self.costs.left(kept), block.tables))
        )
        kept[:, i] = np.where(damages[offset + best] < inside + saved, best, 0)
        kept[np.ix_(kept[:, i] > 0, within)] = 0
        rows[:] = kept
