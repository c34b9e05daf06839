"""Settings that give the same model: one scale for every 64 weights, say, where no row has more of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Setting
from .effects import Effect


def alike(
    settings: Sequence[Sequence[Setting]], effects: Sequence[Sequence[Effect]]
) -> dict[int, npt.NDArray[np.int64]]:
    """Return which settings stand for others: those of one technique that leave the same of every layer, and whose
    damage is the same to the last bit.

    A trial of another would only show what is known. Of each such group the one whose name takes the fewest bytes in
    the file stands for all. (After other steps, two criteria may disagree again; so small a difference is given up.)

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
        groups: dict[object, list[int]] = {}
        for number, (setting, effect) in enumerate(zip(own, done), 1):
            if effect.error or not 0 < effect.damage < math.inf:  # what does no damage may differ all the same
                continue
            left = (setting.technique, effect.damage, effect.change, effect.work, tuple(sorted(effect.shares.items())))
            groups.setdefault(left, []).append(number)
        stands = np.arange(len(own) + 1)
        for numbers in groups.values():
            stands[numbers] = max(numbers, key=lambda number: done[number - 1].saved)
        if (stands != np.arange(len(stands))).any():
            found[place] = stands
    return found
