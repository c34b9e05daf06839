"""The predicted front: exact where layers are separate, at rest where they are coupled, legal always."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.search.descent import Descent
from paretopress.search.effects import Effect, Unit
from paretopress.search.quick_costs import QuickCosts
from paretopress.search.sensitivity import Profile
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

Values = npt.NDArray[np.float64]

PATHS = ("stem", "a.fc", "a.out", "b.fc", "head")
LAYERS = [Site(p, "linear", (p,)) for p in PATHS]
GROUPS = [Site("group:stem", "group", ("stem", "a.fc", "head")), Site("group:a.fc", "group", ("a.fc", "a.out"))]
BLOCKS = [Site("block:a", "block", ("a",)), Site("block:b", "block", ("b",))]


def option(name: str, count: int, *forbids: str) -> Option:
    """Return an option with so many settings."""
    return Option(name, (Knob("k", tuple(range(count))),), frozenset(forbids))


class Problem:
    """A random profile: damages that grow where costs fall."""

    def __init__(self, seed: int, decisions: list[Decision], *more: Site) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.choices = choices = Choices(Space([*LAYERS, *GROUPS, *BLOCKS, *more], decisions))
        effects = []
        for decision, listed in zip(choices.decisions, choices.settings):
            members = [p for p in PATHS if self._touches(choices.space.sites[decision.site], p)]
            effects.append(tuple(self._effect(decision, members) for _ in listed))
        units = {p: Unit(int(rng.integers(100, 5000)), int(rng.integers(100, 90000))) for p in PATHS}
        pairs = itertools.product(
            {s for d, own in zip(choices.decisions, choices.settings) if d.stage is Stage.MASK for s in own},
            {s for d, own in zip(choices.decisions, choices.settings) if d.stage is Stage.NUMERIC for s in own},
        )
        together = {pair: float(rng.uniform(0.8, 2.5)) for pair in sorted(pairs, key=str)}
        profile = Profile(choices, tuple(effects), units, sum(u.bytes for u in units.values()), together)
        self.costs = QuickCosts(profile)
        self.descent = Descent(self.costs)
        self.damages = np.concatenate(profile.damage)
        base = self.costs.predict(np.zeros((1, len(choices)), dtype=np.int64))[0]
        self.prices = 10.0 ** rng.uniform(-2, 2, (6, 1)) * rng.dirichlet(np.ones(len(base)), 6) / base

    @staticmethod
    def _touches(site: Site, path: str) -> bool:
        return path.startswith(site.members[0] + ".") if site.kind == "block" else path in site.members

    def _effect(self, decision: Decision, members: list[str]) -> Effect:
        if decision.stage is Stage.TOPOLOGY:
            return Effect(float(self.rng.uniform(0, 2)), shares=dict.fromkeys(members, (0.0, 0.0, 1.0)))
        left = self.rng.uniform(0.05, 1.0, 2)
        share = (float(left[0]), 1.0, float(left[0])) if decision.stage > Stage.OPERATOR else (*map(float, left), 1.0)
        damage = float((1 - left.min()) * self.rng.exponential())
        return Effect(damage, shares=dict.fromkeys(members, share))

    def value(self, rows: Genomes, price: Values) -> Values:
        """Return the damage and the priced costs of legal genomes (n, decisions)."""
        costs = np.stack([x.sum(1) for x in self.costs.left(rows)], axis=1)
        found: Values = self.costs.hot(rows) @ self.damages + costs @ price
        return found

    def settled(self) -> Genomes:
        """Return solutions that were improved until they stayed the same."""
        rows = self.descent.solve(self.damages, self.prices)
        for _ in range(20):
            again = self.descent.solve(self.damages, self.prices, rows)
            if np.array_equal(again, rows):
                return rows
            rows = again
        raise AssertionError("it goes round in circles")

    def neighbours(self, row: Genomes) -> Genomes:
        """Return all legal genomes with one decision changed, and those with a block removed and what was in it."""
        found = [row]
        for i, (decision, count) in enumerate(zip(self.choices.decisions, self.choices.counts)):
            for number in range(count):
                other = row.copy()
                other[i] = number
                [legal] = self.choices.legal(other[None])
                if decision.stage is Stage.TOPOLOGY or np.array_equal(legal, other):
                    found.append(legal)
        return np.array(found)


def separable(rng: np.random.Generator) -> list[Decision]:
    """Return one decision a layer."""
    stages = {Stage.OPERATOR: "svd", Stage.MASK: "sparse", Stage.NUMERIC: "integer"}
    chosen = [list(stages)[k] for k in rng.integers(3, size=len(LAYERS))]
    return [Decision(s.name, stage, (option(stages[stage], 3),)) for s, stage in zip(LAYERS, chosen)]


def full(forbids: tuple[str, ...] = ()) -> list[Decision]:
    """Return all kinds of decisions."""
    return [
        *(Decision(s.name, Stage.TOPOLOGY, (option("depth", 1),)) for s in BLOCKS),
        *(Decision(s.name, Stage.STRUCTURE, (option("channels", 4),)) for s in GROUPS),
        *(Decision(s.name, Stage.OPERATOR, (option("svd", 3),)) for s in LAYERS),
        *(Decision(s.name, Stage.MASK, (option("sparse", 3, *forbids),)) for s in LAYERS),
        *(Decision(s.name, Stage.NUMERIC, (option("integer", 3), option("codebook", 2))) for s in LAYERS),
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_separate_layers_are_solved_exactly(seed: int) -> None:
    """With one decision a layer the answer is the best of all combinations, for every price."""
    problem = Problem(seed, separable(np.random.default_rng(seed)))
    every = np.indices(problem.choices.counts).reshape(len(problem.choices), -1).T
    for row, price in zip(problem.descent.solve(problem.damages, problem.prices), problem.prices):
        assert problem.value(row[None], price)[0] == pytest.approx(problem.value(every, price).min())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([(), ("codebook",), ("numeric",)]))
def test_no_single_change_improves_a_solution(seed: int, forbids: tuple[str, ...]) -> None:
    """With coupled channels, blocks, masks beside number formats and forbidden stacks, solutions that are improved
    on themselves come to rest where no other setting of any one decision is better.
    """
    problem = Problem(seed, full(forbids))
    for row, price in zip(problem.settled(), problem.prices):
        here = problem.value(row[None], price)[0]
        assert here <= problem.value(problem.neighbours(row), price).min() * (1 + 1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_solutions_are_close_to_the_best(seed: int) -> None:
    """Two coupled layers with a mask and a number format: within a tenth of the best of all combinations."""
    decisions = [
        d for d in full() if d.site in ("group:a.fc", "a.fc", "a.out", "block:a") and d.stage != Stage.OPERATOR
    ]
    problem = Problem(seed, decisions)
    every = problem.choices.legal(np.indices(problem.choices.counts).reshape(len(problem.choices), -1).T)
    ratios = [
        problem.value(row[None], price)[0] / problem.value(every, price).min()
        for row, price in zip(problem.settled(), problem.prices)
    ]
    assert np.median(ratios) < 1.1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_solutions_are_legal_and_no_worse_than_their_start(seed: int) -> None:
    """Every answer is a genome of a recipe, and improving on one never makes it worse."""
    problem = Problem(seed, full(("numeric",)))
    start = problem.choices.legal(problem.rng.integers(problem.choices.counts, size=(6, len(problem.choices))))
    kept = start.copy()
    found = problem.descent.solve(problem.damages, problem.prices, start)
    assert np.array_equal(start, kept)
    assert np.array_equal(problem.choices.legal(found), found)
    for before, after, price in zip(start, found, problem.prices):
        assert problem.value(after[None], price)[0] <= problem.value(before[None], price)[0] * (1 + 1e-9)


def test_free_costs_leave_the_model_alone_and_dear_ones_take_all() -> None:
    """Without a price nothing is compressed; with an enormous one everything is, and blocks go."""
    problem = Problem(0, full())
    for price, want in ((0.0, 0), (1e9, 1)):
        rows = problem.descent.solve(problem.damages, np.full((1, 3), price))
        blocks = [i for i, d in enumerate(problem.choices.decisions) if d.stage is Stage.TOPOLOGY]
        assert (rows[0, blocks] == want).all()
        assert rows.any() == bool(want)


def test_forbidden_stacks_are_never_proposed() -> None:
    """Two techniques that can't share a layer don't, although each would pay."""
    problem = Problem(1, [d for d in full(("numeric",)) if d.stage in (Stage.MASK, Stage.NUMERIC)])
    rows = problem.descent.solve(problem.damages * 1e-6, problem.prices)
    for i, j, table in problem.choices.conflicts:
        assert not table[rows[:, i], rows[:, j]].any()
        assert (rows[:, [i, j]] > 0).any(1).all()


def test_impossible_settings_are_never_proposed() -> None:
    """A step that fails has infinite damage, and no price is high enough for it."""
    problem = Problem(2, full())
    damages = problem.damages.copy()
    refused = problem.rng.random(len(damages)) < 0.5
    refused[problem.costs.offsets] = False
    damages[refused] = np.inf
    rows = problem.descent.solve(damages, problem.prices * 1e6)
    assert not (problem.costs.hot(rows) @ refused.astype(float)).any()


def test_block_is_removed_when_that_is_cheaper_than_what_is_in_it() -> None:
    """A block goes if its removal does less damage than it saves, and comes back if it was removed for nothing."""
    problem = Problem(3, full())
    place = next(i for i, d in enumerate(problem.choices.decisions) if d.site == "block:a")
    at = problem.costs.offsets[place] + 1
    damages = problem.damages.copy()
    damages[at] = 0.0
    rows = problem.descent.solve(damages, problem.prices)
    assert (rows[:, place] == 1).all()
    assert np.array_equal(problem.descent.solve(damages, problem.prices, rows), rows)
    damages[at] = 1e6
    assert (problem.descent.solve(damages, problem.prices, rows)[:, place] == 0).all()


def test_containers_and_recovery_stay_as_they_are() -> None:
    """Training and coding aren't the descent's to choose."""
    decisions = [
        *separable(np.random.default_rng(0)),
        Decision("<model>", Stage.CONTAINER, (option("entropy", 1),)),
        Decision("<model>", Stage.RECOVERY, (option("distillation", 3),)),
    ]
    problem = Problem(0, decisions, Site("<model>", "model", ("",)))
    start = np.zeros((6, len(problem.choices)), dtype=np.int64)
    start[:, -2:] = np.arange(6)[:, None] % [2, 4]
    found = problem.descent.solve(problem.damages, problem.prices, start)
    assert np.array_equal(found[:, -2:], start[:, -2:])


def test_technique_of_a_layers_stage_at_a_group_is_one_decision_about_all_of_it() -> None:
    """A mask that a newcomer's technique puts on a whole group is weighed with all of the group's layers."""
    shared = [Decision(GROUPS[0].name, Stage.MASK, (option("pattern", 3),))]
    problem = Problem(4, [*shared, *(Decision(s.name, Stage.NUMERIC, (option("integer", 3),)) for s in LAYERS)])
    for row, price in zip(problem.settled(), problem.prices):
        here = problem.value(row[None], price)[0]
        assert here <= problem.value(problem.neighbours(row), price).min() * (1 + 1e-9)
