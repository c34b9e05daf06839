"""What a step of each technique adds to a file beside the numbers, or takes from it: learnt from trials.

The profile measures each step alone. A layer that takes several steps pays once for its tables of codes, a file once
for the names in it, and a recipe without the coder has longer numbers than was predicted. On a small model that is a
sixth of the file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..spaces.choices import Choices, Genomes
from ..spaces.stage import Stage

Values = npt.NDArray[np.float64]

#: Standard deviation of what is expected of a step, in bytes; and what is left of a file's length, as a share.
_EXPECTED, _LEFT = 60.0, 0.01


class StepBytes:
    """Bytes that are added to the predicted length of a file, for each step of a technique.

    Parameters
    ----------
    choices
        Of the space.
    """

    def __init__(self, choices: Choices) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(choices.counts)[:-1]])
        self._technique = np.zeros(int(choices.counts.sum()), dtype=np.int64)  # 0 is none
        names: dict[str, int] = {}
        for offset, decision, settings in zip(self._offsets, choices.decisions, choices.settings):
            if decision.stage is not Stage.RECOVERY:
                for number, setting in enumerate(settings, 1):
                    self._technique[offset + number] = names.setdefault(setting.technique, 1 + len(names))
        self._width = 1 + len(names)
        self._bytes: Values = np.zeros(len(self._technique))

    def learn(self, genomes: Genomes, predicted: Values, measured: Values) -> None:
        """Take in the trials: genomes (n, decisions), lengths (n,) as predicted and as measured, NaN if unknown."""
        known = np.isfinite(measured) & (measured > 0)
        taken = self._technique[genomes[known] + self._offsets]
        places = taken + self._width * np.arange(len(taken))[:, None]
        steps = np.bincount(places.reshape(-1), minlength=len(taken) * self._width).reshape(len(taken), self._width)
        steps[:, 0] = 0
        weighted = steps / np.square(_LEFT * measured[known])[:, None]
        precision = weighted.T @ steps + np.eye(self._width) / _EXPECTED**2
        each = np.linalg.solve(precision, weighted.T @ (measured - predicted)[known])
        self._bytes = each[self._technique].astype(np.float64)

    def of(self, genomes: Genomes) -> Values:
        """Return the bytes (n,) that are added for genomes (n, decisions)."""
        added: Values = self._bytes[genomes + self._offsets].sum(1)
        return added
