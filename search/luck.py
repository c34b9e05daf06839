"""What compression does to quality beside damage: it turns some answers right and others wrong.

A changed layer gives other answers, a few of them better ones, so that a model may even beat the original on the
examples that it is measured on. Recipes have this in common as far as the same settings do their damage. So what the
regression leaves unexplained is a Gaussian process over recipes, with that share as correlation (Rasmussen & Williams,
"Gaussian Processes for Machine Learning", 2006, chapter 2): around a lucky recipe others are expected to be lucky, and
what is all but known isn't worth a trial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import cho_solve, solve_triangular

Values = npt.NDArray[np.float64]

#: Of the variance, the part that recipes with the same settings have in common; the rest is each recipe's own.
_SHARED = 0.5
#: Answers that change are about as many as the root of the damage; what they come to varies with the root of that.
_POWER = 0.25
#: So many standard deviations off is no luck: the trial failed, or is far from all others.
_OUTLIER = 3.0
#: Of the variance, what stays unknown whatever was tried.
_UNKNOWN = 0.05
#: Median of a standard normal without its sign.
_MEDIAN = 0.6745
#: The share of trials, from the least damage on, that tell how large luck is.
_BEST = 0.8


@dataclass(frozen=True)
class _Seen:
    """Trials: settings (n, all settings), the Cholesky factor of their correlations, and what each setting pulls."""

    settings: sparse.csr_matrix
    root: Values
    pull: Values


class Luck:
    """Learns what trials have left over.

    Parameters
    ----------
    least
        The least standard deviation at a damage of one.
    """

    def __init__(self, least: float) -> None:
        self.deviation = self._least = least
        self._seen: _Seen | None = None

    @property
    def known(self) -> bool:
        """Whether anything was learnt."""
        return self._seen is not None

    def learn(self, settings: sparse.csr_matrix, damage: Values, misfit: Values, left_over: Values) -> None:
        """Take in the trials so far.

        Parameters
        ----------
        settings
            (n, all settings) roots of the shares of the damage; their squares add up to at most one.
        damage
            (n,) in all.
        misfit
            (n,) standard deviation of the loss if all that is unexplained were errors of the damage.
        left_over
            (n,) measured loss of quality less what is explained.
        """
        off = left_over / damage**_POWER
        best = damage <= np.quantile(damage, _BEST)
        self.deviation = max(float(np.median(np.abs(off[best]))) / _MEDIAN, self._least)
        correlation = _SHARED * (settings @ settings.T).toarray() + (1 - _SHARED) * np.eye(len(damage))
        root = np.linalg.cholesky(correlation)
        off = np.clip(left_over / self._scale(damage, misfit), -_OUTLIER, _OUTLIER)
        weights = cho_solve((root, True), off)
        self._seen = _Seen(settings, root, _SHARED * (settings.T @ weights))

    def _scale(self, damage: Values, misfit: Values) -> Values:
        """Return standard deviations (n,): luck's where there is little damage, and misfit's where there is much."""
        return np.maximum(self.deviation * damage**_POWER, misfit)

    def expect(self, settings: sparse.csr_matrix, damage: Values, misfit: Values) -> tuple[Values, Values]:
        """Return what recipes are expected to lose beside what is explained (n,), and its standard deviation (n,) as
        if nothing like them had been tried.
        """
        if self._seen is None:
            return np.zeros(len(damage)), np.zeros(len(damage))
        scale = self._scale(damage, misfit)
        return scale * (settings @ self._seen.pull), scale

    def predict(self, settings: sparse.csr_matrix, damage: Values, misfit: Values) -> tuple[Values, Values]:
        """Return what recipes are expected to lose beside what is explained (n,), and its standard deviation (n,)."""
        expected, deviation = self.expect(settings, damage, misfit)
        if self._seen is None:
            return expected, deviation
        common = _SHARED * (settings @ self._seen.settings.T).toarray()
        told = np.square(solve_triangular(self._seen.root, common.T, lower=True)).sum(0)
        return expected, deviation * np.sqrt(np.maximum(1 - told, _UNKNOWN))
