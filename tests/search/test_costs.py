"""Predicted costs are those of real files."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from paretopress.search.costs import STEP_BYTES, CostModel, Fitted
from paretopress.search.effects import ON_INTEGERS, Effect, Unit
from paretopress.search.examples.digits import task as digits
from paretopress.search.latency_table import LatencyTable
from paretopress.search.profile_store import ProfileStore
from paretopress.search.quick_costs import QuickCosts
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.search.trial import Bench, metrics_for
from paretopress.spaces.choices import Choices, Genomes, Setting
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

BITS = (16, 8)


@functools.cache
def measured() -> tuple[Bench, Profile]:
    """Return a bench of the digits and the profile of their full space."""
    task = digits()
    space = Space.from_task(task)
    bench = Bench(task, space.sites, metrics_for(task, ["size", "macs", "bops"]), ())
    profiler = Profiler(task, space, ProfileStore(task, None))
    return bench, profiler.measure(len(bench.compress(Recipe(), 0)[0].data))


def by_hand(together: dict[tuple[Setting, Setting], float] | None = None) -> Profile:
    """Return a profile of two layers, the second in a block, with channels between them."""
    sites = [
        Site("a", "linear", ("a",)),
        Site("b.fc", "linear", ("b.fc",)),
        Site("group:a", "group", ("a", "b.fc")),
        Site("block:b", "block", ("b",)),
    ]
    decisions = [
        Decision("block:b", Stage.TOPOLOGY, (Option("depth"),)),
        Decision("group:a", Stage.STRUCTURE, (Option("channels", (Knob("ratio", (0.5,)),)),)),
        Decision("a", Stage.MASK, (Option("sparse"),)),
        Decision("a", Stage.NUMERIC, (Option("integer", (Knob("bits", BITS),)),)),
        Decision("b.fc", Stage.NUMERIC, (Option("integer", (Knob("bits", BITS),)),)),
    ]
    choices = Choices(Space(sites, decisions))
    short = [(0.5, 1.0, 0.5), (0.25, 1.0, 0.25)]
    effects = {
        "block:b/topology": [{"b.fc": (0.0, 0.0, 1.0)}],
        "group:a/structure": [{"a": (0.5, 0.5, 1.0), "b.fc": (0.5, 0.5, 1.0)}],
        "a/mask": [{"a": (0.4, 1.0, 1.0)}],
        "a/numeric": [{"a": s} for s in short],
        "b.fc/numeric": [{"b.fc": s} for s in short],
    }
    found = tuple(tuple(Effect(shares=s) for s in effects[d.name]) for d in choices.decisions)
    return Profile(choices, found, {"a": Unit(1000, 2000), "b.fc": Unit(400, 300)}, 1500, together or {})


def row(profile: Profile, **numbers: int) -> Genomes:
    """Return a genome (1, decisions) by technique at a decision, e.g. ``a_numeric=2``."""
    names = [d.name.replace("block:b", "block").replace("group:a", "group").replace("b.fc", "b") for d in
             profile.choices.decisions]  # fmt: skip
    return np.array([[numbers.get(name.replace("/", "_"), 0) for name in names]])


def test_random_recipes_cost_what_is_predicted() -> None:
    """Bytes, MACs and bit operations of random recipes of the full space are those of the real files, about."""
    bench, profile = measured()
    costs, choices = CostModel(profile), profile.choices
    rng = np.random.default_rng(1)
    stages = np.array([d.stage for d in choices.decisions])
    errors = []
    for density in np.linspace(0.1, 1.0, 12):
        genome = np.where(rng.random(len(choices)) < density, rng.integers(choices.counts), 0)
        genome[stages == Stage.TOPOLOGY] *= rng.random() < 0.3
        genome[stages == Stage.CONTAINER], genome[stages == Stage.RECOVERY] = 1, 0
        genome = choices.legal(genome[None])[0]
        saved, draft = bench.compress(choices.recipe(genome), 0)
        real = bench.measure(bench.reload(saved, draft), draft, len(saved.data), bench.metrics)
        errors.append(costs.predict(genome[None])[0] / [real[m].value for m in costs.metrics] - 1)
    size, macs, bops = np.abs(errors).T
    assert np.median(size) < 0.02
    assert size.max() < 0.15  # the smallest files are 25 times smaller than the original
    assert macs.max() < 0.06
    assert bops.max() < 0.06


def test_nothing_compressed_costs_what_the_original_does() -> None:
    """The baseline's prediction is exact."""
    bench, profile = measured()
    saved, draft = bench.compress(Recipe(), 0)
    real = bench.measure(bench.reload(saved, draft), draft, len(saved.data), bench.metrics)
    costs = CostModel(profile)
    found = costs.predict(np.zeros((1, len(profile.choices)), dtype=np.int64))[0]
    assert found == pytest.approx([real[m].value for m in costs.metrics])


