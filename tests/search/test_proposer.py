"""The proposer asks for legal and new genomes, and finds what random search doesn't."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_truth import BITS, PROFILE, SPAN, TRUTH, Genome, Truth, option

from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect
from paretopress.search.goals import Goals
from paretopress.search.pareto import hypervolume
from paretopress.search.proposer import Proposer
from paretopress.search.sensitivity import Profile
from paretopress.search.weighed import Weighed
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage


def distinct(genomes: list[Genome]) -> int:
    """Return how many different genomes there are."""
    return len({genome.tobytes() for genome in genomes})


OUTCOMES: dict[str, Callable[[Proposer, Genome], None]] = {
    "told": lambda p, g: p.tell(g, *TRUTH.of(g)),
    "failed": lambda p, g: p.tell(g, math.inf, {}, usable=False),
    "infeasible": lambda p, g: p.tell(g, *TRUTH.of(g), usable=False),
    "running": lambda p, g: None,
    "forgotten": lambda p, g: p.forget(g),
}


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=5, max_size=12))
def test_proposals_are_legal_and_new_whatever_becomes_of_them(seed: int, outcomes: list[str]) -> None:
    """Every proposal is a genome of a recipe in the space, was never told and isn't pending."""
    proposer = Proposer(PROFILE, TRUTH.goals("size", "macs"), seed)
    for outcome in outcomes:
        known = proposer.told.keys() | proposer.pending.keys()
        genome = proposer.ask()
        assert genome.tobytes() not in known
        assert genome.base is None  # it holds no other candidates in memory
        assert np.array_equal(PROFILE.choices.legal(genome[None])[0], genome)
        assert PROFILE.choices.recipe(genome) in PROFILE.choices.space
        OUTCOMES[outcome](proposer, genome)


def test_proposals_do_not_repeat() -> None:
    """A hundred trials try a hundred recipes."""
    assert distinct(TRUTH.run(Proposer(PROFILE, TRUTH.goals(), 0), 100)) == 100


@pytest.mark.parametrize("count", [8, 16, 30])
@pytest.mark.parametrize("seed", range(3))
def test_parallel_proposals_are_spread_over_the_front(count: int, seed: int) -> None:
    """Without any result, the first proposals don't crowd at the smallest sizes, and no two are the same."""
    proposer = Proposer(PROFILE, TRUTH.goals(), seed)
    found = [proposer.ask() for _ in range(count)]
    sizes = proposer.costs.predict(np.stack(found))[:, 0]
    assert np.median(sizes) > 2.5 * sizes.min()
    assert distinct(found) == count


