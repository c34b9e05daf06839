"""Which steps are to blame for trials that failed, so that they aren't tried over and over.

A step that was ever part of a trial that ran is innocent. A failed trial's blame is shared by the steps of it that are
not known to be innocent, so it gathers on the one that they have in common as the others are cleared.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Choices, Genomes

Values = npt.NDArray[np.float64]

#: Failed trials that are remembered.
_LATEST = 200


class Failures:
    """Foretells failures. The settings of one technique at a site stand or fall together.

    Parameters
    ----------
    choices
        The space's settings.
    """

    def __init__(self, choices: Choices) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(choices.counts)[:-1]])
        steps: dict[tuple[int, str], int] = {}
        found = []
        for place, settings in enumerate(choices.settings):
            found += [0, *(steps.setdefault((place, s.technique), len(steps) + 1) for s in settings)]
        self._step = np.array(found, dtype=np.int64)  # of each setting; 0 is no step
        self._innocent = np.zeros(len(steps) + 1, dtype=bool)
        self._innocent[0] = True
        self._failed: list[npt.NDArray[np.int64]] = []
        self._blame = np.zeros(len(steps) + 1)

    def tell(self, genome: npt.NDArray[np.int64], failed: bool) -> None:
        """Report whether the trial of a genome (decisions,) failed."""
        steps = self._step[genome + self._offsets]
        if failed:
            self._failed = [*self._failed, steps][-_LATEST:]
        elif self._innocent[steps].all():
            return
        else:
            self._innocent[steps] = True
        self._blame[:] = 0.0
        for others in self._failed:
            suspects = others[~self._innocent[others]]
            self._blame[suspects] += 1 / max(1, len(suspects))

    def chance(self, genomes: Genomes) -> Values:
        """Return the chance (n,) that trials of genomes (n, decisions) don't fail."""
        chance: Values = np.exp(-self._blame[self._step[genomes + self._offsets]].sum(1))
        return chance

    def drawn(self, random: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Return of each setting (all settings,) whether it fails, in a draw of what is believed."""
        fails = random.random(len(self._blame)) > np.exp(-self._blame)
        return fails[self._step]
