"""Blame for failed trials goes where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from paretopress.search.failures import Failures
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage


def choices() -> Choices:
    """Return three layers with two techniques each: settings 1 and 2 are of the first, 3 of the second."""
    options = (Option("integer", (Knob("bits", (8, 4)),)), Option("codebook"))
    names = ("a", "b", "c")
    sites = [Site(name, "linear", (name,)) for name in names]
    return Choices(Space(sites, [Decision(name, Stage.NUMERIC, options) for name in names]))


def rows(*genomes: tuple[int, int, int]) -> Genomes:
    """Return genomes of the three layers."""
    return np.array(genomes, dtype=np.int64)


def told(*trials: tuple[tuple[int, int, int], bool]) -> Failures:
    """Return what has seen trials: genomes, and whether each failed."""
    failures = Failures(choices())
    for genome, failed in trials:
        failures.tell(np.array(genome), failed)
    return failures


def test_without_failures_all_is_well() -> None:
    """Nothing is suspected before something fails."""
    assert told(((1, 1, 0), False)).chance(rows((0, 0, 0), (3, 3, 3))).tolist() == [1.0, 1.0]


def test_blame_is_shared_by_those_that_may_be_guilty() -> None:
    """A failure with two suspects gives each half of the blame; other techniques and no step at all have none."""
    failures = told(((1, 1, 0), True))
    found = failures.chance(rows((1, 1, 0), (2, 0, 0), (0, 2, 1), (0, 0, 1), (3, 3, 0), (0, 0, 0)))
    assert found == pytest.approx([np.exp(-1), np.exp(-0.5), np.exp(-0.5), 1, 1, 1])


@pytest.mark.parametrize("first", [True, False])
def test_steps_of_a_trial_that_ran_are_innocent(first: bool) -> None:
    """Whichever comes first, the blame gathers on the step that was in no trial that ran."""
    trials = [((1, 1, 0), True), ((1, 0, 1), False)]
    failures = told(*(trials if first else trials[::-1]))
    assert failures.chance(rows((1, 0, 1), (2, 1, 2))) == pytest.approx([1.0, np.exp(-1)])


def test_guilt_grows_with_every_failure() -> None:
    """A step that fails again and again is as good as impossible."""
    failures = told(((0, 1, 1), False), *[((1, number % 2, 1), True) for number in range(10)])
    assert failures.chance(rows((1, 0, 0)))[0] == pytest.approx(np.exp(-10))


def test_chance_failure_of_innocent_steps_blames_nobody() -> None:
    """Where all steps have worked before, the failure was of another kind."""
    failures = told(((1, 1, 1), False), ((2, 1, 0), True))
    assert failures.chance(rows((2, 1, 0), (1, 1, 1))).tolist() == [1.0, 1.0]


def test_draws_are_as_frequent_as_belief() -> None:
    """A step is drawn to fail as often as it is expected to, all its settings together; innocent steps never are."""
    failures = told(((0, 1, 1), False), ((1, 1, 1), True))
    random = np.random.default_rng(0)
    drawn = np.array([failures.drawn(random) for _ in range(2000)])
    assert drawn.mean(0)[1:3] == pytest.approx(1 - np.exp(-1), abs=0.04)
    assert np.array_equal(drawn[:, 1], drawn[:, 2])
    assert not drawn[:, [0, *range(3, 12)]].any()
