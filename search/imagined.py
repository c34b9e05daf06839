"""Fronts as they would be if what is running came out as predicted: as expected, and if all goes better or worse.

What makes one proposal better than expected makes those like it better, too: so what is running is as lucky as what it
is compared with. Else the next proposal would be its neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .improvement import Improvement
from .pareto import nondominated

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Foretold:
    """What is predicted of one genome: its objectives (lucks, objectives) at each luck, and whether it keeps the
    limits and can be made: else it counts nothing.
    """

    points: Values
    counts: bool


class Imagined:
    """The fronts, one for each luck, kept up to date proposal by proposal.

    Parameters
    ----------
    improvement
        Makes gains from a front (n, objectives).
    measured
        The measured front and its gains.
    running
        Key of a genome -> what is foretold of it.
    lucks
        How many.
    """

    def __init__(
        self,
        improvement: Callable[[Values], Improvement],
        measured: tuple[Values, Improvement],
        running: Sequence[tuple[bytes, Foretold]],
        lucks: int,
    ) -> None:
        self._improvement = improvement
        self._keys: list[bytes] = [b""] * len(measured[0])
        self._rows = [measured[0]] * lucks
        self._of = [self._keys] * lucks
        self.gains = [measured[1]] * lucks
        counted = [(key, foretold) for key, foretold in running if foretold.counts]
        if counted:
            for k in range(lucks):
                self._become(k, np.stack([f.points[k] for _, f in counted]), [key for key, _ in counted])

    def _become(self, luck: int, points: Values, keys: list[bytes]) -> None:
        if len(points) == 1 and (self._rows[luck] <= points).all(1).any():  # it is behind the front, as most are
            return
        rows = np.vstack([self._rows[luck], points])
        keep = nondominated(rows)
        if keep == list(range(len(self._rows[luck]))):
            return
        self._rows[luck], names = rows[keep], [*self._of[luck], *keys]
        self._of[luck] = [names[i] for i in keep]
        self.gains[luck] = self._improvement(self._rows[luck])

    def add(self, key: bytes, foretold: Foretold) -> None:
        """Take in what is running from now on."""
        if foretold.counts:
            for k in range(len(self._rows)):
                self._become(k, foretold.points[k][None], [key])

    def holds(self, key: bytes) -> bool:
        """Whether a running genome is part of a front: the fronts are others without it."""
        return any(key in names for names in self._of)
