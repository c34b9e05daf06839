"""The proposer keeps limits, goes for whatever the objectives are, and learns costs that no profile predicts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from known_truth import PROFILE, SPAN, TRUTH

from paretopress.search.goals import Goals
from paretopress.search.proposer import Proposer


def test_running_proposals_that_break_a_limit_do_not_count() -> None:
    """What can't be on the front when it is done takes no place on it while it is running."""
    limits = {"bops": 0.15 * TRUTH.base["bops"]}
    alone, beside = (Proposer(PROFILE, TRUTH.goals(limits=limits), 0) for _ in range(2))
    broken = [genome for genome in TRUTH.random(60) if TRUTH.of(genome)[1]["bops"] > 1.02 * limits["bops"]]
    beside.pending |= {genome.tobytes(): genome for genome in broken}
    for _ in range(5):
        assert np.array_equal(alone.ask(), beside.ask())


def test_limits_on_costs_are_kept() -> None:
    """All proposals are predicted to be within 1 % of every limit."""
    limits = {"size": 0.2 * TRUTH.base["size"], "bops": 0.15 * TRUTH.base["bops"]}
    found = TRUTH.run(Proposer(PROFILE, TRUTH.goals(limits=limits), 0), 40)
    for metric, limit in limits.items():
        assert max(TRUTH.of(genome)[1][metric] for genome in found) <= 1.01 * limit


def test_limits_that_nothing_can_keep_are_approached() -> None:
    """Where no recipe is small enough, the smallest are tried."""
    limits = {"size": 0.001 * TRUTH.base["size"]}
    proposer = Proposer(PROFILE, TRUTH.goals(limits=limits), 0)
    found = []
    for _ in range(15):
        found.append(proposer.ask())
        proposer.tell(found[-1], *TRUTH.of(found[-1]), usable=False)
    smallest = min(TRUTH.of(genome)[1]["size"] for genome in TRUTH.random(2000))
    assert min(TRUTH.of(genome)[1]["size"] for genome in found) < smallest


def test_among_the_nearest_to_limits_that_nothing_can_keep_the_better_ones_are_sought() -> None:
    """Once the smallest was tried, those nearly as small that lose less are, and nothing much larger."""
    limits = {"size": 0.001 * TRUTH.base["size"]}
    proposer = Proposer(PROFILE, TRUTH.goals(limits=limits), 0)
    found = []
    for _ in range(25):
        genome = proposer.ask()
        found.append(TRUTH.of(genome))
        proposer.tell(genome, *found[-1], usable=False)
    sizes = np.array([costs["size"] for _, costs in found])
    losses = np.array([lost for lost, _ in found])
    near = sizes <= 2.1 * sizes.min()
    assert near.mean() > 0.8
    assert losses[near].min() < 0.7 * losses[sizes.argmin()]


def test_where_limits_leave_only_what_loses_more_than_counts_the_least_loss_is_sought() -> None:
    """A limit that asks for too much of a model leads to its best models, not to any that keep it."""
    limits = {"size": 0.05 * TRUTH.base["size"]}
    goals = replace(TRUTH.goals(limits=limits), span=0.01)
    found = TRUTH.run(Proposer(PROFILE, goals, 0), 20)
    kept = [lost for lost, costs in map(TRUTH.of, TRUTH.random(3000)) if costs["size"] <= limits["size"]]
    assert min(kept) > goals.span
    assert min(lost for lost, costs in map(TRUTH.of, found) if costs["size"] <= limits["size"]) < min(kept)


