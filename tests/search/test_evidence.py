"""The sequential test: its promise is a bound on wrong answers, whatever the truth and however often one looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.search.evidence import Array, below, interval


def differences(total: int, lost: float, won: float, rng: np.random.Generator) -> Array:
    """Return paired differences in random order: shares of -1 and +1, the rest 0."""
    values = np.zeros(total)
    values[: round(lost * total)] = -1
    values[total - round(won * total) :] = 1
    return rng.permutation(values)


def stops(seen: Array, bound: float, risk: float) -> bool:
    """Return whether any of the looks at 1/16, 1/8, 1/4 and 1/2 says that the mean is below the bound."""
    return any(below(seen[: len(seen) // part], bound, len(seen), risk) for part in (16, 8, 4, 2))


@pytest.mark.parametrize(
    ("total", "lost", "won"), [(2500, 0.05, 0.02), (2500, 0.4, 0.0), (400, 0.02, 0.01), (64, 0.2, 0)]
)
def test_a_trial_that_just_reaches_the_bound_is_stopped_as_rarely_as_promised(
    total: int, lost: float, won: float
) -> None:
    """At the bound itself, where errors are likeliest, at most the risk is stopped: few discordant pairs included."""
    rng = np.random.default_rng(0)
    wrong = sum(stops(d, d.mean(), 0.02) for d in (differences(total, lost, won, rng) for _ in range(600)))
    assert wrong / 600 <= 0.02 + 3 * np.sqrt(0.02 * 0.98 / 600)


@pytest.mark.parametrize(("lost", "gap"), [(0.3, 0.28), (0.1, 0.08), (0.05, 0.03)])
def test_a_trial_that_is_clearly_below_is_stopped(lost: float, gap: float) -> None:
    """A test that never stops anybody keeps its promise too: it must also find what is below."""
    rng = np.random.default_rng(1)
    found = [stops(d, d.mean() + gap, 0.01) for d in (differences(2500, lost, 0.02, rng) for _ in range(60))]
    assert np.mean(found) > 0.9


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 600), st.floats(0, 0.9), st.floats(0, 0.1), st.integers(1, 16), st.integers(0, 10_000))
def test_the_interval_holds_the_estimate_and_agrees_with_the_test(
    total: int, lost: float, won: float, part: int, seed: int
) -> None:
    """The reported interval is the set of means that the test doesn't refuse, and lies within what is possible."""
    values = differences(total, lost, won, np.random.default_rng(seed))
    seen = values[: max(1, total // part)]
    low, high = interval(seen, total, 0.05)
    assert -1 <= low <= high <= 1
    possible = (seen.sum() + np.array([-1.0, 1.0]) * (total - len(seen))) / total
    assert possible[0] - 1e-5 <= low
    assert high <= possible[1] + 1e-5
    if high < 1 - 1e-4:
        assert below(seen, high + 1e-4, total, 0.025)
    assert not below(seen, high - 1e-4, total, 0.025) or high - low < 2e-4


def test_the_interval_covers_the_truth() -> None:
    """Called 95 %, it must hold the mean of all values at least that often."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        values = differences(800, 0.15, 0.03, rng)
        low, high = interval(values[:100], 800, 0.05)
        hits += low <= values.mean() <= high
    assert hits / 300 >= 0.93


def test_what_is_certain_needs_no_chance() -> None:
    """When the rest can't make up for what was lost the answer is yes, and when nothing was lost it is no."""
    assert below(np.array([-1.0] * 6), -0.1, 10, 1e-12)
    assert not below(np.array([-1.0] * 2), -0.9, 10, 0.01)
    assert not below(np.zeros(9), 0.0, 10, 0.01)
    assert not below(np.ones(10), 1.0, 10, 0.01)


def test_a_bound_that_is_reached_exactly_is_never_refused() -> None:
    """Where all that is left must be won, and is, rounding must not make it look impossible."""
    for total in range(3, 40):
        for seen in range(1, total):
            values = np.array([-1.0] * seen + [1.0] * (total - seen))
            assert not below(values[:seen], values.mean(), total, 1e-12)


def test_the_interval_holds_what_was_seen() -> None:
    """A bad start can refuse means that later values have again: an interval beside its own estimate helps nobody."""
    start = np.array([-1.0] * 40 + [0.0] * 60)
    values = np.concatenate([start, np.zeros(500)])
    low, high = interval(values, 2000, 0.05)
    assert low <= values.mean() <= high
    rng = np.random.default_rng(3)
    for _ in range(300):
        lost, won = rng.uniform(0, 0.6), rng.uniform(0, 0.1)
        values = rng.choice([-1.0, 1.0, 0.0], p=[lost, won, 1 - lost - won], size=int(rng.integers(16, 1500)))
        low, high = interval(values, 2000, 0.05)
        assert low <= values.mean() <= high
