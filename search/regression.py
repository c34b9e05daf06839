"""Bayesian regression of what is close to linear, where trials that are alike err alike.

One step is Gauss-Newton's from the last answer. Errors have a covariance, so that many trials of one kind count as few:
generalised least squares (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, section 2.7). What
speaks for a size of the errors is the evidence (Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.5):
residuals alone would also be large where the fit holds back because it takes them for errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

Values = npt.NDArray[np.float64]

#: No parameter goes farther at once.
_FARTHEST = 2.0


@dataclass(frozen=True)
class Belief:
    """What is believed of the parameters.

    Attributes
    ----------
    mean
        (parameters,).
    covariance
        (parameters, parameters).
    evidence
        Log of how likely the trials are, up to a constant.
    """

    mean: Values
    covariance: Values
    evidence: float


@dataclass(frozen=True)
class Prior:
    """What is believed of the parameters before any trial: mean and variance (parameters,), independent."""

    mean: Values
    variance: Values

    def step(self, mean: Values, predicted: Values, derivatives: Values, target: Values, root: Values) -> Belief:
        """Return what is believed after trials.

        Parameters
        ----------
        mean
            (parameters,) what the step goes from.
        predicted
            (n,) by those parameters.
        derivatives
            (n, parameters) of what is predicted.
        target
            (n,) measured.
        root
            (n, n) Cholesky factor, lower, of the covariance of the errors.
        """
        white = solve_triangular(root, np.column_stack([derivatives, target - predicted]), lower=True)
        rows, residual = white[:, :-1], white[:, -1]
        covariance, volume = self.posterior(rows)
        step = covariance @ (rows.T @ residual + (self.mean - mean) / self.variance)
        step *= min(1.0, _FARTHEST / max(1e-9, float(np.abs(step).max())))
        unlikely = np.square(residual - rows @ step).sum() + 2 * np.log(np.diag(root)).sum()
        unlikely += (np.square(mean + step - self.mean) / self.variance).sum()
        return Belief(mean + step, covariance, float(volume - unlikely) / 2)

    def posterior(self, rows: Values) -> tuple[Values, float]:
        """Return the covariance (parameters, parameters) after trials whose errors are independent and of size one,
        given derivatives (n, parameters), and the log of its determinant as a share of the prior's.
        """
        n, parameters = rows.shape
        if n >= parameters:
            precision = rows.T @ rows + np.diag(1 / self.variance)
            volume = -float(np.linalg.slogdet(precision)[1] + np.log(self.variance).sum())
            return np.asarray(np.linalg.inv(precision)), volume
        # With few trials the same from a matrix of their size (Woodbury's identity).
        spread = rows * self.variance
        seen = spread @ rows.T + np.eye(n)
        covariance: Values = np.diag(self.variance) - np.asarray(spread.T @ np.linalg.solve(seen, spread))
        return covariance, -float(np.linalg.slogdet(seen)[1])
