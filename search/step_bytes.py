"""What files have beside the predicted bytes: a share of those, and some for each step. Learnt from trials.

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

#: Standard deviations of what is expected: of a step, in bytes; of all together, as a share; and of what is left of a
#: file's length, as a share.
_EXPECTED, _SHARE, _LEFT = 60.0, 0.03, 0.005
#: Genomes by which a length is corrected back.
_NEAREST = 9
#: What is left of a prediction at least: steps that save bytes must not add up to nothing where nobody has tried.
_LEAST = 0.5


class StepBytes:
    """Corrects predicted lengths of files.

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
        self._share = 0.0

    def learn(self, genomes: Genomes, predicted: Values, measured: Values) -> None:
        """Take in the trials: genomes (n, decisions), lengths (n,) as predicted and as measured, NaN if unknown."""
        known = np.isfinite(measured) & (measured > 0)
        taken = self._technique[genomes[known] + self._offsets]
        places = taken + self._width * np.arange(len(taken))[:, None]
        steps = np.bincount(places.reshape(-1), minlength=len(taken) * self._width).reshape(len(taken), self._width)
        rows = steps.astype(np.float64)
        rows[:, 0] = predicted[known]  # in place of the steps that nobody takes
        weighted = rows / np.square(_LEFT * measured[known])[:, None]
        prior = np.where(np.arange(self._width) == 0, _SHARE, _EXPECTED)
        each = np.linalg.solve(weighted.T @ rows + np.diag(prior**-2.0), weighted.T @ (measured - predicted)[known])
        self._share, each[0] = float(each[0]), 0.0
        self._bytes = each[self._technique].astype(np.float64)

    def before(self, genomes: Genomes, predicted: Values, wanted: float) -> float:
        """Return the predicted length as a share of the corrected one, where that is nearest to a wanted length, by
        genomes (n, decisions), n > 0, of these predicted lengths (n,).
        """
        corrected = self.corrected(genomes, predicted)
        near = np.argsort(np.abs(corrected - wanted))[:_NEAREST]
        return float(np.median(predicted[near] / corrected[near]))

    def corrected(self, genomes: Genomes, predicted: Values) -> Values:
        """Return the lengths (n,) of files of genomes (n, decisions), given those that were predicted."""
        corrected = (1 + self._share) * predicted + self._bytes[genomes + self._offsets].sum(1)
        found: Values = np.maximum(corrected, _LEAST * predicted)
        return found