def test_shares_of_different_steps_multiply() -> None:
    """Half the channels at a quarter of the bits are an eighth of the bytes."""
    profile = by_hand()
    costs = CostModel(profile)
    size, macs, bops = costs.predict(row(profile, group_structure=1, a_numeric=2))[0]
    assert size == pytest.approx(1000 / 8 + 400 / 2 + 100 + 2 * STEP_BYTES)
    assert macs == pytest.approx(1000 + 150)
    assert bops == pytest.approx(1024 * (1000 / 4 + 150))


def test_removed_block_leaves_nothing() -> None:
    """A block that is gone costs nothing in any metric, whatever else touches its layers."""
    profile = by_hand()
    costs = CostModel(profile)
    for others in ({}, {"group_structure": 1}):
        left = costs.left(row(profile, block_topology=1, **others))
        assert all(x[0, costs.paths.index("b.fc")] == 0 for x in left)
        assert all(x[0, costs.paths.index("a")] > 0 for x in left)


def test_removed_block_of_the_digits_leaves_nothing() -> None:
    """The same for a measured profile: of every module in the block, and of no other."""
    _, profile = measured()
    costs, choices = CostModel(profile), profile.choices
    place = next(i for i, d in enumerate(choices.decisions) if d.site == "block:block3")
    genome = np.zeros((1, len(choices)), dtype=np.int64)
    whole = costs.left(genome)
    genome[0, place] = 1
    for before, after in zip(whole, costs.left(genome)):
        for path, old, new in zip(costs.paths, before[0], after[0]):
            assert new == (0 if path.startswith("block3") else old)


def test_masks_and_number_formats_have_a_table() -> None:
    """What a mask and a number format leave together is measured: it corrects the bytes, and nothing else."""
    mask, formats = Setting("sparse"), [Setting("integer", (("bits", b),)) for b in BITS]
    plain = by_hand()
    profile = by_hand({(mask, formats[0]): 1.5, (mask, formats[1]): 2.0})
    for number, factor in ((1, 1.5), (2, 2.0)):
        genome = row(profile, a_mask=1, a_numeric=number)
        before, after = CostModel(plain).left(genome), CostModel(profile).left(genome)
        assert after[0][0] == pytest.approx(before[0][0] * [factor, 1.0])
        assert np.array_equal(after[1], before[1])
        assert np.array_equal(after[2], before[2])
    for alone in (row(profile, a_mask=1), row(profile, a_numeric=2), row(profile, b_numeric=2)):
        assert np.array_equal(CostModel(profile).predict(alone), CostModel(plain).predict(alone))


def test_steps_that_fail_and_layers_nobody_knows_cost_nothing() -> None:
    """An effect that is an error, or names a module the profile doesn't have, changes no cost."""
    profile = by_hand()
    effects = tuple(tuple(Effect(error="no") for _ in e) for e in profile.effects)
    strange = tuple(tuple(Effect(shares={"elsewhere": (0.5, 0.5, 0.5)}) for _ in e) for e in profile.effects)
    genome = row(profile, group_structure=1, a_numeric=2)
    for changed in (effects, strange):
        costs = CostModel(replace(profile, effects=changed))
        assert costs.predict(genome)[0] == pytest.approx([1500 + 2 * STEP_BYTES, 2300, 2300 * 1024])


def test_hot_rows_name_one_setting_a_decision() -> None:
    """Genomes as ones and zeros: the same predictions, and one 1 for each decision."""
    profile = by_hand()
    costs = CostModel(profile)
    rng = np.random.default_rng(0)
    genomes = rng.integers(profile.choices.counts, size=(20, len(profile.choices)))
    hot = costs.hot(genomes)
    assert hot.shape == (20, profile.choices.counts.sum())
    dense = np.asarray(hot.todense())
    for i, (offset, count) in enumerate(zip(costs.offsets, profile.choices.counts)):
        assert np.array_equal(dense[:, offset : offset + count].argmax(1), genomes[:, i])
        assert np.array_equal(dense[:, offset : offset + count].sum(1), np.ones(20))
    assert np.array_equal(costs.predict(genomes, hot), costs.predict(genomes))


