"""Costs of parts from whole passes of models that have some of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paretopress.search.deploy.weighing import PAIRS, halves, weigh


@given(st.integers(2, 40))
def test_every_part_is_in_one_half_of_each_pair(count: int) -> None:
    """Two subsets that follow each other make up the whole, and no subset comes twice."""
    parts = [str(n) for n in range(count)]
    found = halves(parts)
    assert len(found) % 2 == 0
    assert 2 <= len(found) <= 2 * PAIRS
    for first, second in zip(found[0::2], found[1::2]):
        assert sorted(first + second) == sorted(parts)
        assert abs(len(first) - len(second)) <= 1
    assert len({tuple(own) for own in found}) == len(found)


def design(parts: int) -> np.ndarray:
    """Return which of so many parts the models have that are weighed."""
    names = [str(n) for n in range(parts)]
    return np.array([[name in own for name in names] for own in [names, *halves(names)]], dtype=float)


def test_notes_that_are_off_by_a_factor_are_put_right() -> None:
    """Notes say three times too much of one kind, and the truth of the other: the models tell which."""
    random = np.random.default_rng(0)
    true = random.uniform(0.01, 0.03, 20)
    kind = np.arange(20) < 10
    noted = np.where(kind, 3 * true, true)
    has = design(20)
    costs = weigh(has, has @ true, noted, (kind, ~kind), seconds=1.0)
    assert np.abs(costs[kind] - noted[kind]).mean() > 0.01
    assert np.abs(costs - true).mean() < 0.3 * np.abs(noted - true).mean()
    assert np.abs(costs[~kind] - true[~kind]).max() < 0.01


def test_notes_of_a_short_pass_count_for_less() -> None:
    """Where a pass takes microseconds, one part's notes give way to what the models took; of a long one they stay."""
    true, noted = np.full(6, 0.02), np.array([0.02, 0.02, 0.02, 0.02, 0.02, 0.06])
    has, kinds = design(6), (np.ones(6, dtype=bool),)
    off = [abs(weigh(has, has @ true, noted, kinds, seconds)[-1] - 0.02) for seconds in (2e-5, 1.0)]
    assert off[0] < 0.02 < off[1]


def test_what_agrees_stays() -> None:
    """Models that took what notes say change nothing, costs below zero included."""
    noted = np.array([0.02, -0.03, 0.0, 0.01])
    has = design(4)
    assert np.allclose(weigh(has, has @ noted, noted, (np.ones(4, dtype=bool),), 1e-4), noted)
