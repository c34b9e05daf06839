"""What similar recipes have in common is found, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from paretopress.search.luck import Coordinates, Luck

Values = npt.NDArray[np.float64]
Genomes = npt.NDArray[np.int64]
LAYERS, CHOICES = 8, 4


def genomes(count: int, seed: int, layers: int = LAYERS, choices: int = CHOICES) -> Genomes:
    """Return recipes that change two or so layers of the first setting everywhere, as places among all settings."""
    rng = np.random.default_rng(seed)
    changed = rng.random((count, layers)) < 2 / layers
    return np.where(changed, rng.integers(choices, size=(count, layers)), 0) + choices * np.arange(layers)


def recipes(taken: Genomes, settings: int = LAYERS * CHOICES) -> Values:
    """Return coordinates where all layers do the same damage."""
    return Coordinates(settings).of(taken, np.full(taken.shape, 1 / taken.shape[1]))


def planted(taken: Genomes, seed: int = 0) -> Values:
    """Return what is left over where each setting but the first has its own luck."""
    luck = np.random.default_rng(seed).normal(0, 0.01, (LAYERS, CHOICES))
    luck[:, 0] = 0
    found: Values = luck.reshape(-1)[taken].sum(1)
    return found


TRIED, NEW = genomes(60, 1), genomes(60, 2)
NONE = np.zeros(60)
ONE = np.ones(60)


def test_coordinates_tell_what_recipes_share() -> None:
    """Few settings: the product of two recipes is the share of the damage from the same settings."""
    same = (TRIED[:, None] == NEW).mean(2)
    assert recipes(TRIED) @ recipes(NEW).T == pytest.approx(same)


def test_coordinates_of_many_settings_tell_what_differs() -> None:
    """A deep network has more settings than coordinates, and recipes that differ little are still seen to."""
    first, second = (genomes(200, seed, 200, 30) for seed in (1, 2))
    differs = (first != second).mean(1)
    far = np.square(recipes(first, 6_000) - recipes(second, 6_000)).sum(1) / 2
    assert np.square(recipes(first, 6_000)).sum(1) == pytest.approx(1)
    ratio = far[differs > 0] / differs[differs > 0]
    assert ratio.mean() == pytest.approx(1, abs=0.3)
    assert ratio.min() > 0.3
    assert ratio.max() < 1.8


def test_nothing_is_expected_before_anything_was_learnt() -> None:
    """Without trials there is neither luck nor doubt of it."""
    made = Luck(1e-4)
    assert not made.known
    assert np.array_equal(made.expect(recipes(NEW), ONE, NONE), np.zeros((2, 60)))
    *found, weights = made.predict(recipes(NEW), ONE, NONE)
    assert np.array_equal(found, np.zeros((2, 60)))
    assert weights.shape == (60, 0)


def test_luck_of_settings_is_found() -> None:
    """New recipes of settings that were lucky are expected to be lucky, and errors are within the doubt."""
    made, tried, new = Luck(1e-4), recipes(TRIED), recipes(NEW)
    made.learn(tried, ONE, NONE, planted(TRIED))
    expected, deviation, _ = made.predict(new, ONE, NONE)
    truth = planted(NEW)
    assert np.corrcoef(expected, truth)[0, 1] > 0.7
    assert (np.abs(expected - truth) < 2.5 * deviation).mean() > 0.9
    assert made.expect(new, ONE, NONE)[0] == pytest.approx(expected)
    assert (deviation < made.expect(new, ONE, NONE)[1]).all()


def test_what_nothing_has_in_common_is_not_carried_over() -> None:
    """A recipe without any setting that was tried is expected to have no luck, and in doubt like the first."""
    made, tried = Luck(1e-4), recipes(TRIED)
    made.learn(tried, ONE, NONE, planted(TRIED))
    other = np.zeros((1, tried.shape[1]))
    expected, deviation, weights = made.predict(other, ONE[:1], NONE[:1])
    assert expected[0] == 0
    assert not weights.any()
    assert deviation == pytest.approx(made.expect(other, ONE[:1], NONE[:1])[1])


def test_more_damage_more_luck_and_misfit_where_that_is_larger() -> None:
    """Sixteen times the damage changes four times as many answers, which come to twice as much; errors of a large
    damage are more than that.
    """
    made, tried = Luck(1e-4), recipes(TRIED)
    made.learn(tried, ONE, NONE, planted(TRIED))
    _, once = made.expect(tried, ONE, NONE)
    assert made.expect(tried, 16 * ONE, NONE)[1] == pytest.approx(2 * once)
    assert made.expect(tried, ONE, 5 * once)[1] == pytest.approx(5 * once)


def test_many_alike_count_once() -> None:
    """How large luck is doesn't grow with the number of trials around the one that was luckiest."""
    luckiest = planted(TRIED).argmin()
    taken = np.vstack([TRIED, np.repeat(TRIED[[luckiest]], 60, 0)])
    few, many = Luck(1e-4), Luck(1e-4)
    few.learn(recipes(TRIED), ONE, NONE, planted(TRIED))
    many.learn(recipes(taken), np.ones(120), np.zeros(120), planted(taken))
    assert many.deviation < few.deviation


def test_large_damage_says_nothing_of_luck() -> None:
    """Where most trials do a damage that is badly explained, the luck of gentle models is still told from these: else
    they would be tried again and again for a luck that they don't have.
    """
    rng = np.random.default_rng(0)
    taken = np.vstack([TRIED, genomes(180, 3)])
    damage = np.concatenate([ONE, np.full(180, 16.0)])
    left = np.concatenate([planted(TRIED), rng.normal(0, 0.5, 180)])
    alone, beside = Luck(1e-4), Luck(1e-4)
    alone.learn(recipes(TRIED), ONE, NONE, planted(TRIED))
    beside.learn(recipes(taken), damage, np.concatenate([NONE, np.ones(180)]), left)
    assert beside.deviation == pytest.approx(alone.deviation)


def test_failure_is_no_luck() -> None:
    """One trial that is far off, as a failed one is told, doesn't take the recipes beside it along."""
    made, tried, new = Luck(1e-4), recipes(TRIED), recipes(NEW)
    left = planted(TRIED)
    made.learn(tried, ONE, NONE, left)
    before, *_ = made.predict(new, ONE, NONE)
    left[0] = 1.0
    made.learn(tried, ONE, NONE, left)
    assert (np.abs(made.predict(new, ONE, NONE)[0] - before) < 0.05).all()


def test_weights_say_which_trial_tells_of_a_recipe() -> None:
    """A recipe that was tried is told of by that trial, and all trials together tell of it nearly all."""
    taken = np.vstack([genomes(20, 1), np.full((1, LAYERS), 3) + CHOICES * np.arange(LAYERS)])
    made, tried = Luck(1e-4), recipes(taken)
    made.learn(tried, np.ones(21), np.zeros(21), np.zeros(21))
    *_, weights = made.predict(tried, np.ones(21), np.zeros(21))
    assert weights.shape == (21, 21)
    assert weights[-1, -1] == pytest.approx(0.9, abs=0.05)
    assert np.abs(weights[-1, :-1]).max() < 0.1
