"""Settings that give the same model: one scale for every 64 weights, say, where no row has more of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Choices, Genomes, Setting
from .effects import Effect


def alike(
    settings: Sequence[Sequence[Setting]], effects: Sequence[Sequence[Effect]]
) -> dict[int, npt.NDArray[np.int64]]:
    """Return which settings do what an earlier one does: those of one technique that leave the same of every layer, and
    whose damage is the same to the last bit. A trial of another would only show what is known.

    After other steps two criteria may disagree again, and that is not foreseen.

    Parameters
    ----------
    settings, effects
        Of each decision.

    Returns
    -------
    dict
        See `Choices`; decisions whose settings all differ have no entry.
    """
    found = {}
    for place, (own, done) in enumerate(zip(settings, effects)):
        first: dict[object, int] = {}
        stands = np.arange(len(own) + 1)
        for number, (setting, effect) in enumerate(zip(own, done), 1):
            if effect.error or not 0 < effect.damage < math.inf:  # what does no damage may differ all the same
                continue
            left = (setting.technique, effect.damage, effect.change, effect.work, tuple(sorted(effect.shares.items())))
            stands[number] = first.setdefault(left, number)
        if (stands != np.arange(len(stands))).any():
            found[place] = stands
    return found


class Models:
    """Counts models under whatever name they have.

    Parameters
    ----------
    choices
        Knows which settings are alike.
    """

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self._counts: Counter[bytes] = Counter()

    def count(self, genome: npt.NDArray[np.int64], change: int) -> None:
        """Count the model of a genome (decisions,) so many times more."""
        self._counts[self.choices.merged(genome[None]).tobytes()] += change

    def new(self, rows: Genomes) -> Genomes:
        """Return those of rows (n, decisions) whose models aren't counted, each model once."""
        named = {row.tobytes(): i for i, row in enumerate(self.choices.merged(rows))}
        return rows[[i for key, i in named.items() if not self._counts[key]]]