def test_other_metrics_are_learnt_from_trials() -> None:
    """A metric that follows the known costs by a power law is predicted after a few trials, others' gaps ignored."""
    profile = by_hand()
    costs = CostModel(profile)
    rng = np.random.default_rng(0)
    genomes = profile.choices.legal(rng.integers(profile.choices.counts, size=(40, len(profile.choices))))
    known = costs.predict(genomes)
    whole = costs.predict(np.zeros((1, len(profile.choices)), dtype=np.int64))[0]
    latency = 7.0 * (known[:, 1] / whole[1]) ** 0.9
    values = np.stack([known[:, 0], np.where(np.arange(40) % 3, latency, np.nan)], axis=1)
    fitted = Fitted(costs, {"latency": 7.0})
    before = fitted.predict(known)["latency"]
    assert before == pytest.approx(7.0 * (known[:, 1] / whole[1]) ** 0.5)
    fitted.learn(costs.hot(genomes), genomes, values, ["size", "latency"])
    after = fitted.predict(known)["latency"]
    assert np.abs(np.log(after / latency)).mean() < 0.3 * np.abs(np.log(before / latency)).mean()


def test_the_deployed_file_is_taken_to_shrink_as_the_native_one() -> None:
    """Bits save no multiplication, by which metrics that nobody knows are judged before trials tell."""
    profile = by_hand()
    costs = CostModel(profile)
    rng = np.random.default_rng(0)
    known = costs.predict(profile.choices.legal(rng.integers(profile.choices.counts, size=(40, len(profile.choices)))))
    whole = costs.predict(np.zeros((1, len(profile.choices)), dtype=np.int64))[0]
    found = Fitted(costs, {"onnx_size": 5e4, "memory": 5e4}).predict(known)
    assert found["onnx_size"] == pytest.approx(5e4 * known[:, 0] / whole[0])
    assert found["memory"] == pytest.approx(5e4 * (known[:, 1] / whole[1]) ** 0.5)


def with_table() -> Profile:
    """Return the profile by hand with a latency table: a module of its own, and half of the time in none."""
    profile = by_hand()
    effects = tuple(
        tuple(replace(e, work=d.name) if d.stage in (Stage.TOPOLOGY, Stage.STRUCTURE) else e for e in own)
        for d, own in zip(profile.choices.decisions, profile.effects)
    )
    left = {
        "block:b/block:b/topology": {"b.fc": 0.0, "b": 0.0},
        "group:a/group:a/structure": {"a": 0.5, "b.fc": 0.8, "elsewhere": 0.1},
    }
    table = LatencyTable("latency", "ONNX Runtime, batch 1, 1 thread", 2.0, {"a": 0.2, "b.fc": 0.25, "b": 0.05}, left)
    return replace(profile, effects=effects, latency=table)


def test_latency_is_that_of_the_table() -> None:
    """Shares of layers multiply, what is in no layer stays, and bytes and MACs are what they are without a table."""
    profile = with_table()
    costs, plain = CostModel(profile), CostModel(by_hand())
    assert costs.metrics == (*plain.metrics, "latency")
    expected = {
        (): 1.0,
        ("a_mask", "a_numeric"): 1.0,
        ("group_structure",): 0.5 + 0.1 + 0.2 + 0.05,
        ("block_topology",): 0.5 + 0.2,
        ("block_topology", "group_structure"): 0.5 + 0.1,
    }
    for chosen, value in expected.items():
        genome = row(profile, **dict.fromkeys(chosen, 1))
        predicted = costs.predict(genome)[0]
        assert predicted[-1] == pytest.approx(value)
        assert predicted[:-1] == pytest.approx(plain.predict(genome)[0])


def test_layers_on_integers_have_times_of_their_own() -> None:
    """What a setting leaves of a layer's time on integers is what was timed there, not in fp32; of two techniques that
    make one layer slower than their shares say, the one that does so more counts.
    """
    profile = with_table()
    assert profile.latency is not None
    works = {Stage.NUMERIC: ON_INTEGERS, Stage.MASK: "masked"}
    effects = tuple(
        tuple(replace(e, work=works[d.stage]) if d.stage in works else e for e in own)
        for d, own in zip(profile.choices.decisions, profile.effects)
    )
    group, numbers, mask = "group:a/group:a/structure", f"a/{ON_INTEGERS}", "a/masked"
    left = {**profile.latency.left, numbers: {"a": 0.5}, mask: {"a": 0.8}, f"b.fc/{ON_INTEGERS}": {"b.fc": 0.25}}
    alongside = {group: {"a": 0.9, "b.fc": 0.4, "elsewhere": 1.0}, mask: {"a": 1.2}}
    table = replace(profile.latency, left=left, alongside=alongside)
    profile = replace(profile, effects=effects, latency=table)
    a, b, rest = 0.2, 0.25, 0.55
    for chosen, value in (
        (("a_numeric",), 0.5 * a + b),
        (("group_structure",), 0.5 * a + 0.8 * b),
        (("group_structure", "a_numeric"), 0.5 * 0.9 * a + 0.8 * b),
        (("group_structure", "a_numeric", "b_numeric"), 0.5 * 0.9 * a + 0.25 * 0.4 * b),
        (("a_mask", "a_numeric"), 0.5 * 1.2 * a + b),
        (("group_structure", "a_mask", "a_numeric"), 0.5 * 0.9 * 0.8 * a + 0.8 * b),
    ):
        genome = row(profile, **dict.fromkeys(chosen, 1))
        for costs in (CostModel(profile), QuickCosts(profile)):
            assert costs.predict(genome)[0, -1] == pytest.approx(value + rest)


