"""The surrogate learns what was planted, and stays sane whatever it is told."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import spearmanr

from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect, Unit
from paretopress.search.sensitivity import Profile
from paretopress.search.surrogate import Surrogate
from paretopress.spaces.choices import Choices, Genomes
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

Values = npt.NDArray[np.float64]

SPAN, NOISE = 0.5, 0.005
BITS = (8, 6, 5, 4, 3, 2)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Let an overflow, or a logarithm of zero, fail the test."""
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


class World:
    """A space of twelve layers and a training, with a planted truth beside the profile's predictions.

    Parameters
    ----------
    seed
        Of everything.
    damage
        What the predicted damages are multiplied with.
    fail
        The share of steps that can't be applied.
    """

    def __init__(self, seed: int = 0, damage: float = 1.0, fail: float = 0.0) -> None:
        self.rng = rng = np.random.default_rng(seed)
        layers = [Site(f"layer{i}", "linear", (f"layer{i}",)) for i in range(12)]
        bits = Option("integer", (Knob("bits", BITS),))
        training = Option("distillation", (Knob("steps", (0, 100, 300)), Knob("rate", (0.1, 0.01), ordered=False)))
        decisions = [Decision(s.name, Stage.NUMERIC, (bits,)) for s in layers]
        decisions.append(Decision(MODEL, Stage.RECOVERY, (training,)))
        self.choices = Choices(Space([*layers, Site(MODEL, "model", ("",))], decisions))
        sensitivity = 10.0 ** rng.uniform(-1, 1, len(layers))
        effects: list[tuple[Effect, ...]] = []
        for s in sensitivity:
            steps = [Effect(float(damage * s * 4.0**-b), change=float(2.0**-b)) for b in BITS]
            effects.append(tuple(Effect(error="no") if rng.random() < fail else e for e in steps))
        effects.append(tuple(Effect() for _ in self.choices.settings[-1]))
        self.profile = Profile(self.choices, tuple(effects), {s.name: Unit(4000, 1000) for s in layers}, 50_000)
        self.costs = CostModel(self.profile)
        self.damages = np.where(np.isfinite(d := np.concatenate(self.profile.damage)), d, 0.0)

    def surrogate(self) -> Surrogate:
        """Return one that has seen nothing."""
        return Surrogate(self.profile, SPAN, NOISE)

    def genomes(self, count: int, training: bool = False) -> Genomes:
        """Return random genomes, from sparse to full."""
        rows = self.rng.integers(self.choices.counts, size=(count, len(self.choices)))
        rows = np.where(self.rng.random(rows.shape) < self.rng.random((count, 1)), rows, 0)
        rows[:, -1] = self.rng.integers(self.choices.counts[-1], size=count) if training else 0
        return rows

    def lost(self, rows: Genomes, factors: Values, gains: Values, noise: float = 0.0) -> Values:
        """Return the planted loss of quality: damages times factors (all settings,), less what training gives back."""
        hot = self.costs.hot(rows)
        total = np.log(hot @ (self.damages * factors) + 1e-3) - hot @ gains
        found: Values = SPAN * expit(total + noise * self.rng.standard_normal(len(rows)))
        return found


def plain(world: World) -> Values:
    """Return factors or gains of nothing."""
    return np.zeros(len(world.damages))


def by_site(world: World, spread: float) -> Values:
    """Return factors that are the same for all settings of a site."""
    factors = np.exp(spread * world.rng.standard_normal(len(world.choices)))
    return factors.repeat(world.choices.counts)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_without_trials_more_damage_is_a_greater_loss(seed: int) -> None:
    """The first ranking is the profile's own: the loss that is expected grows with the sum of the damages."""
    world = World(seed)
    rows = world.genomes(50)
    total = world.costs.hot(rows) @ world.damages
    order = total.argsort(kind="stable")
    expected = world.surrogate().expect(rows).logit
    assert (np.diff(expected[order]) >= 0).all()
    assert (np.diff(expected[order])[np.diff(total[order]) > 1e-9] > 0).all()
    outlook = world.surrogate().predict(rows)
    assert np.allclose(outlook.logit, expected)
    assert (outlook.at(-1.0) <= outlook.at(0.0)).all()
    assert (outlook.at(0.0) <= outlook.at(1.0)).all()
    assert (outlook.at(0.0) < outlook.at(1.0)).any()