def test_proposals_in_a_row_never_repeat_what_runs() -> None:
    """Where many run, several come from candidates that were weighed once; one that was started otherwise meanwhile
    isn't proposed again.
    """
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    for genome in TRUTH.random(200):
        proposer.expect(genome)
    asked = []
    for _ in range(6):
        asked += [proposer.ask().tobytes() for _ in range(3)]
        assert proposer._weighed is not None
        best = proposer._weighed.genomes[0].copy()
        proposer.expect(best)
        asked.append(best.tobytes())
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(("known", "least", "most"), [(60, 30, 30), (1200, 5, 15)])
def test_after_many_trials_candidates_are_weighed_less_often(
    known: int, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more trial of many changes little: the driver of a long run isn't what it waits for. Early, each counts."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    for genome in TRUTH.random(known):
        proposer.tell(genome, *TRUTH.of(genome))
    weigh, weighed, asked = proposer._weigh, [], []

    def counted(candidates: Genomes) -> Weighed:
        weighed.append(weigh(candidates))
        return weighed[-1]

    monkeypatch.setattr(proposer, "_weigh", counted)
    for _ in range(30):
        asked.append(proposer.ask())
        proposer.tell(asked[-1], SPAN, TRUTH.of(asked[-1])[1])
    assert distinct(asked) == 30
    assert least <= len(weighed) <= most


def test_after_a_better_front_or_a_failure_candidates_are_weighed_anew() -> None:
    """What was weighed against the old front isn't proposed for the new one, nor what fails like the last."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    for genome in TRUTH.random(1200):
        proposer.tell(genome, *TRUTH.of(genome))
    first, second, third = proposer.ask(), proposer.ask(), proposer.ask()
    proposer.tell(second, SPAN, TRUTH.of(second)[1])
    assert proposer._weighed is not None
    proposer.tell(first, 0.0, TRUTH.of(first)[1])
    assert proposer._weighed is None
    proposer.ask()
    proposer.tell(third, math.inf, {}, usable=False)
    assert proposer._weighed is None


def test_latest_result_of_a_genome_counts() -> None:
    """Told again with a worse result, a genome loses the place that its luck gave it, and others get theirs back."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    first, second = TRUTH.random(2)
    size = {"size": 0.5 * TRUTH.base["size"]}
    proposer.tell(first, 0.02, size)
    proposer.tell(second, 0.01, size)
    assert np.array_equal(proposer._best, [second])
    proposer.tell(second, 0.3, size)
    assert np.array_equal(proposer._best, [first])
    proposer.tell(first, math.inf, {}, usable=False)
    assert np.array_equal(proposer._best, [second])
    assert proposer._front[:, 0] == pytest.approx(0.3 / SPAN)
    assert list(proposer.told) == [second.tobytes(), first.tobytes()]


def test_forgotten_proposal_may_be_made_again() -> None:
    """What was dropped without a result counts as untried."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    genome = proposer.ask()
    proposer.forget(genome)
    assert genome.tobytes() not in proposer.pending | proposer.told


def test_same_seed_same_proposals() -> None:
    """The same seed and results give the same proposals, another seed gives others."""
    first, again, other = (TRUTH.run(Proposer(PROFILE, TRUTH.goals(), seed), 25) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("costs", [("size",), ("size", "macs"), ("bops",), ("macs",)])
def test_front_is_found_faster_than_at_random(costs: tuple[str, ...]) -> None:
    """Thirty trials dominate more than 2,000 random ones, although the profile is wrong by a factor of e."""
    found = TRUTH.run(Proposer(PROFILE, TRUTH.goals(*costs), 0), 30)
    assert TRUTH.volume(found, *costs) > TRUTH.volume(TRUTH.random(2000), *costs)


def test_front_is_close_to_the_best_there_is() -> None:
    """On six layers with bits only, 40 trials come within 1 % of the front of all 7,776 combinations of settings."""
    choices = PROFILE.choices
    fixed = [i for i, d in enumerate(choices.decisions) if d.stage is not Stage.NUMERIC]
    space = Space(choices.space.sites.values(), [d for d in choices.decisions if d.stage is Stage.NUMERIC])
    effects = tuple(e for i, e in enumerate(PROFILE.effects) if i not in fixed)
    profile = Profile(Choices(space), effects, PROFILE.units, PROFILE.file_bytes)
    costs, known = CostModel(profile), np.concatenate(profile.damage)
    damage = known * np.exp(np.random.default_rng(5).normal(0, 1, len(known)))
    every = np.array(list(itertools.product(*map(range, profile.choices.counts))))

    def points(rows: Genomes) -> npt.NDArray[np.float64]:
        total = costs.hot(rows) @ damage
        size = costs.predict(rows)[:, 0]
        return np.column_stack([0.9 * total / (total + 0.5) / SPAN, size / (1.1 * PROFILE.file_bytes)])

    best = hypervolume(points(every).tolist(), [1.0, 1.0])
    goals = Goals({"size": PROFILE.file_bytes}, {"size": 1.1 * PROFILE.file_bytes}, SPAN, 2 * SPAN, 0.005)
    proposer = Proposer(profile, goals, 0)
    rows = []
    for _ in range(40):
        genome = proposer.ask()
        rows.append(points(genome[None])[0])
        proposer.tell(genome, rows[-1][0] * SPAN, {"size": rows[-1][1] * 1.1 * PROFILE.file_bytes})
    assert hypervolume([r.tolist() for r in rows], [1.0, 1.0]) > 0.99 * best


def test_learning_changes_proposals() -> None:
    """Told results that contradict the profile, the sampler proposes something else than if they confirmed it."""
    exact, wrong = Truth(PROFILE, 0.0), Truth(PROFILE, 2.0)
    runs = [truth.run(Proposer(PROFILE, truth.goals(), 0), 20) for truth in (exact, wrong)]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(*runs)


def test_all_trials_fail() -> None:
    """Without one usable result the sampler goes on with recipes that were not tried."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    found = []
    for _ in range(25):
        found.append(proposer.ask())
        proposer.tell(found[-1], math.inf, {}, usable=False)
    assert distinct(found) == 25
    assert np.isfinite(proposer.surrogate.mean).all()


@pytest.mark.parametrize(
    ("name", "least"), [("c.one/numeric", 4), ("c.one/numeric", 1), ("a.one/numeric", 1), ("<model>/recovery", 1)]
)
def test_what_fails_is_avoided(name: str, least: int) -> None:
    """If strong settings at a site fail, or a technique whatever its settings, that is found out, if it pays or not."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    place = next(i for i, d in enumerate(PROFILE.choices.decisions) if d.name == name)
    bad = []
    for _ in range(60):
        genome = proposer.ask()
        bad.append(genome[place] >= least)
        lost, costs = (math.inf, {}) if bad[-1] else TRUTH.of(genome)
        proposer.tell(genome, lost, costs, usable=not bad[-1])
    assert 0 < sum(bad) <= 20
    assert sum(bad[30:]) <= 10


def test_stopped_trials_without_costs_are_learnt_from() -> None:
    """Unknown costs of many trials, more than the model looks at, break nothing."""
    proposer = Proposer(PROFILE, TRUTH.goals("latency", "size"), 0)
    for number, genome in enumerate(TRUTH.random(450)):
        lost, costs = TRUTH.of(genome)
        proposer.tell(genome, lost, costs if number % 2 else {}, usable=number % 2 == 1)
    assert proposer.ask().tobytes() not in proposer.told
    assert np.isfinite(proposer.surrogate.mean).all()


def test_impossible_step_is_never_proposed() -> None:
    """A setting that failed while profiling isn't tried."""
    place = next(i for i, d in enumerate(PROFILE.choices.decisions) if d.name == "a.one/numeric")
    row = list(PROFILE.effects[place])
    row[4] = Effect(error="ValueError: no")
    effects = (*PROFILE.effects[:place], tuple(row), *PROFILE.effects[place + 1 :])
    profile = Profile(PROFILE.choices, effects, PROFILE.units, PROFILE.file_bytes)
    assert all(g[place] != 5 for g in TRUTH.run(Proposer(profile, TRUTH.goals(), 0), 60))


def test_small_space_is_exhausted_and_then_repeated() -> None:
    """One decision of five settings: all are tried before any is repeated, and asking goes on after that."""
    sites = [Site("a.one", "linear", ("a.one",))]
    choices = Choices(Space(sites, [Decision("a.one", Stage.NUMERIC, (option("integer", BITS),))]))
    place = next(i for i, d in enumerate(PROFILE.choices.decisions) if d.name == "a.one/numeric")
    profile = Profile(choices, (PROFILE.effects[place],), {"a.one": PROFILE.units["a.one"]}, 50_000)
    proposer = Proposer(profile, Goals({"size": 5e4}, {"size": 5.5e4}, SPAN, 2 * SPAN, 0.005), 0)
    found = []
    for number in range(9):
        found.append(int(proposer.ask()[0]))
        proposer.tell(np.array([found[-1]]), 0.01 * found[-1], {"size": 5e4 - 100 * number})
    assert sorted(found[:6]) == list(range(6))
    assert set(found[6:]) <= set(range(6))


def test_of_settings_that_are_alike_one_is_proposed() -> None:
    """A model that was told or is running isn't proposed under another name; one that was forgotten may be."""
    sites = [Site("a.one", "linear", ("a.one",))]
    space = Space(sites, [Decision("a.one", Stage.NUMERIC, (option("integer", BITS),))])
    alike = np.array([0, 1, 1, 3, 3, 5])
    place = next(i for i, d in enumerate(PROFILE.choices.decisions) if d.name == "a.one/numeric")
    profile = Profile(Choices(space, {0: alike}), (PROFILE.effects[place],), {"a.one": PROFILE.units["a.one"]}, 50_000)
    for seed in range(5):
        proposer = Proposer(profile, Goals({"size": 5e4}, {"size": 5.5e4}, SPAN, 2 * SPAN, 0.005), seed)
        first, second = proposer.ask(), proposer.ask()
        proposer.tell(first, 0.01 * first[0], {"size": 5e4})
        third, fourth = proposer.ask(), proposer.ask()
        assert sorted(alike[[first[0], second[0], third[0], fourth[0]]]) == [0, 1, 3, 5]
        proposer.forget(third)
        assert alike[proposer.ask()[0]] == alike[third[0]]


def test_better_than_the_original_counts_once_luck_is_known() -> None:
    """A model that beats the original is no better than it in the first trials, of which the best are the luckiest;
    then it is, and what was tried before is seen with other eyes.
    """
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    for lost in (0.02, -0.03, 0.01):
        proposer.tell(proposer.ask(), lost, {"size": 0.5 * TRUTH.base["size"]})
    assert proposer._front[:, 0].tolist() == [0.0]
    for _ in range(4):
        proposer.tell(proposer.ask(), 0.1, {"size": 0.5 * TRUTH.base["size"]})
    proposer.ask()
    assert proposer._front[:, 0].tolist() == pytest.approx([-0.03 / SPAN])


def test_no_more_is_hoped_for_than_the_best_and_chance() -> None:
    """Where much can't be explained, it might go well: but no model is imagined that is better than perfect, as bad
    ones of which little is known would promise more than good ones.
    """
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    for number in range(12):
        genome = proposer.ask()
        proposer.tell(genome, (0.02, 0.9)[number % 2] * TRUTH.goals().reach, TRUTH.of(genome)[1])
    proposer.ask()
    best = min(told.lost for told in proposer.told.values())
    hoped = min(float(foretold.points[:, 0].min()) for foretold in proposer._foretold.values())
    assert hoped >= (min(best, 0.0) - 2 * proposer.goals.noise) / proposer.goals.span - 1e-9


def test_chance_is_not_merit() -> None:
    """A quality that is better than the original's by no more than chance counts like the original's; beyond that it
    is better. Else a search in which little may be lost collects lucky models, and no small ones.
    """
    proposer = Proposer(PROFILE, replace(TRUTH.goals(), chance=0.02), 0)
    for number in range(6):
        proposer.tell(proposer.ask(), 0.01 * number - 0.03, {"size": (0.9 - 0.01 * number) * TRUTH.base["size"]})
    proposer.ask()
    size = np.full((4, 1), TRUTH.base["size"])
    points = proposer._points(np.array([0.01, -0.01, -0.02, -0.025]), size)
    assert points[:, 0] * SPAN == pytest.approx([0.01, 0, 0, -0.005])


def test_a_model_better_than_was_hoped_counts_in_full() -> None:
    """Where training makes an unfinished model much better, that is a measurement, whatever was hoped before it."""
    proposer = Proposer(PROFILE, TRUTH.goals(), 0)
    for number in range(6):
        proposer.tell(proposer.ask(), 0.1, {"size": (0.9 - 0.01 * number) * TRUTH.base["size"]})
    proposer.ask()
    proposer.tell(proposer.ask(), -0.2, {"size": 0.5 * TRUTH.base["size"]})
    assert proposer._front[:, 0].tolist() == pytest.approx([-0.2 / SPAN])