def test_where_nothing_is_expected_to_gain_what_is_near_the_front_is_tried() -> None:
    """A front that can't be beaten isn't left for the largest models, which lose least and count nothing."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    smallest = min(TRUTH.random(3000), key=lambda genome: TRUTH.of(genome)[1]["size"])
    proposer.tell(smallest, 0.0, TRUTH.of(smallest)[1])
    found = [proposer.ask() for _ in range(10)]
    sizes = [TRUTH.of(genome)[1]["size"] for genome in found]
    assert max(sizes) < 0.5 * TRUTH.base["size"]


def test_limit_on_quality_is_sought() -> None:
    """With quality an objective and limited, what keeps the limit is better than the best of random search."""
    found = TRUTH.run(Proposer(PROFILE, TRUTH.goals(lost=0.05), 0), 30)
    kept, other = ([g for g in genomes if TRUTH.of(g)[0] <= 0.05] for genomes in (found, TRUTH.random(2000)))
    assert TRUTH.volume(kept, "size") > TRUTH.volume(other, "size")


def test_limit_on_quality_is_found_without_quality_among_the_objectives() -> None:
    """Told to make the model small and fast under a limit on the loss, the sampler gets there."""
    found = TRUTH.run(Proposer(PROFILE, TRUTH.goals("size", "macs", quality=False, lost=0.05), 0), 40)
    told = [TRUTH.of(genome) for genome in found]
    assert min((costs["size"] for lost, costs in told if lost <= 0.05), default=math.inf) < 0.5 * TRUTH.base["size"]


def test_quality_need_not_be_an_objective() -> None:
    """With costs alone the sampler goes for the smallest and fastest, whatever is lost."""
    found = TRUTH.run(Proposer(PROFILE, TRUTH.goals("size", "macs", quality=False), 0), 20)
    smallest = min(TRUTH.of(genome)[1]["size"] for genome in TRUTH.random(2000))
    assert min(TRUTH.of(genome)[1]["size"] for genome in found) < smallest


def test_quality_alone_under_a_limit_on_cost() -> None:
    """One objective: of what keeps the limit, the best is looked for."""
    limits = {"size": 0.25 * TRUTH.base["size"]}
    goals = Goals({"size": TRUTH.base["size"]}, {}, SPAN, 2 * SPAN, 0.005, limits=limits)
    found = TRUTH.run(Proposer(PROFILE, goals, 0), 30)
    assert max(TRUTH.of(genome)[1]["size"] for genome in found) <= 1.01 * limits["size"]
    allowed = [g for g in TRUTH.random(2000) if TRUTH.of(g)[1]["size"] <= limits["size"]]
    assert min(TRUTH.of(g)[0] for g in found) < min(TRUTH.of(g)[0] for g in allowed)


def test_unknown_cost_is_learnt() -> None:
    """Of latency, which no profile predicts, the sampler's idea is right within a tenth after 25 trials."""
    proposer = Proposer(PROFILE, TRUTH.goals("latency"), 0)
    rows = np.array(TRUTH.random(50))
    true = np.array([TRUTH.of(row)[1]["latency"] for row in rows])
    before = np.abs(np.log(proposer._costs(rows)[:, 0] / true))
    TRUTH.run(proposer, 26)
    after = np.abs(np.log(proposer._costs(rows)[:, 0] / true))
    assert np.median(after) < 0.1 < np.median(before)


def test_unknown_cost_is_improved() -> None:
    """The front in a cost that is learnt is better than a random one."""
    found = TRUTH.run(Proposer(PROFILE, TRUTH.goals("latency"), 0), 30)
    assert TRUTH.volume(found, "latency") > TRUTH.volume(TRUTH.random(1000), "latency")


def test_cost_of_nothing_does_no_harm() -> None:
    """An objective whose baseline is next to zero breaks no proposal."""
    goals = Goals({"size": TRUTH.base["size"], "extra": 1e-12}, {"size": TRUTH.base["size"], "extra": 1.1e-12},
                  SPAN, 2 * SPAN, 0.005)  # fmt: skip
    proposer = Proposer(PROFILE, goals, 0)
    for _ in range(10):
        genome = proposer.ask()
        lost, costs = TRUTH.of(genome)
        proposer.tell(genome, lost, costs | {"extra": 1e-12})
    assert len(proposer.told) == 10
