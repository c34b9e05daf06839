"""What is believed of the quality that recipes lose, before they are tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from .loss_scale import LossScale

Values = npt.NDArray[np.float64]

#: Standard deviations at which a loss is looked at, to see how likely it is to be allowed.
_DEVIATIONS = np.linspace(-6, 6, 49)


@dataclass(frozen=True)
class Outlook:
    """Beliefs on n recipes.

    Attributes
    ----------
    scale
        Of the logits.
    logit
        (n,) what is expected of damage and training.
    spread
        (n,) its standard deviation.
    misfit
        What of a logit is left unexplained: standard deviation.
    shift
        (n,) loss expected beside that, of luck.
    luck
        (n,) its standard deviation.
    """

    scale: LossScale
    logit: Values
    spread: Values
    misfit: float
    shift: Values
    luck: Values

    def at(self, luck: float) -> Values:
        """Return losses (n,) as expected, or so many standard deviations above."""
        return self._off(luck, np.hypot(self.spread, self.misfit))

    def lucky(self) -> Values:
        """Return losses (n,) if everything is as explained, and all that is unexplained goes well."""
        return self._off(-1.0, np.full(len(self.logit), self.misfit))

    def _off(self, luck: float, spread: Values) -> Values:
        expected = self.scale.damaged(self.logit)
        off = np.hypot(self.scale.damaged(self.logit + luck * spread) - expected, luck * self.luck)
        lost: Values = expected + self.shift + np.sign(luck) * off
        return lost

    def chance(self, allowed: float) -> Values:
        """Return the chances (n,) to lose no more than is allowed: where `at` comes to that."""
        losses = np.maximum.accumulate(np.stack([self.at(luck) for luck in _DEVIATIONS.tolist()]))
        kept = (losses <= allowed).sum(0)
        above = np.clip(kept, 1, len(_DEVIATIONS) - 1)
        low, high = (losses[place, np.arange(losses.shape[1])] for place in (above - 1, above))
        way = np.clip(allowed - low, 0.0, high - low) / np.where(high > low, high - low, 1.0)
        deviation = _DEVIATIONS[above - 1] + way * (_DEVIATIONS[1] - _DEVIATIONS[0])
        chance: Values = np.where(kept == 0, 0.0, np.where(kept == len(_DEVIATIONS), 1.0, ndtr(deviation)))
        return chance
