"""What similar recipes have in common is found, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from paretopress.search.luck import Luck

Values = npt.NDArray[np.float64]
LAYERS, CHOICES = 8, 4


def recipes(count: int, seed: int) -> sparse.csr_matrix:
    """Return random recipes of eight layers that do the same damage each: a setting in each layer."""
    rng = np.random.default_rng(seed)
    taken = rng.integers(CHOICES, size=(count, LAYERS)) + CHOICES * np.arange(LAYERS)
    shares = np.full(count * LAYERS, LAYERS**-0.5)
    ends = np.arange(count + 1) * LAYERS
    return sparse.csr_matrix((shares, taken.reshape(-1), ends), shape=(count, LAYERS * CHOICES))


def planted(settings: sparse.csr_matrix, seed: int = 0) -> Values:
    """Return what is left over where each setting has its own luck."""
    luck = np.random.default_rng(seed).normal(0, 0.01, LAYERS * CHOICES)
    found: Values = settings @ luck
    return found


NONE = np.zeros(60)
ONE = np.ones(60)


def test_nothing_is_expected_before_anything_was_learnt() -> None:
    """Without trials there is neither luck nor doubt of it."""
    made = Luck(1e-4)
    assert not made.known
    for found in (made.expect(recipes(60, 0), ONE, NONE), made.predict(recipes(60, 0), ONE, NONE)):
        assert np.array_equal(found, np.zeros((2, 60)))


def test_luck_of_settings_is_found() -> None:
    """New recipes of settings that were lucky are expected to be lucky, and errors are within the doubt."""
    made, tried, new = Luck(1e-4), recipes(60, 1), recipes(60, 2)
    made.learn(tried, ONE, NONE, planted(tried))
    expected, deviation = made.predict(new, ONE, NONE)
    truth = planted(new)
    assert np.corrcoef(expected, truth)[0, 1] > 0.9
    assert (np.abs(expected - truth) < 2.5 * deviation).mean() > 0.9
    assert made.expect(new, ONE, NONE)[0] == pytest.approx(expected)
    assert (deviation < made.expect(new, ONE, NONE)[1]).all()


def test_what_nothing_has_in_common_is_not_carried_over() -> None:
    """A recipe without any setting that was tried is expected to have no luck, and in doubt like the first."""
    made, tried = Luck(1e-4), recipes(60, 1)
    made.learn(tried, ONE, NONE, planted(tried))
    other = sparse.csr_matrix((1, LAYERS * CHOICES))
    expected, deviation = made.predict(other, ONE[:1], NONE[:1])
    assert expected[0] == 0
    assert deviation == pytest.approx(made.expect(other, ONE[:1], NONE[:1])[1])


def test_more_damage_more_luck_and_misfit_where_that_is_larger() -> None:
    """Sixteen times the damage changes four times as many answers, which come to twice as much; errors of a large
    damage are more than that.
    """
    made, tried = Luck(1e-4), recipes(60, 1)
    made.learn(tried, ONE, NONE, planted(tried))
    _, once = made.expect(tried, ONE, NONE)
    assert made.expect(tried, 16 * ONE, NONE)[1] == pytest.approx(2 * once)
    assert made.expect(tried, ONE, 5 * once)[1] == pytest.approx(5 * once)


def test_failure_is_no_luck() -> None:
    """One trial that is far off, as a failed one is told, doesn't take the recipes beside it along."""
    made, tried, new = Luck(1e-4), recipes(60, 1), recipes(60, 2)
    left = planted(tried)
    made.learn(tried, ONE, NONE, left)
    before, deviation = made.predict(new, ONE, NONE)
    left[0] = 1.0
    made.learn(tried, ONE, NONE, left)
    assert (np.abs(made.predict(new, ONE, NONE)[0] - before) < 3 * deviation).all()
