"""Losses of quality on a scale on which the damages of layers are about to add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LossScale:
    """Turns a loss of quality into a logit and back.

    Attributes
    ----------
    span
        A loss of quality that makes a model useless; differences beyond it don't matter.
    noise
        Standard error of a measured loss of quality. Gains larger than that are out of the scale.
    """

    span: float
    noise: float

    def logit(self, lost: Values) -> Values:
        """Return the logit of losses of quality, as shares of what counts."""
        inside = np.clip(lost, -self.noise / 2, self.span)
        return np.log((inside + self.noise) / (self.span + self.noise - inside))

    def steepness(self, lost: Values) -> Values:
        """Return the derivative of the logit at losses."""
        inside = np.clip(lost, -self.noise / 2, self.span)
        return (self.span + 2 * self.noise) / ((inside + self.noise) * (self.span + self.noise - inside))

    def lost(self, logit: Values) -> Values:
        """Return the loss of quality that belongs to a logit."""
        share: Values = expit(logit)
        return share * (self.span + 2 * self.noise) - self.noise

    def damaged(self, logit: Values) -> Values:
        """Return the loss of quality that damage does: it makes nothing better."""
        return np.maximum(self.lost(logit), 0.0)
