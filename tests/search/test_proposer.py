"""The proposer asks for legal, new genomes within the limits, and finds what random search doesn't."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect, Unit
from paretopress.search.pareto import hypervolume
from paretopress.search.proposer import Goals, Proposer
from paretopress.search.sensitivity import Profile
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

Genome = npt.NDArray[np.int64]

LAYERS = tuple(f"{block}.{layer}" for block in "abc" for layer in ("one", "two"))
BITS = (8, 6, 4, 3, 2)
SPAN = 0.5


def option(name: str, values: tuple[int, ...]) -> Option:
    """Return an option with one knob."""
    return Option(name, (Knob("k", values),))


def by_hand(*extra: Decision) -> Profile:
    """Return the profile of six layers in three blocks: block removal, channels, masks, bits, coding and training."""
    rng = np.random.default_rng(0)
    sites = [
        *(Site(name, "linear", (name,)) for name in LAYERS),
        Site("block:b", "block", ("b",)),
        Site("group:a", "group", ("a.one", "a.two")),
        Site("<model>", "model", ("",)),
    ]
    decisions = [
        Decision("block:b", Stage.TOPOLOGY, (Option("depth"),)),
        Decision("group:a", Stage.STRUCTURE, (option("channels", (1, 2, 3)),)),
        *(Decision(name, Stage.MASK, (option("sparse", (1, 2)),)) for name in LAYERS),
        *(Decision(name, Stage.NUMERIC, (option("integer", BITS),)) for name in LAYERS),
        Decision("<model>", Stage.CONTAINER, (Option("entropy"),)),
        Decision("<model>", Stage.RECOVERY, (option("distillation", (10, 100)),)),
        *extra,
    ]
    choices = Choices(Space(sites, decisions))
    units = {name: Unit(int(rng.integers(2000, 40000)), int(rng.integers(10000, 90000))) for name in LAYERS}
    effects = []
    for decision, own in zip(choices.decisions, choices.settings):
        touched = {"block:b": ("b.one", "b.two"), "group:a": ("a.one", "a.two")}.get(decision.site, (decision.site,))
        weight = float(rng.exponential())
        row = []
        for k, setting in enumerate(own, 1):
            if decision.stage is Stage.NUMERIC:
                bits = int(dict(setting.params)["k"])
                row.append(Effect(weight * 4.0 ** (2 - bits), "fisher", {touched[0]: (bits / 32, 1.0, bits / 32)}))
            elif decision.stage is Stage.MASK:
                row.append(Effect(weight * 0.05 * k, "fisher", {touched[0]: (1 - k / 3, 1.0, 1.0)}))
            elif decision.stage is Stage.STRUCTURE:
                row.append(Effect(weight * 0.1 * k, "channels", dict.fromkeys(touched, (1 - k / 5, 1 - k / 5, 1.0))))
            elif decision.stage is Stage.TOPOLOGY:
                row.append(Effect(0.8, "outputs", dict.fromkeys(touched, (0.0, 0.0, 1.0))))
            else:
                row.append(Effect())
        effects.append(tuple(row))
    return Profile(choices, tuple(effects), units, 500 + sum(u.bytes for u in units.values()))


class Truth:
    """What trials give: damages that the profile is wrong about, training that gives half of the loss back."""

    def __init__(self, profile: Profile, wrong: float = 1.0) -> None:
        self.profile, self.costs = profile, CostModel(profile)
        known = np.concatenate(profile.damage)
        self.damage = known * np.exp(np.random.default_rng(5).normal(0, wrong, len(known)))
        self.base = self.of(np.zeros(len(profile.choices), dtype=np.int64))[1]

    def of(self, genome: Genome) -> tuple[float, dict[str, float]]:
        """Return the loss of quality, and the costs; latency is a root of the bit operations."""
        damage = float(self.damage[self.costs.offsets + genome].sum())
        if genome[self.profile.choices.at("<model>")[-1]]:
            damage /= 2
        costs = dict(zip(self.costs.metrics, self.costs.predict(genome[None])[0].tolist()))
        return 0.9 * damage / (damage + 0.5), costs | {"latency": 1e-6 * math.sqrt(costs["bops"])}

    def goals(self, *objectives: str, quality: bool = True, **more: object) -> Goals:
        """Return goals, by default the size beside the quality."""
        names = objectives or ("size",)
        limits: Mapping[str, float] = more.get("limits", {})  # type: ignore[assignment] # given as a mapping
        base = {name: self.base[name] for name in (*names, *limits)}
        worst = {name: 1.1 * self.base[name] for name in names}
        return Goals(base, worst, SPAN, 2 * SPAN, 0.005, quality, **more)  # type: ignore[arg-type] # limits and lost

    def run(self, proposer: Proposer, trials: int) -> list[Genome]:
        """Ask and tell so many times; what loses more than is allowed can't be on the front."""
        found = []
        for _ in range(trials):
            genome = proposer.ask()
            lost, costs = self.of(genome)
            proposer.tell(genome, lost, costs, usable=lost <= proposer.goals.lost)
            found.append(genome)
        return found

    def volume(self, genomes: list[Genome], *costs: str) -> float:
        """Return the share of the loss x costs box that genomes dominate."""
        told = [self.of(genome) for genome in genomes]
        rows = [[lost / SPAN, *(c[name] / (1.1 * self.base[name]) for name in costs)] for lost, c in told]
        return hypervolume(rows, [1.0] * (1 + len(costs)))

    def random(self, count: int) -> list[Genome]:
        """Return random legal genomes."""
        choices = self.profile.choices
        drawn = np.random.default_rng(1).integers(choices.counts, size=(count, len(choices)))
        return list(choices.legal(drawn))


PROFILE = by_hand()
TRUTH = Truth(PROFILE)


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


def test_running_proposals_that_break_a_limit_do_not_count() -> None:
    """What can't be on the front when it is done takes no place on it while it is running."""
    limits = {"bops": 0.15 * TRUTH.base["bops"]}
    alone, beside = (Proposer(PROFILE, TRUTH.goals(limits=limits), 0) for _ in range(2))
    broken = [genome for genome in TRUTH.random(60) if TRUTH.of(genome)[1]["bops"] > 1.02 * limits["bops"]]
    beside.pending |= {genome.tobytes(): genome for genome in broken}
    for _ in range(5):
        assert np.array_equal(alone.ask(), beside.ask())


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