def test_conversions_are_paid_where_neighbours_differ() -> None:
    """Once for a layer whose readers don't all run as it does; the fast predictions say the same."""
    profile = with_table()
    assert profile.latency is not None
    effects = tuple(
        tuple(replace(e, work=f"{d.site}{ON_INTEGERS}") if d.stage is Stage.NUMERIC else e for e in own)
        for d, own in zip(profile.choices.decisions, profile.effects)
    )
    table = replace(profile.latency, borders={"a": (0.03, ("b.fc", "nobody"))})
    profile = replace(profile, effects=effects, latency=table)
    numeric = [d for d in profile.choices.decisions if d.stage is Stage.NUMERIC]
    assert {d.site for d in numeric} >= {"a", "b.fc"}
    plain = CostModel(replace(profile, latency=replace(table, borders={})))
    for chosen, extra in (
        ((), 0.0),
        (("a_numeric",), 0.03),
        (("b_numeric",), 0.03),
        (("a_numeric", "b_numeric"), 0),
    ):
        genome = row(profile, **dict.fromkeys(chosen, 1))
        for costs in (CostModel(profile), QuickCosts(profile), QuickCosts(profile, ["latency"])):
            place = costs.metrics.index("latency")
            assert costs.predict(genome)[0, place] == pytest.approx(plain.predict(genome)[0, -1] + extra)
    assert "latency" not in QuickCosts(profile, ["size"]).metrics
    assert QuickCosts(profile, ["size"]).predict(genome).shape[1] == 1


def test_hardly_any_trial_is_below_its_floor() -> None:
    """What stops a trial before it is timed must be as wide as the predictions are wrong."""
    profile = with_table()
    costs = CostModel(profile)
    rng = np.random.default_rng(0)
    genomes = profile.choices.legal(rng.integers(profile.choices.counts, size=(400, len(profile.choices))))
    known = costs.predict(genomes)
    latency = known[:, -1] ** 0.7 * rng.lognormal(0, 0.1, len(genomes))
    fitted = Fitted(costs, {"latency": 1.0})
    for told in (0, 3, 30, 200):
        if told:
            fitted.learn(costs.hot(genomes[:told]), genomes[:told], latency[:told, None], ["latency"])
        floors = np.array([fitted.floors(known[i : i + 1])["latency"] for i in range(200, 400)])
        assert np.mean(latency[200:] < floors) <= 0.01
    assert np.median(floors / latency[200:]) > 0.6  # and no wider: else it would stop nobody


def test_trials_correct_the_table() -> None:
    """Before any trial the table is believed as it is; a bias that trials show is learnt from them."""
    profile = with_table()
    costs = CostModel(profile)
    rng = np.random.default_rng(0)
    genomes = profile.choices.legal(rng.integers(profile.choices.counts, size=(60, len(profile.choices))))
    known = costs.predict(genomes)
    fitted = Fitted(costs, {"latency": 1.02, "speed": 3.0})
    before = fitted.predict(known)
    assert before["latency"] == pytest.approx(1.02 * known[:, -1])
    assert before["speed"] == pytest.approx(3.0 * (known[:, 1] / known[:, 1].max()) ** 0.5)
    real = 1.02 * known[:, -1] ** 0.7
    fitted.learn(costs.hot(genomes), genomes, np.stack([real, np.full(60, np.nan)], 1), ["latency", "speed"])
    after = fitted.predict(known)
    wrong = [np.abs(np.log(found["latency"] / real)).mean() for found in (before, after)]
    assert wrong[1] < 0.4 * wrong[0]
    assert after["speed"] == pytest.approx(before["speed"])


def test_nothing_to_learn_changes_nothing() -> None:
    """Without metrics of its own, or without any value, the prediction stays the expectation."""
    profile = by_hand()
    costs = CostModel(profile)
    genome = row(profile, a_numeric=1)
    assert Fitted(costs, {}).predict(costs.predict(genome)) == {}
    fitted = Fitted(costs, {"latency": 2.0})
    before = fitted.predict(costs.predict(genome))["latency"]
    fitted.learn(costs.hot(genome), genome, np.full((1, 1), np.nan), ["latency"])
    assert np.array_equal(fitted.predict(costs.predict(genome))["latency"], before)
    Fitted(costs, {}).learn(costs.hot(genome), genome, np.zeros((1, 0)), [])
