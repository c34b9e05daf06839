"""Limits: how far trials are from keeping them, and what promises to come nearer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from known_truth import PROFILE, TRUTH

from paretopress.search.goals import Goals
from paretopress.search.limits import Limits
from paretopress.search.loss_scale import LossScale
from paretopress.search.outlook import Outlook
from paretopress.search.proposer import Proposer

GOALS = Goals({"size": 100.0, "macs": 10.0}, {"size": 110.0}, 0.1, 1.0, 0.005, limits={"size": 50.0}, lost=0.1)


def outlook(*lost: float) -> Outlook:
    """Return what is all but certain to lose so much."""
    scale, none = LossScale(1.0, 0.005), np.zeros(len(lost))
    return Outlook(scale, np.array([scale.logit(np.array([x]))[0] for x in lost]), none, 1e-9, none, none)


def test_violation_is_in_shares_of_the_original() -> None:
    """A proposer and the front that it is for mean the same by nearest."""
    limits = Limits(GOALS, ("size", "macs"))
    costs = np.array([[80.125, 20.0], [50.0, 20.0], [50.1, 1.0]])
    assert limits.violation(np.array([0.3, 0.3, 0.1]), costs) == pytest.approx([0.3 + 0.2, 0.2, 0.0])


def test_what_was_not_measured_is_no_nearer() -> None:
    """A failed trial doesn't pass for the nearest."""
    limits = Limits(GOALS, ("size", "macs"))
    assert limits.tell(0.1, np.array([math.nan, math.nan])) == math.inf
    assert limits.tell(0.2, np.array([50.0, math.nan])) == pytest.approx(0.1)  # nothing limits the other


def test_what_keeps_the_limits_is_sought_before_what_comes_nearer() -> None:
    """Before a model keeps all limits, one that will is worth most, then one nearer than all so far, others nothing."""
    limits = Limits(GOALS, ("size", "macs"))
    limits.tell(0.5, np.array([50.0, 1.0]))
    costs = np.array([[50.0, 1.0], [60.5, 1.0], [50.0, 1.0], [95.0, 1.0]])
    kept, near, nearer, not_near = limits.chance(outlook(0.05, 0.2, 0.15, 0.05), costs)
    assert kept == pytest.approx(1)
    assert 0.4 < nearer < 0.5
    assert 0.2 < near < 0.3
    assert not_near == 0
    limits.kept = True
    assert limits.chance(outlook(0.05, 0.2), costs[:2]).tolist() == [1, 1]


def test_a_limit_on_quality_counts_once() -> None:
    """What may lose too much has a smaller expected gain already, where quality is an objective: counted again, nothing
    that isn't sure would be tried.
    """
    costs = np.array([[50.0, 1.0], [50.0, 1.0]])
    for quality, expected in ((True, [1, 1]), (False, [1, 0])):
        limits = Limits(replace(GOALS, quality=quality), ("size", "macs"))
        limits.kept = True
        assert limits.chance(outlook(0.05, 0.2), costs) == pytest.approx(expected)


def test_where_costs_are_out_of_reach_the_front_of_loss_and_excess_is_sought() -> None:
    """Not only what loses least among all that is near: a choice between the nearest and the best of those."""
    limits = Limits(replace(GOALS, limits={"size": 5.0}, lost=math.inf), ("size", "macs"))
    limits.tell(0.5, np.array([20.0, 1.0]))
    limits.look(np.array([0.1, 0.4]))
    assert not limits.sought
    limits.look(np.array([0.15, 0.4]))
    assert limits.sought
    costs = np.array([[21.0, 1.0], [34.0, 1.0], [40.0, 1.0], [20.0, 1.0]])
    small, larger, too_large, known = limits.chance(outlook(0.3, 0.1, 0.0, 0.5), costs)
    assert small > larger / 2 > 0
    assert too_large == 0
    assert known == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("size", "lost"), [(0.05, 0.01), (0.02, 0.02)])
def test_limits_that_contradict_each_other_are_approached_together(size: float, lost: float) -> None:
    """What loses too much by far, or is too large by far, isn't tried again and again: the sum of both is lessened."""
    goals = replace(TRUTH.goals(limits={"size": size * TRUTH.base["size"]}), lost=lost)

    def violation(genome: np.ndarray) -> float:
        missed, costs = TRUTH.of(genome)
        return max(0, missed - lost) / goals.reach + max(0, costs["size"] / TRUTH.base["size"] - size)

    found = TRUTH.run(Proposer(PROFILE, goals, 0), 25)
    assert min(map(violation, TRUTH.random(3000))) > 0
    assert min(map(violation, found)) < min(map(violation, TRUTH.random(3000)))


def test_what_was_measured_has_no_margin() -> None:
    """A trial a thousandth above a limit that nothing keeps doesn't pass for one that keeps it."""
    limits = Limits(replace(GOALS, limits={"size": 5.0}, lost=math.inf), ("size", "macs"))
    assert limits.tell(0.1, np.array([5.005, 1.0])) == pytest.approx(0.00005)
    limits.look(np.array([0.0001, 0.4]))
    assert limits.sought


def test_a_trial_of_unknown_quality_is_not_on_the_front_of_near_ones() -> None:
    """One that was stopped for its costs says how near those came, and nothing of what may be lost there."""
    limits = Limits(replace(GOALS, limits={"size": 5.0}, lost=math.inf), ("size", "macs"))
    limits.tell(math.nan, np.array([20.0, 1.0]))
    limits.tell(0.5, np.array([21.0, 1.0]))
    limits.look(np.array([0.15, 0.4]))
    assert limits.sought
    assert np.isfinite(limits.chance(outlook(0.3), np.array([[21.0, 1.0]]))).all()
