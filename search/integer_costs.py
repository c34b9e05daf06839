"""What a latency has beyond shares that multiply, where layers run on integers; see `LatencyTable`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .effects import ON_INTEGERS
from .latency_table import LatencyTable
from .sensitivity import Profile

Values = npt.NDArray[np.float64]
#: Layers of which less is left are gone.
_GONE = 1e-9


@dataclass(frozen=True)
class IntegerCosts:
    """Figures of a profile's units.

    Attributes
    ----------
    integer
        (all settings,) whether a setting lets its site run on integers.
    members
        (decisions, units) 1 where a unit is part of a decision's site.
    whole
        (units,) shares of latency that units take on integers, if nothing else is done to them.
    stubborn
        (units,) what part of that nothing saves.
    writers, readers
        (pairs,) units, those of one writer together.
    costs
        (pairs,) the share of latency, the same for all pairs of a writer: it is paid once.
    """

    integer: npt.NDArray[np.bool_]
    members: Values
    whole: Values
    stubborn: Values
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
        if table is None or not (table.borders or table.stubborn):
            return None
        place = {path: i for i, path in enumerate(paths)}
        integer = np.zeros(int(choices.counts.sum()), dtype=bool)
        members = np.zeros((len(choices), len(paths)))
        whole = np.zeros(len(paths))
        for i, (offset, decision, effects) in enumerate(zip(offsets, choices.decisions, profile.effects)):
            own = [p for p in choices.space.sites[decision.site].members if p in place]
            members[i, [place[p] for p in own]] = 1
            runs = [e.work.endswith(ON_INTEGERS) for e in effects]
            integer[offset + 1 : offset + 1 + len(effects)] = runs
            if any(runs):
                left = table.left.get(LatencyTable.key(decision.site, effects[runs.index(True)]), {})
                whole[[place[p] for p in own]] = [table.units.get(p, 0.0) * left.get(p, 1.0) for p in own]
        stubborn = np.array([table.stubborn.get(path, 0.0) for path in paths])
        return cls(integer, members, whole, stubborn, *_pairs(table, place))

    def extra(self, settings: npt.NDArray[np.int64], left: Values) -> Values:
        """Return what is to be added to genomes' latency.

        Parameters
        ----------
        settings
            (n, decisions) the places of their settings.
        left
            (n, units) what is left by shares that multiply.
        """
        runs = self.integer[settings] @ self.members > 0
        kept: Values = (np.where(runs & (left > _GONE), self.whole - left, 0.0)) @ self.stubborn
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
