"""The predicted front: for many trade-offs at once, the recipe of least damage plus weighted costs.

With a price on each cost, the best setting of a decision depends on the others only through what they leave of its
layers, so decisions are improved in turn (coordinate descent): all those of one kind together, as every layer has one
of a kind, then coupled channels, those together that share no layer. For a fixed price each pass can only lower the
sum. Where every layer takes one decision only, one pass is the exact Lagrange solution (Everett, 1963).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Genomes
from ..spaces.decision import Decision
from ..spaces.site import LAYER_KINDS
from ..spaces.stage import Stage
from .quick_costs import QuickCosts

Values = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Passes over all decisions.
_PASSES = 3
#: Stands for infinite damage where it is added up.
_HUGE = 1e100


@dataclass(frozen=True)
class _Beside:
    """For some decisions of a kind, another decision of each one's layer, and what the two do together."""

    which: Ints  # (k,) positions in the kind, each once
    places: Ints  # (k,) of the other decisions
    tables: npt.NDArray[Any]  # (k, most of the others' settings, most settings)

    def of(self, rows: Genomes) -> npt.NDArray[Any]:
        """Return (n, k, most settings) what holds beside the genomes' settings."""
        return self.tables[np.arange(len(self.which)), rows[:, self.places]]


@dataclass(frozen=True)
class _Kind:
    """The decisions of one stage, each about layers of its own."""

    places: Ints  # (d,)
    numbers: Ints  # (d, most settings) the place of each setting among all settings
    real: Flags  # (d, most settings) false beyond a decision's own
    owner: Values  # (units, d): 1 where a unit belongs to the decision's site
    shares: list[Values]  # of each metric (d, most settings)
    factors: list[_Beside]  # of the size
    forbidden: list[_Beside]


@dataclass(frozen=True)
class _Coupled:
    """Decisions about several layers each, of which no two touch the same."""

    places: Ints  # (g,)
    numbers: Ints  # (g, most settings) as above
    real: Flags
    touched: Ints  # (g, most units) that any of a decision's settings changes
    ours: Flags  # (g, most units) false beyond a decision's own
    tables: list[Values]  # of each metric (g, most settings, most units) shares


@dataclass(frozen=True)
class _Blocks:
    """Decisions to remove a block each, of which no two touch the same."""

    places: Ints  # (b,)
    inside: Values  # (decisions, b): 1 for what is decided at or in a block
    tables: list[list[Values]]  # of each metric and block (settings, units) shares


