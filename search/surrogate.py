"""What recipes lose of quality, learnt from trials on top of the profile's predictions.

The damage of a recipe is the sum of its steps' predicted damages, each times a factor that is learnt: for its
site, its technique, its setting, the size of its change, and a power of the damage itself for each technique: strong
settings may do less beside gentle ones than was predicted, or more. Training gives a factor of what was lost back.
Quality falls with the total along a curve whose place and slope are learnt too. In logarithms all this is close to
linear, so that a few steps of Bayesian regression from the previous answer are enough after each trial
(`regression.py`), and say how sure a prediction is. Without any trial it predicts what the profile does. What it can't
explain is luck, which similar recipes share (`luck.py`); around what was tried, nothing has to be explained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr

from ..spaces.choices import Genomes
from ..spaces.stage import Stage
from .effects import Effect
from .loss_scale import LossScale
from .luck import Coordinates, Luck, correlations
from .outlook import Outlook
from .regression import Belief, Prior
from .sensitivity import Profile

Values = npt.NDArray[np.float64]
Effects = tuple[Values, Values, Values, Values]

#: Standard deviations of the prior, in natural logarithms of damage: of sites, techniques, settings, changes, and of
#: what training gives back: on its own, by each of its knobs, and for a technique.
_SITE, _TECHNIQUE, _SETTING, _CHANGE, _STRENGTH = 0.9, 0.5, 0.6, 1.0, 0.5
_GAIN, _GAIN_SETTING, _GIVEN_BACK = 0.7, 0.5, 0.4
#: What training is expected to give back before any was seen: damage falls to exp(-gain).
_TRAINED, _LONGEST = 0.7, 0.5
#: The harm that training does, as the logit of the quality lost where nothing was damaged: mean and standard deviation,
#: and that of what a knob adds. It isn't a damage: how the profile's damages turn into losses says nothing of it.
_HARMED, _HARM, _HARM_SETTING = -5.6, 1.3, 0.65
#: Where and how steeply quality falls: mean and standard deviation of intercept and slope.
_PLACE, _PLACE_SD, _SLOPE, _SLOPE_SD = -0.5, 1.5, 1.3, 0.3
_LEAST_SLOPE = 0.2
#: Standard deviation of what the model can't explain: expected, by how much (in natural logarithms), and at least.
_MISFIT, _MISFIT_SD, _LEAST_MISFIT = 0.5, 0.7, 0.1
#: Each time it learns, from so many trials on, misfit is compared with one by this factor smaller and larger.
_ENOUGH, _FINER = 5, 1.25
#: From so many standard deviations on, a trial is taken for one that says little.
_FAR = 4.0
#: Standard deviation of what luck does to quality, at least, as a share of the loss that makes a model useless.
_LEAST_LUCK = 1e-4
#: Standard deviation of what is known.
_SURE = 1e-9
#: Of luck, the part that comes from training, where it may be had.
_OF_TRAINING = 0.2
#: Trials that the regression looks at: the latest best ones say most.
LOOKED_AT = 400
_STEPS = 2


class Features:
    """A few features of each setting, and what they come to in a recipe.

    Parameters
    ----------
    matrix
        (all settings, features).
    """

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        self.matrix, self.width = matrix, int(matrix.shape[1])
        each = np.diff(matrix.indptr)
        most = int(each.max(initial=0))
        place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], each)
        row = np.repeat(np.arange(len(each)), each)
        self._column = np.zeros((len(each), most), dtype=np.int64)
        self._value = np.zeros((len(each), most))
        self._column[row, place], self._value[row, place] = matrix.indices, matrix.data

    def sums(self, taken: Genomes, shares: Values) -> Values:
        """Return (n, features): those of the settings that were taken (n, decisions), each times its share."""
        row, decision = np.nonzero(shares)
        setting = taken[row, decision]
        column = self._column[setting] + self.width * row[:, None]
        weight = self._value[setting] * shares[row, decision][:, None]
        size = len(taken) * self.width
        sums = np.bincount(column.reshape(-1), weight.reshape(-1), minlength=size).astype(np.float64, copy=False)
        found: Values = sums.reshape(len(taken), self.width)
        return found


@dataclass(frozen=True)
class _Trials:
    """Genomes (n, decisions), their measured logits and errors of measurement (n,), and their correlations (n, n)."""

    genomes: Genomes
    target: Values
    error: Values
    alike: Values


class Surrogate:
    """Predicts the loss of quality.

    Parameters
    ----------
    profile
        Of the space.
    span
        A loss of quality that makes a model useless; differences beyond it don't matter.
    noise
        Standard error of a measured loss of quality.
    """

    def __init__(self, profile: Profile, span: float, noise: float) -> None:
        self.scale = LossScale(span, max(noise, 1e-6 * span))
        self.damage = np.concatenate(profile.damage)
        finite = self.damage[np.isfinite(self.damage) & (self.damage > 0)]
        self._typical = float(np.median(finite)) if len(finite) else 1.0
        self.impossible = ~np.isfinite(self.damage)
        self.damage = np.where(self.impossible, 1e3 * self._typical, self.damage)
        self.floor = max(1e-3 * self._typical, float(np.finfo(float).tiny))  # damage of a recipe without damage
        self._features(profile)
        width = self.factors.width, self.techniques.width, self.gains.shape[1]
        ends = np.cumsum([2, width[0], width[1], width[2], width[2]])
        self._factor, self._back, self._gain, self._harm = (slice(a, b) for a, b in pairwise(ends))
        harm = np.where(self._whole_gain, _HARMED, 0.0)
        self.mean = np.concatenate([[_PLACE, _SLOPE], np.zeros(width[0] + width[1]), self._expected, harm])
        spread = np.concatenate(
            [
                [_PLACE_SD, _SLOPE_SD, *self._spread],
                np.full(width[1], _GIVEN_BACK),
                self._gain_spread,
                np.where(self._whole_gain, _HARM, _HARM_SETTING),
            ]
        )
        self.prior = Prior(self.mean, np.square(spread))
        self.covariance = np.diag(self.prior.variance)
        self._derivatives = np.zeros((0, len(self.mean)))  # of the trials that luck was learnt from
        self.misfit, self.luck = _MISFIT, Luck(_LEAST_LUCK * span)
        self._coordinates = Coordinates(len(self.damage))
        self._known: tuple[Values, tuple[Values, Values, Values, Values]] | None = None

    def _features(self, profile: Profile) -> None:
        choices = profile.choices
        self.offsets = np.concatenate([[0], np.cumsum(choices.counts)[:-1]])
        self._training = [i for i, d in enumerate(choices.decisions) if d.stage is Stage.RECOVERY]
        names: dict[Any, int] = {}
        gains: dict[Any, int] = {}
        spread: list[float] = []
        expected: list[float] = []
        gain_spread: list[float] = []
        techniques: dict[str, int] = {}
        rows: list[list[tuple[int, int, float]]] = [[], [], []]
        change = [e.change for effects in profile.effects for e in (Effect(), *effects)]
        offset = 0
        for decision, settings in zip(choices.decisions, choices.settings):
            for number, setting in enumerate(settings, 1):
                row = offset + number
                if decision.stage is Stage.RECOVERY:
                    knobs = decision.option(setting.technique).knobs
                    for name, value in (("", ""), *setting.params):
                        key = (setting.technique, name, value)
                        if key not in gains:
                            gains[key] = len(gains)
                            first = bool(name) and name == knobs[0].name
                            place = knobs[0].index(value) / max(1, len(knobs[0].values) - 1) if first else 0.0
                            expected.append(_TRAINED if not name else _LONGEST * place)
                            gain_spread.append(_GAIN_SETTING if name else _GAIN)
                        rows[1].append((row, gains[key], 1.0))
                elif self.damage[row] > 0:
                    rows[2].append((row, techniques.setdefault(setting.technique, len(techniques)), 1.0))
                    for feature, width, value in (
                        (("site", decision.site), _SITE, 1.0),
                        (("technique", setting.technique), _TECHNIQUE, 1.0),
                        (("setting", setting), _SETTING, 1.0),
                        (("change", ""), _CHANGE, change[row]),
                        (("strength", setting.technique), _STRENGTH, float(np.log(self.damage[row] / self._typical))),
                    ):
                        if feature not in names:
                            names[feature] = len(names)
                            spread.append(width)
                        rows[0].append((row, names[feature], value))
            offset += len(settings) + 1
        self._spread, self._expected, self._gain_spread = spread, np.array(expected), np.array(gain_spread)
        self._whole_gain = np.array([not name for _, name, _ in gains], dtype=np.bool_)  # not a knob's

        def matrix(entries: list[tuple[int, int, float]], columns: int) -> sparse.csr_matrix:
            place = np.array([(row, column) for row, column, _ in entries], dtype=np.int64).reshape(-1, 2)
            values = [value for _, _, value in entries]
            return sparse.csr_matrix((values, (place[:, 0], place[:, 1])), shape=(offset, columns))

        self.gains = matrix(rows[1], len(gains))
        self._dense_gains = self.gains.toarray()
        self.factors, self.techniques = (
            Features(matrix(rows[0], len(names))),
            Features(matrix(rows[2], len(techniques))),
        )
        self.trains = np.zeros(offset)
        self.trains[[row for row, column, _ in rows[1]]] = 1.0

    # --- prediction ----------------------------------------------------------------------------------------

    def damages(self, *, trained: bool | None = None) -> Values:
        """Return (all settings,) damage of each setting with what was learnt.

        ``trained`` says whether what training gives back for a technique is taken off; by default if there is any.
        """
        logs = self.factors.matrix @ self.mean[self._factor]
        if self.trains.any() if trained is None else trained:
            logs = logs - self.techniques.matrix @ self.mean[self._back]
        learnt: Values = self.damage * np.exp(logs)
        return learnt

    def _learnt(self) -> tuple[Values, Values, Values, Values]:
        """Return what follows from the parameters alone, for all settings: damages without and with training, the
        gain, and the harm of training.
        """
        if self._known is None or self._known[0] is not self.mean:
            parts = (
                self.damages(trained=False),
                self.damages(trained=True),
                self.gains @ self.mean[self._gain],
                self.gains @ self.mean[self._harm],
            )
            self._known = self.mean, parts
        return self._known[1]

    def _effect(self, genomes: Genomes) -> Effects:
        """Return what each decision of each genome does (n, decisions), its sum (n,), what of it training leaves (n,),
        and the harm training does (n,).
        """
        taken = genomes + self.offsets
        training = taken[:, self._training]
        trained = self.trains[training].sum(1)
        untrained, recovered, gain, loss = self._learnt()
        own = untrained[taken]
        if trained.any():
            own = np.where(trained[:, None] > 0, recovered[taken], own)
        total = own.sum(1) + self.floor
        left = total * np.exp(-gain[training].sum(1))
        harm = trained * self._damage(loss[training].sum(1))
        return own, total, left, harm

    def _damage(self, logit: Values) -> Values:
        """Return the damage that comes to a logit."""
        damage: Values = np.exp((logit - self.mean[0]) / self.mean[1])
        return damage

    def _rows(self, genomes: Genomes, effect: Effects | None = None) -> tuple[Values, Values]:
        """Return predicted logits (n,) and their derivatives (n, parameters), from what `_effect` returned."""
        own, total, left, harm = effect or self._effect(genomes)
        taken = genomes + self.offsets
        log = np.log(left + harm)
        weight = (left / (left + harm))[:, None]
        share = own / total[:, None]
        training = taken[:, self._training]
        gains = self._dense_gains[training].sum(1)
        back = self.techniques.sums(taken, share) * self.trains[training].sum(1)[:, None]
        slope = self.mean[1]
        parts = [slope * weight * self.factors.sums(taken, share), -slope * weight * back, -slope * weight * gains]
        harmed = np.where(harm > 0, np.log(np.where(harm > 0, harm, 1.0)), 0.0)
        curve = weight, (log - (1 - weight[:, 0]) * harmed)[:, None]
        derivatives = np.hstack([*curve, *parts, (1 - weight) * gains])
        return self.mean[0] + self.mean[1] * log, derivatives

    def promise(self, genomes: Genomes) -> Values:
        """Return (n,) by how much the training of genomes (n, decisions) may be expected to beat the one believed to
        be best, where it does: natural logarithms of the damage that is left. Without training it is 0.
        """
        training = (genomes + self.offsets)[:, self._training]
        gains = self._learnt()[2]
        beyond = self._dense_gains[training].sum(1) - self._dense_gains[int(gains.argmax())]
        spread = np.sqrt(((beyond @ self.covariance[self._gain, self._gain]) * beyond).sum(1)) + _SURE
        score = (gains[training].sum(1) - gains.max()) / spread
        better = np.exp(-np.square(score) / 2) / np.sqrt(2 * np.pi) + score * ndtr(score)
        found: Values = self.trains[training].sum(1) * spread * better
        return found

    def best_training(self, rows: slice, totals: Values, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return for each total damage the training that leaves least of it, each in a draw of what is believed.

        Parameters
        ----------
        rows
            The recovery decision's places among all settings, none first.
        totals
            (n,) damages before training.
        random
            Draws beliefs.
        """
        both = np.concatenate([np.arange(len(self.mean))[self._gain], np.arange(len(self.mean))[self._harm]])
        root = np.linalg.cholesky(self.covariance[np.ix_(both, both)] + 1e-9 * np.eye(len(both)))
        draws = self.mean[both] + random.standard_normal((len(totals), len(both))) @ root.T
        gains, harms = np.split(draws, 2, axis=1)
        features = self.gains[rows].toarray()
        left = totals[:, None] * np.exp(-gains @ features.T) + self.trains[rows] * self._damage(harms @ features.T)
        best: npt.NDArray[np.int64] = left.argmin(1)
        return best

    def expect(self, genomes: Genomes) -> Outlook:
        """Return what is expected of genomes (n, decisions), as if all that is explained were sure: this is quick."""
        own, total, left, harm = self._effect(genomes)
        logit: Values = self.mean[0] + self.mean[1] * np.log(left + harm)
        recipes = self._recipes(genomes, own, total)
        return self._outlook(logit, np.zeros(len(logit)), *self.luck.expect(recipes, total, self._misfit(logit)))

    def predict(self, genomes: Genomes) -> Outlook:
        """Return what is believed of genomes (n, decisions)."""
        effect = self._effect(genomes)
        own, total, *_ = effect
        logit, derivatives = self._rows(genomes, effect)
        recipes = self._recipes(genomes, own, total)
        shift, luck, weights = self.luck.predict(recipes, total, self._misfit(logit))
        derivatives -= weights @ self._derivatives  # what trials alike have told needs no parameters any more
        spread = np.sqrt(((derivatives @ self.covariance) * derivatives).sum(1))
        return self._outlook(logit, spread, shift, luck)

    def _misfit(self, logit: Values) -> Values:
        """Return the standard deviation (n,) of the loss that misfit is: a share of the damage, up to what counts."""
        damaged = self.scale.damaged(logit)
        return self.misfit * damaged * (1 - damaged / (self.scale.span + self.scale.noise))

    def _outlook(self, logit: Values, spread: Values, shift: Values, luck: Values) -> Outlook:
        return Outlook(self.scale, logit, spread, 0.0 if self.luck.known else self.misfit, shift, luck)

    def _recipes(self, genomes: Genomes, own: Values, total: Values) -> Values:
        """Return (n, coordinates) of genomes, given the damage that each decision does and all together."""
        shares = own / total[:, None]
        if self._training:
            shares *= 1 - _OF_TRAINING
            shares[:, self._training] = _OF_TRAINING / len(self._training)
        return self._coordinates.of(genomes + self.offsets, shares)

    # --- learning ------------------------------------------------------------------------------------------

    def learn(self, genomes: Genomes, lost: Values, steps: int = 1) -> None:
        """Take in the trials so far, from what was believed before.

        Parameters
        ----------
        genomes
            (n, decisions) that were tried, at most `LOOKED_AT`.
        lost
            (n,) what each lost of quality.
        steps
            How often at most, until the misfit stays as it is; one is enough where few trials are new.
        """
        if not len(lost):
            return
        for _ in range(steps):
            before = self.misfit
            self._step(genomes, lost)
            if self.misfit == before:
                break
        if len(lost) >= _ENOUGH:
            logits, self._derivatives = self._rows(genomes)
            own, total, *_ = self._effect(genomes)
            left_over = np.clip(lost, -self.scale.span, self.scale.span) - self.scale.damaged(logits)
            self.luck.learn(self._recipes(genomes, own, total), total, self._misfit(logits), left_over)

    def _step(self, genomes: Genomes, lost: Values) -> None:
        """Take one step towards what is likeliest."""
        target, error = self.scale.logit(lost), self.scale.noise * self.scale.steepness(lost)
        own, total, *_ = self._effect(genomes)
        off = np.abs(target - self._rows(genomes)[0])  # what is far off isn't an error of that kind: say, it failed
        error = np.hypot(error, np.maximum(off - _FAR * np.hypot(error, self.misfit), 0.0))
        trials = _Trials(genomes, target, error, correlations(self._recipes(genomes, own, total)))
        start, misfit = self.mean, self.misfit
        belief = self._fit(start, trials, misfit)
        if len(lost) >= _ENOUGH:
            for factor in (1 / _FINER, _FINER):
                other = float(np.clip(misfit * factor, _LEAST_MISFIT, 2 * _MISFIT))
                found = self._fit(start, trials, other)
                if found.evidence > belief.evidence:
                    belief, self.misfit = found, other
        self.mean, self.covariance = belief.mean, belief.covariance

    def _fit(self, start: Values, trials: _Trials, misfit: float) -> Belief:
        """Return what is believed of the parameters if misfit is so large, a few steps from the start."""
        root = np.linalg.cholesky(misfit**2 * trials.alike + np.diag(np.square(trials.error)))
        self.mean = start
        for _ in range(_STEPS):
            belief = self.prior.step(self.mean, *self._rows(trials.genomes), trials.target, root)
            belief.mean[1] = max(belief.mean[1], _LEAST_SLOPE)
            self.mean = belief.mean
        return replace(belief, evidence=belief.evidence - 0.5 * (np.log(misfit / _MISFIT) / _MISFIT_SD) ** 2)