def test_training_is_expected_to_give_something_back() -> None:
    """Before any was seen, training lowers the expected loss, and longer training lowers it more."""
    world = World()
    rows = np.full((4, len(world.choices)), 5)
    settings_of = world.choices.settings[-1]
    rows[:, -1] = [
        0,
        *(1 + next(k for k, s in enumerate(settings_of) if dict(s.params)["steps"] == n) for n in (0, 100, 300)),
    ]
    expected = world.surrogate().expect(rows).logit
    assert (np.diff(expected) < 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_factor_of_a_site_is_learnt(seed: int) -> None:
    """Where some layers matter more than predicted, the ranking of new recipes gets better after some trials, and
    the layers' factors are found.
    """
    world = World(seed)
    factors = by_site(world, 1.2)
    surrogate, new = world.surrogate(), world.genomes(300)
    truth = world.lost(new, factors, plain(world))
    before = spearmanr(surrogate.expect(new).logit, truth).statistic
    tried = world.genomes(80)
    for count in range(5, 81, 5):
        lost = world.lost(tried[:count], factors, plain(world))
        surrogate.learn(tried[:count], lost)
    after = spearmanr(surrogate.expect(new).logit, truth).statistic
    assert after > before + 0.6 * (1 - before)
    known = world.damages > 0
    learnt = np.log(surrogate.damages()[known] / world.damages[known])
    assert np.corrcoef(learnt, np.log(factors[known]))[0, 1] > 0.4  # insensitive layers tell little


@pytest.mark.parametrize("seed", range(4))
def test_gain_of_training_is_learnt(seed: int) -> None:
    """Where one rate of training ruins the model and the other mends it, both are known after some trials."""
    world = World(seed)
    gains = plain(world)
    for number, setting in enumerate(world.choices.settings[-1], 1):
        gains[world.costs.offsets[-1] + number] = 2.5 if dict(setting.params)["rate"] == 0.01 else -2.0
    surrogate, new = world.surrogate(), world.genomes(300, training=True)
    truth = world.lost(new, 1 + plain(world), gains)
    before = spearmanr(surrogate.expect(new).logit, truth).statistic
    tried = world.genomes(60, training=True)
    for _ in range(3):
        surrogate.learn(tried, world.lost(tried, 1 + plain(world), gains))
    assert spearmanr(surrogate.expect(new).logit, truth).statistic > before + 0.5 * (1 - before)
    rows = np.full((2, len(world.choices)), 5)
    rates = [dict(s.params)["rate"] for s in world.choices.settings[-1]]
    rows[:, -1] = 1 + rates.index(0.01), 1 + rates.index(0.1)
    good, bad = surrogate.expect(rows).logit
    assert good < bad - 1


def test_harm_of_training_does_not_grow_with_damage() -> None:
    """Where compression does far more damage than predicted, training an intact model still does no harm: else none of
    the good models that it makes would be tried.
    """
    world = World()
    surrogate, tried = world.surrogate(), world.genomes(20)
    trained = np.zeros((1, len(world.choices)), dtype=np.int64)
    trained[0, -1] = 1
    before = float(surrogate.expect(trained).at(0.0)[0])
    for _ in range(3):
        surrogate.learn(tried, world.lost(tried, 100 + plain(world), plain(world)))
    assert surrogate.mean[0] > -0.5 + 1.0
    assert float(surrogate.expect(trained).at(0.0)[0]) < before + NOISE


@pytest.mark.parametrize("seed", range(4))
def test_misfit_grows_with_what_cannot_be_explained(seed: int) -> None:
    """The noisier the trials, the less sure the prediction; and new recipes fall within what it says."""
    misfits = []
    for noise in (0.0, 0.4, 1.2):
        world = World(seed)
        surrogate, tried = world.surrogate(), world.genomes(100)
        factors = by_site(world, 0.3)
        for _ in range(3):
            surrogate.learn(tried, world.lost(tried, factors, plain(world), noise))
        misfits.append(surrogate.misfit)
        new = world.genomes(200)
        outlook, lost = surrogate.predict(new), world.lost(new, factors, plain(world), noise)
        if noise < 1:
            assert ((outlook.at(-2.5) < lost) & (lost < outlook.at(2.5))).mean() > 0.8
    assert misfits[0] < misfits[1] < misfits[2]


def test_prediction_is_surer_after_trials() -> None:
    """What was tried is known better than before."""
    world = World(1)
    surrogate, tried = world.surrogate(), world.genomes(60)
    before = surrogate.predict(tried).spread
    for _ in range(3):
        surrogate.learn(tried, world.lost(tried, 1 + plain(world), plain(world)))
    after = surrogate.predict(tried)
    assert (after.spread < before).all()
    some = tried.any(1)
    assert (after.luck < surrogate.expect(tried).luck)[some].all()


EXTREMES = {
    "nothing": lambda rows: np.zeros(len(rows)),
    "failed": lambda rows: np.full(len(rows), np.inf),
    "better": lambda rows: np.full(len(rows), -1e6),
    "mixed": lambda rows: np.where(np.arange(len(rows)) % 2, np.inf, 0.0),
}


@pytest.mark.parametrize("trials", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("outcome", EXTREMES)
@pytest.mark.parametrize("world", [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (1e-200, 0.3), (1e200, 0.3)])
def test_extremes_never_give_nonsense(trials: int, outcome: str, world: tuple[float, float]) -> None:
    """Whatever is told, predictions stay numbers: all trials failed, one trial, no or enormous damages."""
    place = World(0, *world)
    surrogate, tried = place.surrogate(), place.genomes(trials, training=True)
    new = place.genomes(30, training=True)
    for _ in range(10):
        surrogate.learn(tried, EXTREMES[outcome](tried))
        outlook = surrogate.predict(new)
        for losses in (outlook.at(0.0), outlook.at(1.7), outlook.lucky(), surrogate.expect(new).at(0.0)):
            assert np.isfinite(losses).all()
        assert (outlook.at(1.0) >= outlook.at(-1.0)).all()
        assert ((outlook.chance(0.01) >= 0) & (outlook.chance(0.01) <= 1)).all()
        assert np.isfinite(surrogate.damages()).all()


def test_impossible_settings_are_known_and_count_as_the_worst() -> None:
    """A step that fails has no damage that could be measured; it is expected to be worse than any other."""
    world = World(0, fail=0.3)
    surrogate = world.surrogate()
    assert np.array_equal(surrogate.impossible, ~np.isfinite(np.concatenate(world.profile.damage)))
    assert surrogate.damage[surrogate.impossible].min() > surrogate.damage[~surrogate.impossible].max()


@pytest.mark.parametrize("seed", range(4))
def test_strength_of_a_technique_is_learnt(seed: int) -> None:
    """Where strong settings do less than predicted beside gentle ones, that is found from few trials."""
    world = World(seed)
    known = world.damages > 0
    factors = np.ones(len(known))
    factors[known] = (world.damages[known] / np.median(world.damages[known])) ** -0.6
    surrogate, new = world.surrogate(), world.genomes(300)
    truth = world.lost(new, factors, plain(world))
    before = spearmanr(surrogate.expect(new).logit, truth).statistic
    tried = world.genomes(40)
    for count in range(5, 41, 5):
        surrogate.learn(tried[:count], world.lost(tried[:count], factors, plain(world)))
    after = spearmanr(surrogate.expect(new).logit, truth).statistic
    assert after > before + 0.1 * (1 - before)


def test_what_was_tried_is_known_without_knowing_why() -> None:
    """Around a trial a prediction is sure, though no single trial says which of its steps did the damage."""
    world = World(3)
    layers = len(world.choices) - 1
    tried = np.zeros((8, layers + 1), dtype=np.int64)
    for row in tried:
        row[world.rng.choice(layers, 4, replace=False)] = len(BITS)  # the strongest
    near = np.maximum(tried, np.arange(layers + 1) < layers)  # the gentlest elsewhere
    far = np.hstack([np.roll(tried[:, :-1], 3, 1), tried[:, -1:]])
    surrogate = world.surrogate()
    surrogate.learn(tried, world.lost(tried, by_site(world, 1.0), plain(world)))
    assert np.median(surrogate.predict(near).spread) < 0.3 * np.median(surrogate.predict(far).spread)


def test_derivatives_are_those_of_the_prediction() -> None:
    """A small step of any parameter changes the predicted logit by its derivative times the step."""
    world = World(4)
    surrogate, rows = world.surrogate(), world.genomes(20, training=True)
    surrogate.learn(rows, world.lost(rows, by_site(world, 1.0), plain(world)))
    start, (before, derivatives) = surrogate.mean, surrogate._rows(rows)
    for k in range(len(start)):
        surrogate.mean = start + 1e-6 * (np.arange(len(start)) == k)
        assert (surrogate.expect(rows).logit - before) / 1e-6 == pytest.approx(derivatives[:, k], abs=1e-4)


def test_trials_that_come_at_once_teach_as_much_as_one_by_one() -> None:
    """A resumed run believes about what it did before: in one step it would still doubt what all of them agree on."""
    world = World(3)
    genomes = world.genomes(60)
    lost = world.lost(genomes, by_site(world, 1.0), plain(world))
    live, hasty, resumed = (Surrogate(world.profile, SPAN, NOISE) for _ in range(3))
    for n in range(1, 61):
        live.learn(genomes[:n], lost[:n])
    hasty.learn(genomes, lost)
    resumed.learn(genomes, lost, 12)
    assert abs(np.log(resumed.misfit / live.misfit)) < 0.3 < abs(np.log(hasty.misfit / live.misfit))
