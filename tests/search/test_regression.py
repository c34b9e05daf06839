"""The regression finds what was planted, how large the errors are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import multivariate_normal

from paretopress.search.regression import Belief, Prior

Values = npt.NDArray[np.float64]
PARAMETERS = 6
PRIOR = Prior(np.linspace(-1, 1, PARAMETERS), np.linspace(0.5, 2, PARAMETERS))


def trials(count: int, noise: float, seed: int = 0) -> tuple[Values, Values, Values]:
    """Return derivatives (n, parameters), what was measured (n,) and the parameters behind it."""
    rng = np.random.default_rng(seed)
    truth = PRIOR.mean + np.sqrt(PRIOR.variance) * rng.standard_normal(PARAMETERS)
    rows = rng.standard_normal((count, PARAMETERS))
    return rows, rows @ truth + noise * rng.standard_normal(count), truth


def fitted(rows: Values, target: Values, noise: float, steps: int = 20) -> Belief:
    """Return what is believed after so many steps, of independent errors."""
    mean = PRIOR.mean
    for _ in range(steps):
        found = PRIOR.step(mean, rows @ mean, rows, target, noise * np.eye(len(target)))
        mean = found.mean
    return found


@pytest.mark.parametrize("count", [1, 3, 20, 80])
def test_covariance_does_not_depend_on_how_it_is_found(count: int) -> None:
    """From few trials or many, it is the inverse of the precision, and its volume that of the determinants."""
    rows, *_ = trials(count, 0.1)
    precision = rows.T @ rows + np.diag(1 / PRIOR.variance)
    covariance, volume = PRIOR.posterior(rows)
    assert covariance == pytest.approx(np.linalg.inv(precision), abs=1e-9)
    assert volume == pytest.approx(np.linalg.slogdet(covariance)[1] - np.log(PRIOR.variance).sum())


def test_without_trials_the_prior_is_believed() -> None:
    """Nothing measured changes nothing."""
    found = fitted(np.zeros((0, PARAMETERS)), np.zeros(0), 0.1)
    assert found.mean == pytest.approx(PRIOR.mean)
    assert found.covariance == pytest.approx(np.diag(PRIOR.variance))
    assert found.evidence == 0


@pytest.mark.parametrize("seed", range(5))
def test_parameters_are_found_within_what_is_believed(seed: int) -> None:
    """Many trials tell the parameters, and how sure they are."""
    rows, target, truth = trials(60, 0.1, seed)
    found = fitted(rows, target, 0.1)
    off = (found.mean - truth) / np.sqrt(np.diag(found.covariance))
    assert np.abs(found.mean - truth).max() < 0.1
    assert np.abs(off).max() < 4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_evidence_is_for_errors_as_large_as_they_are(seed: int, noise: float) -> None:
    """Errors of a third or of three times the size are less likely."""
    rows, target, _ = trials(40, noise, seed)
    less, right, more = (fitted(rows, target, factor * noise).evidence for factor in (1 / 3, 1, 3))
    assert right > less
    assert right > more


def test_evidence_is_against_errors_that_explain_all() -> None:
    """Where the prior holds a fit back, residuals alone would speak for large errors: the evidence doesn't."""
    rows = np.ones((30, 1))
    prior, target = Prior(np.zeros(1), np.ones(1)), np.full(30, 2.0)
    found = {}
    for noise in (0.1, 1.0, 5.0):
        mean = prior.mean
        for _ in range(20):
            found[noise] = prior.step(mean, rows @ mean, rows, target, noise * np.eye(30))
            mean = found[noise].mean
    assert found[0.1].evidence > found[1.0].evidence > found[5.0].evidence
    assert found[0.1].mean == pytest.approx(2, abs=0.01)


def test_evidence_is_the_likelihood_of_the_trials() -> None:
    """Where all is linear it is, but for a constant, the density of what was measured with all parameters left open."""
    rows, target, _ = trials(12, 0.1)
    for size in (0.1, 0.7):
        errors = size**2 * (0.5 * np.eye(12) + 0.5)
        found = PRIOR.step(PRIOR.mean, rows @ PRIOR.mean, rows, target, np.linalg.cholesky(errors))
        known = multivariate_normal(rows @ PRIOR.mean, errors + rows @ np.diag(PRIOR.variance) @ rows.T)
        assert found.evidence == pytest.approx(known.logpdf(target) + 6 * np.log(2 * np.pi))


def test_alike_count_once() -> None:
    """Twenty trials that err together say no more than one."""
    rows, target = np.ones((20, 1)), np.full(20, 2.0)
    prior, errors = Prior(np.zeros(1), np.ones(1)), 0.999 * np.ones((20, 20)) + 0.001 * np.eye(20)
    many = prior.step(prior.mean, rows[:, 0] * 0, rows, target, np.linalg.cholesky(errors))
    one = prior.step(prior.mean, np.zeros(1), rows[:1], target[:1], np.eye(1))
    assert many.mean == pytest.approx(one.mean, rel=0.01)
    assert many.covariance == pytest.approx(one.covariance, rel=0.01)


def test_a_step_has_a_limit() -> None:
    """Where what is nearly linear is told something absurd, the parameters don't leave where it is."""
    rows = np.ones((1, PARAMETERS))
    found = PRIOR.step(PRIOR.mean, rows @ PRIOR.mean, rows, np.full(1, 1e6), np.eye(1))
    assert np.abs(found.mean - PRIOR.mean).max() <= 2
