"""Quick predictions of costs are the predictions of the cost model."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect, Unit
from paretopress.search.quick_costs import QuickCosts
from paretopress.search.sensitivity import Profile
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage


@functools.cache
def by_hand() -> Profile:
    """Return a random profile of four layers: channels, a block, a tied pair, masks beside formats at a layer and at a
    group, a layer without MACs, one that nothing touches, and a step that leaves nothing.
    """
    rng = np.random.default_rng(0)
    sites = [
        Site("a", "linear", ("a",)),
        Site("b", "linear", ("b", "c")),
        Site("d", "linear", ("d",)),
        Site("group:a", "group", ("a", "b", "c")),
        Site("block:a", "block", ("a",)),
    ]
    mask, numeric = Option("sparse", (Knob("k", (1, 2)),)), Option("integer", (Knob("bits", (8, 4, 2)),))
    decisions = [
        Decision("block:a", Stage.TOPOLOGY, (Option("depth"),)),
        Decision("group:a", Stage.STRUCTURE, (Option("channels", (Knob("k", (1, 2, 3)),)),)),
        *(Decision(name, stage, (option,)) for name in ("a", "b", "group:a")
          for stage, option in ((Stage.MASK, mask), (Stage.NUMERIC, numeric))),
    ]  # fmt: skip
    choices = Choices(Space(sites, decisions))
    effects = []
    for decision, settings in zip(choices.decisions, choices.settings):
        members = choices.space.sites[decision.site].members
        shares = [tuple(map(float, rng.uniform(0.1, 1, 3))) for _ in settings]
        if decision.stage is Stage.TOPOLOGY:
            shares = [(0.0, 0.0, 1.0)]
        effects.append(tuple(Effect(shares=dict.fromkeys(members, s)) for s in shares))
    formats = {(m, f): float(rng.uniform(0.5, 2)) for m in choices.settings[2] for f in choices.settings[3]}
    units = {"a": Unit(1000, 5000), "b": Unit(700, 0), "c": Unit(0, 900), "d": Unit(50, 60)}
    return Profile(choices, tuple(effects), units, 2000, formats)


def genomes() -> Genomes:
    """Return random legal genomes of that profile."""
    choices = by_hand().choices
    return choices.legal(np.random.default_rng(1).integers(choices.counts, size=(200, len(choices))))


def test_predictions_are_those_of_the_cost_model() -> None:
    """All that is left of all units, and the sums, are the same to rounding; some units are in two pairs."""
    plain, quick = CostModel(by_hand()), QuickCosts(by_hand())
    assert len(plain.pairs) == 3
    assert plain.predict(genomes()) == pytest.approx(quick.predict(genomes()), rel=1e-12)
    for expected, found in zip(plain.left(genomes()), quick.left(genomes())):
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("wanted", [{"macs"}, {"bops", "size"}, set()])
def test_fewer_metrics_can_be_predicted(wanted: set[str]) -> None:
    """Those that are wanted, and the size, in the cost model's order and with its numbers."""
    plain, quick = CostModel(by_hand()), QuickCosts(by_hand(), wanted)
    assert set(quick.metrics) == {*wanted, "size"}
    columns = [plain.metrics.index(m) for m in quick.metrics]
    assert columns == sorted(columns)
    assert quick.predict(genomes()) == pytest.approx(plain.predict(genomes())[:, columns], rel=1e-12)


def test_nothing_to_predict() -> None:
    """No genomes, and a space whose steps leave all as it is, are no special cases."""
    quick = QuickCosts(by_hand())
    assert quick.predict(genomes()[:0]).shape == (0, 3)
    choices = Choices(Space([Site("a", "linear", ("a",))], [Decision("a", Stage.NUMERIC, (Option("integer"),))]))
    still = QuickCosts(Profile(choices, ((Effect(),),), {"a": Unit(10, 20)}, 30))
    assert still.predict(np.array([[0]]))[0].tolist() == [30.0, 20.0, 20.0 * 1024]
