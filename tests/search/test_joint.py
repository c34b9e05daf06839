"""The knapsack around a recipe says what whole genomes cost."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from paretopress.search.effects import Effect, Unit
from paretopress.search.joint import Joint
from paretopress.search.layerwise import Layerwise
from paretopress.search.quick_costs import QuickCosts
from paretopress.search.sensitivity import Profile
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

METRICS = ("size", "macs")
RNG = np.random.default_rng(0)


def profile() -> Profile:
    """Return a random profile of three layers, one of them two tied ones, with a group and a block; a mask doesn't go
    with the third number format.
    """
    sites = [
        Site("a", "linear", ("a",)),
        Site("b.fc", "linear", ("b.fc", "b.tied")),
        Site("c", "linear", ("c",)),
        Site("group:a", "group", ("a", "b.fc", "b.tied")),
        Site("block:b", "block", ("b",)),
    ]
    operator, mask = Option("svd", (Knob("rank", (4, 2)),)), Option("sparse", (Knob("k", (1, 2)),))
    formats = (Option("integer", (Knob("bits", (8, 4)),)), Option("codebook", forbids=frozenset({"sparse"})))
    layers = {Stage.OPERATOR: (operator,), Stage.MASK: (mask,), Stage.NUMERIC: formats}
    decisions = [
        Decision("block:b", Stage.TOPOLOGY, (Option("depth"),)),
        Decision("group:a", Stage.STRUCTURE, (Option("channels", (Knob("k", (1, 2)),)),)),
        *(Decision(name, stage, options) for name in ("a", "b.fc", "c") for stage, options in layers.items()),
    ]
    choices = Choices(Space(sites, decisions))
    effects = []
    for decision, settings in zip(choices.decisions, choices.settings):
        members = ("b.fc", "b.tied") if decision.site == "block:b" else choices.space.sites[decision.site].members
        shares = [tuple(map(float, RNG.uniform(0.2, 1, 3))) for _ in settings]
        effects.append(tuple(Effect(float(RNG.exponential()), shares=dict.fromkeys(members, s)) for s in shares))
    own = {d.stage: s for d, s in zip(choices.decisions, choices.settings) if d.site == "a"}
    together = {pair: float(RNG.uniform(0.5, 2)) for pair in product(own[Stage.MASK], own[Stage.NUMERIC])}
    units = {"a": Unit(4000, 900), "b.fc": Unit(2500, 700), "b.tied": Unit(0, 300), "c": Unit(800, 100)}
    return Profile(choices, tuple(effects), units, 9000, together)


COSTS = QuickCosts(PROFILE := profile())
JOINT = Joint(COSTS, METRICS)
DAMAGES = np.concatenate(PROFILE.damage)


def genome(**taken: int) -> Genomes:
    """Return a genome (decisions,) by stage and site, none elsewhere."""
    names = [d.name.split("/")[1] + "_" + d.site.split(":")[-1][0] for d in PROFILE.choices.decisions]
    return np.array([taken.get(name, 0) for name in names], dtype=np.int64)


def made(start: Genomes) -> Layerwise:
    """Return the knapsack around a genome."""
    found = JOINT.around(DAMAGES, start)
    assert found is not None
    return found


@pytest.mark.parametrize("start", [genome(), genome(structure_a=2, mask_a=1, numeric_c=2)])
def test_every_choice_costs_what_its_genome_does(start: Genomes) -> None:
    """Damages and costs of the choices add up to those of the genome they stand for, to rounding."""
    layers = made(start)
    assert len(layers.problem.damage) == 3
    for _ in range(50):
        row, damage, cost = start.copy(), 0.0, np.array([layers.problem.fixed[m] for m in METRICS])
        for places, numbers, harm, *spent in zip(
            layers.places, layers.joint, layers.problem.damage, *(layers.problem.costs[m] for m in METRICS)
        ):
            k = RNG.integers(len(numbers))
            row[places] = numbers[k]
            damage += harm[k]
            cost = cost + [table[k] for table in spent]
        assert np.array_equal(PROFILE.choices.legal(row[None])[0], row)
        elsewhere = DAMAGES[(COSTS.offsets + row)[:2]].sum()
        assert damage + elsewhere == pytest.approx(DAMAGES[COSTS.offsets + row].sum())
        assert cost == pytest.approx(COSTS.predict(row[None])[0, [COSTS.metrics.index(m) for m in METRICS]])


def test_no_useful_choice_is_missing() -> None:
    """Whatever a layer could be, one of its choices has no more damage and no higher costs."""
    start = genome(structure_a=1)
    layers = made(start)
    columns = [COSTS.metrics.index(m) for m in METRICS]
    base = COSTS.predict(start[None])[0, columns]
    for places, harm, *spent in zip(layers.places, layers.problem.damage, *(layers.problem.costs[m] for m in METRICS)):
        kept = np.column_stack([harm, *spent])
        for numbers in product(*(range(n) for n in PROFILE.choices.counts[places])):
            row = start.copy()
            row[places] = numbers
            if np.array_equal(PROFILE.choices.legal(row[None])[0], row):
                point = [DAMAGES[COSTS.offsets + row][places].sum(), *(COSTS.predict(row[None])[0, columns] - base)]
                assert (kept <= np.array(point) + 1e-6).all(1).any()


def test_removed_blocks_and_impossible_settings_leave_no_choice() -> None:
    """What is in a block that is gone isn't decided, and a setting that can't be applied is no choice."""
    layers = made(genome(topology_b=1))
    assert {PROFILE.choices.decisions[i].site for places in layers.places for i in places} == {"a", "c"}
    places = [i for i, d in enumerate(PROFILE.choices.decisions) if d.name == "a/mask"]
    damages = DAMAGES.copy()
    damages[COSTS.offsets[places[0]] + 1] = np.inf
    refused = JOINT.around(damages, genome())
    assert refused is not None
    [joint] = [numbers for mine, numbers in zip(refused.places, refused.joint) if places[0] in mine]
    assert 1 not in joint[:, 1]
    assert 2 in joint[:, 1]


def test_nothing_to_decide_is_no_knapsack() -> None:
    """Without layers that can be compressed there is none."""
    choices = Choices(Space([Site("group:a", "group", ("a",))], [PROFILE.choices.decisions[1]]))
    costs = QuickCosts(Profile(choices, (PROFILE.effects[1],), {"a": Unit(10, 10)}, 10))
    assert Joint(costs, METRICS).around(np.zeros(3), np.zeros(1, dtype=np.int64)) is None