class Descent:
    """Finds genomes of least damage plus weighted costs.

    Parameters
    ----------
    costs
        Predicts what genomes cost.
    """

    def __init__(self, costs: QuickCosts) -> None:
        self.costs, self.choices = costs, costs.choices
        inside = dict(self.choices.inside)
        stages = (Stage.OPERATOR, Stage.MASK, Stage.NUMERIC)
        layers = [
            [i for i, d in enumerate(self.choices.decisions) if d.stage is s and self._is_layer(d)] for s in stages
        ]
        self.kinds = [self._kind(places) for places in layers if places]
        several = [
            i
            for i, d in enumerate(self.choices.decisions)
            if d.stage is Stage.STRUCTURE or (d.stage in stages and not self._is_layer(d))
        ]
        blocks = [i for i, d in enumerate(self.choices.decisions) if d.stage is Stage.TOPOLOGY]
        self.coupled = [self._coupled(places) for places in _apart(several, [self._touched(i) for i in several])]
        reach = [{*self._touched(i), *(-1 - inside[i]).tolist(), -1 - i} for i in blocks]
        self.blocks = [self._blocks(places, inside) for places in _apart(blocks, reach)]

    def _is_layer(self, decision: Decision) -> bool:
        return self.choices.space.sites[decision.site].kind in LAYER_KINDS

    def _settings(self, places: Sequence[int]) -> tuple[Ints, Ints, Flags]:
        """Return the decisions' places, and for each setting its place among all, and whether it is one."""
        counts = self.choices.counts[list(places)]
        number = np.arange(counts.max(initial=1))
        numbers = self.costs.offsets[list(places)][:, None] + np.minimum(number, counts[:, None] - 1)
        return np.array(places, dtype=np.int64), numbers, number < counts[:, None]

    def _kind(self, listed: list[int]) -> _Kind:
        costs = self.costs
        places, numbers, real = self._settings(listed)
        owner = np.zeros((len(costs.paths), len(places)))
        column = {p: i for i, p in enumerate(costs.paths)}
        shares = [np.ones(real.shape) for _ in costs.metrics]
        for d, i in enumerate(places):
            site = self.choices.space.sites[self.choices.decisions[i].site]
            members = [column[m] for m in site.members if m in column]
            owner[members, d] = 1
            for table, logs in zip(shares, costs.logs):  # all members have the same shares
                table[d] = np.exp(logs[numbers[d]][:, members[:1]].toarray().sum(1))
        pairs = [(i, j, np.exp(table)) for i, j, _, table in costs.pairs]
        factors = self._beside(listed, real.shape[1], pairs, 1.0)
        forbidden = self._beside(listed, real.shape[1], self.choices.conflicts, False)
        return _Kind(places, numbers, real, owner, shares, factors, forbidden)

    @staticmethod
    def _beside(
        listed: list[int], widest: int, pairs: Iterable[tuple[int, int, npt.NDArray[Any]]], neutral: float
    ) -> list[_Beside]:
        """Return what pairs of decisions and their tables say of the decisions listed, each of these once in each."""
        turns: list[list[tuple[int, int, npt.NDArray[Any]]]] = []
        seen: dict[int, int] = {}
        position = {place: d for d, place in enumerate(listed)}
        for i, j, table in pairs:
            own, other, oriented = (j, i, table) if j in position else (i, j, table.T)
            if own in position:
                turn = seen[own] = seen.get(own, -1) + 1
                if turn == len(turns):
                    turns.append([])
                turns[turn].append((position[own], other, oriented))
        found = []
        for rows in turns:
            tables = np.full((len(rows), max(len(t) for *_, t in rows), widest), neutral, dtype=rows[0][2].dtype)
            for row, (*_, table) in zip(tables, rows):
                row[: table.shape[0], : table.shape[1]] = table
            which, places, _ = zip(*rows)
            found.append(_Beside(np.array(which), np.array(places), tables))
        return found

    def _table(self, place: int) -> list[Values]:
        """Return of each metric (settings, units) what is left of all units."""
        rows = slice(self.costs.offsets[place], self.costs.offsets[place] + self.choices.counts[place])
        return [np.exp(logs[rows].toarray()) for logs in self.costs.logs]

    def _touched(self, place: int) -> set[int]:
        changed = np.any([(t != 1).any(0) for t in self._table(place)], axis=0)
        return set(np.flatnonzero(changed).tolist())

    def _coupled(self, listed: list[int]) -> _Coupled:
        places, numbers, real = self._settings(listed)
        units = [np.array(sorted(self._touched(i)), dtype=np.int64) for i in listed]
        ours = np.arange(max(map(len, units))) < np.array([len(u) for u in units])[:, None]
        touched = np.zeros(ours.shape, dtype=np.int64)
        touched[ours] = np.concatenate(units)
        tables = [np.ones((*real.shape, ours.shape[1])) for _ in self.costs.metrics]
        for g, i in enumerate(listed):
            for table, own in zip(tables, self._table(i)):
                table[g, : len(own), : len(units[g])] = own[:, units[g]]
        return _Coupled(places, numbers, real, touched, ours, tables)

    def _blocks(self, listed: list[int], inside: dict[int, Ints]) -> _Blocks:
        member = np.zeros((len(self.choices), len(listed)))
        for b, i in enumerate(listed):
            member[inside[i], b] = 1
        tables = [self._table(i) for i in listed]
        return _Blocks(np.array(listed, dtype=np.int64), member, [list(of_metric) for of_metric in zip(*tables)])

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
        used = np.flatnonzero(prices.any(0)).tolist()
        for turn in range(_PASSES):
            for kind in self.kinds:
                self._improve(rows, kind, damages, prices, used)
            if turn == _PASSES - 2:
                for blocks in self.blocks:
                    self._remove(rows, blocks, damages, prices, used)
            left = {m: self.costs.left_of(m, rows) for m in used}
            for coupled in self.coupled:
                self._improve_coupled(rows, left, coupled, damages, prices)
            rows = self.choices.legal(rows)
        return rows

    def _improve(self, rows: Genomes, kind: _Kind, damages: Values, prices: Values, used: list[int]) -> None:
        now = rows[:, kind.places]
        own = np.arange(len(kind.places))
        score = np.where(kind.real, damages[kind.numbers], np.inf)[None].repeat(len(rows), 0)
        for m in used:
            table = kind.shares[m]
            rest = (self.costs.left_of(m, rows) @ kind.owner) / np.maximum(table[own, now], 1e-12)
            if self.costs.metrics[m] != "size" or not kind.factors:
                score += (prices[:, m, None] * rest)[:, :, None] * table
                continue
            factor = np.ones(score.shape)
            for beside in kind.factors:
                factor[:, beside.which] *= beside.of(rows)
            rest /= np.take_along_axis(factor, now[:, :, None], 2)[:, :, 0]
            factor *= table
            factor *= (prices[:, m, None] * rest)[:, :, None]
            score += factor
        for beside in kind.forbidden:
            score[:, beside.which] = np.where(beside.of(rows), np.inf, score[:, beside.which])
        rows[:, kind.places] = score.argmin(2)

    def _improve_coupled(
        self, rows: Genomes, left: dict[int, Values], coupled: _Coupled, damages: Values, prices: Values
    ) -> None:
        now, own = rows[:, coupled.places], np.arange(len(coupled.places))
        score = np.where(coupled.real, damages[coupled.numbers], np.inf)[:, None].repeat(len(rows), 1)
        rests = {}
        for m, x in left.items():
            table = coupled.tables[m]
            rests[m] = np.where(coupled.ours, x[:, coupled.touched] / np.maximum(table[own, now], 1e-12), 0.0)
            score += prices[:, m, None] * (rests[m].transpose(1, 0, 2) @ table.transpose(0, 2, 1))
        now = rows[:, coupled.places] = score.argmin(2).T
        for m, x in left.items():
            x[:, coupled.touched[coupled.ours]] = (rests[m] * coupled.tables[m][own, now])[:, coupled.ours]

    def _remove(self, rows: Genomes, blocks: _Blocks, damages: Values, prices: Values, used: list[int]) -> None:
        """Remove blocks where that is better than all that is done inside them, and put them back where it isn't."""
        kept = rows.copy()
        kept[:, blocks.places] = 0
        gone = (rows[:, blocks.places] > 0) @ blocks.inside.T > 0
        again = np.flatnonzero(gone.any(1))
        if len(again):
            redone = kept[again]
            for kind in self.kinds:
                self._improve(redone, kind, damages, prices[again], used)
            kept[again] = np.where(gone[again], redone, kept[again])
        offsets, counts = self.costs.offsets, self.choices.counts
        best = np.array([1 + int(damages[offsets[i] + 1 : offsets[i] + counts[i]].argmin()) for i in blocks.places])
        better_than = np.minimum(damages[offsets + kept], _HUGE) @ blocks.inside
        for m in used:
            taken = np.stack([1 - table[k] for table, k in zip(blocks.tables[m], best)], 1)
            better_than += prices[:, m, None] * (self.costs.left_of(m, kept) @ taken)
        removed = damages[offsets[blocks.places] + best] < better_than
        kept[:, blocks.places] = np.where(removed, best, 0)
        kept[removed @ blocks.inside.T > 0] = 0
        rows[:] = kept


def _apart(places: Sequence[int], reach: Sequence[set[int]]) -> list[list[int]]:
    """Return places in groups, in whose order those that reach the same come one after the other.

    Parameters
    ----------
    places
        Of decisions.
    reach
        What each of them touches.
    """
    groups: list[list[int]] = []
    latest: dict[int, int] = {}  # of what is touched, the last group that does
    for place, mine in zip(places, reach):
        group = 1 + max((latest.get(x, -1) for x in mine), default=-1)
        if group == len(groups):
            groups.append([])
        groups[group].append(place)
        latest |= dict.fromkeys(mine, group)
    return groups
