"""What compression does to quality beside damage: it turns some answers right and others wrong.

A changed layer gives other answers, a few of them better ones, so that a model may even beat the original on the
examples that it is measured on. Recipes have this in common as far as the same settings do their damage. So what the
regression leaves unexplained is a Gaussian process over recipes, whose correlation falls with that share (Rasmussen &
Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2): around a lucky recipe others are expected to be
lucky, and what is all but known isn't worth a trial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular

from ..spaces.choices import Genomes

Values = npt.NDArray[np.float64]

#: Of the variance, the part that recipes with the same settings have in common; the rest is each recipe's own.
_SHARED = 0.9
#: Coordinates of a recipe. Spaces of no more settings have one for each.
_WIDTH = 256
#: Answers that change are about as many as the root of the damage; what they come to varies with the root of that.
_POWER = 0.25
#: So many standard deviations off is no luck: the trial failed, or is far from all others.
_OUTLIER = 4.0
#: Of the variance, what stays unknown whatever was tried.
_UNKNOWN = 0.05
#: Median of a standard normal without its sign.
_MEDIAN = 0.6745
#: How large luck is and which trials tell that depend on each other: so many rounds are enough. At least so many trials
#: tell it, and at least this share of all.
_ROUNDS, _FEWEST, _LEAST_SHARE = 4, 5, 0.2


class Coordinates:
    """Places recipes so that the product of two is the share of the damage that the same settings do.

    Where settings are more than coordinates, several share one, each with a sign: what differs between two recipes is
    told within about a quarter (Charikar et al., "Finding Frequent Items in Data Streams", 2002).

    Parameters
    ----------
    settings
        How many there are in all.
    """

    def __init__(self, settings: int) -> None:
        self._place = np.arange(settings) % _WIDTH
        self._sign = np.random.default_rng(0).choice([-1.0, 1.0], settings)

    def of(self, taken: Genomes, shares: Values) -> Values:
        """Return (n, coordinates) of settings that were taken (n, decisions), with the share that each has."""
        place = self._place[taken] + _WIDTH * np.arange(len(taken))[:, None]
        weight = np.sqrt(shares) * self._sign[taken]
        found = np.bincount(place.reshape(-1), weight.reshape(-1), minlength=len(taken) * _WIDTH)
        rows = found.astype(np.float64, copy=False).reshape(len(taken), _WIDTH)
        length = np.linalg.norm(rows, axis=1)  # those that share a coordinate change it
        right = np.sqrt(shares.sum(1))
        placed: Values = rows * np.divide(right, length, out=np.zeros(len(rows)), where=length > 0)[:, None]
        return placed


@dataclass(frozen=True)
class _Seen:
    """Trials: coordinates (n, coordinates), the Cholesky factor of their correlations, and what each pulls (n,)."""

    recipes: Values
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

    def learn(self, recipes: Values, damage: Values, misfit: Values, left_over: Values) -> None:
        """Take in the trials so far.

        Parameters
        ----------
        recipes
            (n, coordinates).
        damage
            (n,) in all.
        misfit
            (n,) standard deviation of the loss if all that is unexplained were errors of the damage.
        left_over
            (n,) measured loss of quality less what is explained.
        """
        off = left_over / damage**_POWER
        alike = correlations(recipes)
        # Where misfit is more than luck, what is left over says nothing of luck: these come last, and tell nothing.
        drowned = misfit / damage**_POWER
        order, fewest = np.argsort(drowned, kind="stable"), max(_FEWEST, int(_LEAST_SHARE * len(drowned)))
        # What alike recipes have in common counts once: a search gathers around the lucky ones.
        alone = solve_triangular(np.linalg.cholesky(alike[np.ix_(order, order)]), off[order], lower=True)
        deviation = np.inf
        for _ in range(_ROUNDS):
            telling = max(fewest, int((drowned < deviation).sum()))
            deviation = float(np.median(np.abs(alone[:telling]))) / _MEDIAN
        self.deviation = max(deviation, self._least)
        root = np.asarray(np.linalg.cholesky(alike), np.float64)
        off = np.clip(left_over / self._scale(damage, misfit), -_OUTLIER, _OUTLIER)
        self._seen = _Seen(recipes, root, cho_solve((root, True), off))

    def _scale(self, damage: Values, misfit: Values) -> Values:
        """Return standard deviations (n,): luck's where there is little damage, and misfit's where there is much."""
        return np.maximum(self.deviation * damage**_POWER, misfit)

    def expect(self, recipes: Values, damage: Values, misfit: Values) -> tuple[Values, Values]:
        """Return what recipes (n, coordinates) are expected to lose beside what is explained (n,), and its standard
        deviation (n,) as if nothing like them had been tried.
        """
        if self._seen is None:
            return np.zeros(len(damage)), np.zeros(len(damage))
        scale = self._scale(damage, misfit)
        return scale * (_common(recipes, self._seen.recipes) @ self._seen.pull), scale

    def predict(self, recipes: Values, damage: Values, misfit: Values) -> tuple[Values, Values, Values]:
        """Return what recipes are expected to lose beside what is explained (n,), its standard deviation (n,), and how
        much each trial that was learnt from tells of them (n, trials).
        """
        if self._seen is None:
            return *self.expect(recipes, damage, misfit), np.zeros((len(damage), 0))
        common, scale = _common(recipes, self._seen.recipes), self._scale(damage, misfit)
        weights = np.asarray(cho_solve((self._seen.root, True), common.T).T, np.float64)
        unknown = np.maximum(1 - (weights * common).sum(1), _UNKNOWN)
        return scale * (common @ self._seen.pull), scale * np.sqrt(unknown), weights


def correlations(recipes: Values) -> Values:
    """Return the correlations (n, n) of trials of recipes (n, coordinates)."""
    alike: Values = _common(recipes, recipes) + (1 - _SHARED) * np.eye(len(recipes))
    return alike


def _common(first: Values, second: Values) -> Values:
    """Return the correlations (n, m) of recipes (n, coordinates) with others (m, coordinates).

    The fifth power of the share is what trials of a real network in three spaces are likeliest under (decision 26).
    """
    share = first @ second.T
    return _SHARED * share * np.square(np.square(share))
