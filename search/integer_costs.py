"""What a latency has beyond shares that multiply, where layers run on integers; see `LatencyTable`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from .effects import ON_INTEGERS
from .latency_table import LatencyTable
from .sensitivity import Profile

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class IntegerCosts:
    """Figures of a profile's units.

    Attributes
    ----------
    integer
        (all settings,) whether a setting lets its site run on integers.
    members
        (decisions, units) 1 where a unit is part of a decision's site.
    beside
        For each technique, (all settings, units): what a setting leaves of a unit on integers, as a multiple of what it
        leaves in fp32, in logarithms. Of several techniques, which make a layer thin in turn, the largest counts.
    writers, readers
        (pairs,) units, those of one writer together.
    costs
        (pairs,) the share of latency, the same for all pairs of a writer: it is paid once.
    """

    integer: npt.NDArray[np.bool_]
    members: Values
    beside: tuple[sparse.csr_matrix, ...]
    writers: npt.NDArray[np.int64]
    readers: npt.NDArray[np.int64]
    costs: Values

    @classmethod
    def of(cls, profile: Profile, paths: Sequence[str], offsets: Sequence[int]) -> IntegerCosts | None:
        """Return the figures of a profile, None if it has none.

        Parameters
        ----------
        paths
            Of the units.
        offsets
            (decisions,) where the settings of a decision begin.
        """
        table, choices = profile.latency, profile.choices
        if table is None or not (table.borders or table.alongside):
            return None
        place = {path: i for i, path in enumerate(paths)}
        integer = np.zeros(int(choices.counts.sum()), dtype=bool)
        members = np.zeros((len(choices), len(paths)))
        entries: dict[str, list[tuple[int, int, float]]] = {}
        for i, (offset, decision, effects) in enumerate(zip(offsets, choices.decisions, profile.effects)):
            own = [p for p in choices.space.sites[decision.site].members if p in place]
            members[i, [place[p] for p in own]] = 1
            runs = [e.work.endswith(ON_INTEGERS) for e in effects]
            integer[offset + 1 : offset + 1 + len(effects)] = runs
            for number, (setting, effect) in enumerate(zip(choices.settings[i], effects), 1):
                left = table.shares(decision.site, effect)
                for path, share in table.alongside.get(LatencyTable.key(decision.site, effect), {}).items():
                    if path in place and min(share, left.get(path, 1.0)) > 0:
                        found = (offset + number, place[path], np.log(share / left.get(path, 1.0)))
                        entries.setdefault(setting.technique, []).append(found)
        beside = tuple(_sparse(found, (len(integer), len(paths))) for found in entries.values())
        return cls(integer, members, beside, *_pairs(table, place))

    def extra(self, settings: npt.NDArray[np.int64], hot: sparse.csr_matrix, left: Values) -> Values:
        """Return what is to be added to genomes' latency.

        Parameters
        ----------
        settings
            (n, decisions) the places of their settings.
        hot
            (n, all settings) the same as ones and zeros.
        left
            (n, units) what is left by shares that multiply.
        """
        runs = self.integer[settings] @ self.members > 0
        most = least = np.zeros(left.shape)
        for own in self.beside:
            found = np.asarray((hot @ own).todense())
            most, least = np.maximum(most, found), np.minimum(least, found)
        kept: Values = np.where(runs, left * np.expm1(most + least), 0.0).sum(1)
        if len(self.writers):
            differ = runs[:, self.writers] != runs[:, self.readers]
            starts = np.flatnonzero(np.diff(self.writers, prepend=-1))
            kept += np.logical_or.reduceat(differ, starts, axis=1) @ self.costs[starts]
        return kept


def _pairs(
    table: LatencyTable, place: Mapping[str, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Values]:
    found = [
        (place[path], place[reader], cost)
        for path, (cost, readers) in table.borders.items()
        for reader in readers
        if path in place and reader in place
    ]
    writers, readers, costs = zip(*found) if found else ((), (), ())
    return np.array(writers, dtype=np.int64), np.array(readers, dtype=np.int64), np.array(costs, dtype=np.float64)


def _sparse(entries: Sequence[tuple[int, int, float]], shape: tuple[int, int]) -> sparse.csr_matrix:
    rows, columns, values = zip(*entries)
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)
