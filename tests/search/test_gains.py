"""What training gives back: careful guesses, from finished trials only."""

from __future__ import annotations

import math
import random

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.gains import ENOUGH, Gains, Seen, settings_of
from paretopress.search.result import Objective, Result, Status
from paretopress.spaces.recipe import Recipe, Step

QUALITY = Objective("accuracy", "maximize", True)


def recipe(steps: int = 10, number: int = 0) -> Recipe:
    """Return a recipe that trains."""
    settings = {"steps": steps, "learning_rate": 1e-3, "temperature": 2.0, "weight": 0.5}
    return Recipe.of([Step.of("fc", "magnitude", n=number), Step.of("<model>", "distillation", **settings)])


def trained(before: float, after: float, steps: int = 10, status: Status = "ok", **detail: str) -> Result:
    """Return a result that had ``before`` when its training began."""
    measured = {"accuracy": Measurement(after, detail=detail), "size": Measurement(95.0)}
    rungs = {"before": {"accuracy": before, "size": 100.0}, "short": {"accuracy": (before + after) / 2}}
    return Result(1, recipe(steps), measured, status, rungs=rungs)


def learnt(count: int, seed: int = 0) -> Gains:
    """Return what is known after trials that gain 0.1 for 10 steps and 0.2 for 20, more or less."""
    rng, gains = random.Random(seed), Gains()
    for _ in range(count):
        steps, before = rng.choice((10, 20)), rng.uniform(0.3, 0.7)
        gains = gains.learnt(trained(before, before + 0.01 * steps + rng.uniform(-0.01, 0.01), steps), QUALITY)
    return gains


def test_nothing_is_foretold_from_few_trials() -> None:
    """Until enough was seen no trial may be stopped before its training ends."""
    assert learnt(ENOUGH - 1).forecast("before", -0.5, settings_of(recipe())) is None
    assert learnt(ENOUGH).forecast("before", -0.5, settings_of(recipe())) is not None
    assert learnt(ENOUGH).forecast("another rung", -0.5) is None


@pytest.mark.parametrize("steps", [10, 20])
def test_a_forecast_is_near_and_leaves_room(steps: int) -> None:
    """The expected end follows the settings, and the least loss lies beyond all that was seen, but not far."""
    found = learnt(60).forecast("before", -0.5, settings_of(recipe(steps)))
    assert found is not None
    assert found.expected == pytest.approx(-0.5 - 0.01 * steps, abs=0.02)
    assert found.least < -0.5 - 0.01 * steps - 0.01
    assert found.least > -0.5 - 0.01 * steps - 0.06
    assert found.most > found.expected


def test_forecasts_of_new_trials_are_hardly_ever_passed() -> None:
    """A trial that ends better than the least loss foretold could have been stopped wrongly: under 2 in 100."""
    passed = asked = 0
    for seed in range(40):
        rng, gains = random.Random(seed), Gains()
        for _ in range(60):
            before, steps = rng.uniform(0.1, 0.9), rng.choice((5, 10, 20))
            after = min(0.95, before + 0.004 * steps * (1 - before) + rng.gauss(0, 0.02))
            found = gains.forecast("before", -before, settings_of(recipe(steps)))
            if found is not None:
                asked += 1
                passed += -after < found.least
            gains = gains.learnt(trained(before, after, steps), QUALITY)
    assert asked > 1000
    assert passed / asked < 0.02


def test_only_ends_that_were_reached_are_learnt() -> None:
    """Trials that failed, or whose end was itself foretold, say nothing; one stopped after its training does."""
    empty = Gains()
    assert empty.learnt(trained(0.5, 0.6, status="failed", foretold="before"), QUALITY) == empty
    assert empty.learnt(trained(0.5, 0.6, status="stopped", foretold="before"), QUALITY) == empty
    assert empty.learnt(Result(1, recipe(), {"accuracy": Measurement(0.5)}), QUALITY) == empty
    assert empty.learnt(Result(1, recipe(), {}, "stopped", rungs={"before": {"accuracy": 0.5}}), QUALITY) == empty
    assert empty.learnt(trained(0.5, 0.6, status="stopped"), QUALITY).seen["short"] == (
        Seen(-0.55, -0.6, settings_of(recipe())),
    )


def changed(size: float, count: int) -> Gains:
    """Return what is known after trials whose files had 100 bytes before training and ``size`` after it."""
    gains = Gains()
    for _ in range(count):
        measured = {"accuracy": Measurement(0.5), "size": Measurement(size), "macs": Measurement(7.0)}
        rungs = {"before": {"accuracy": 0.4, "size": 100.0, "macs": 7.0}}
        gains = gains.learnt(Result(1, recipe(), measured, rungs=rungs), QUALITY)
    return gains


def test_costs_that_shrank_in_training_are_expected_to_again() -> None:
    """A file can be smaller after training: the cost reckoned with is below the smallest seen; what never changes in
    training is known exactly.
    """
    gains = changed(95.0, ENOUGH)
    assert 900 < gains.lowest("size", 1000) < 950
    assert gains.lowest("macs", 1000) == 1000


def test_a_cost_that_only_grew_so_far_may_still_shrink() -> None:
    """Some files grow in training and others shrink: a first few that grew are no promise."""
    assert 950 < changed(102.0, ENOUGH).lowest("size", 1000) < 1000


def test_nothing_is_reckoned_with_before_a_trial_has_told() -> None:
    """A file that is just too large before training may be small enough after it: nobody knows yet, nobody stops; and
    few that stayed the same don't make it certain.
    """
    assert Gains().lowest("size", 1000) == -math.inf
    assert changed(100.0, ENOUGH - 1).lowest("size", 1000) < 1000
    assert changed(100.0, ENOUGH).lowest("size", 1000) == 1000
