"""The engine's own sampler: results in, recipes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from known_truth import PROFILE as HARDER
from known_truth import TRUTH

from paretopress.evaluators.base import Measurement
from paretopress.search.constraint import Constraint, violations
from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect, Unit
from paretopress.search.latency_table import LatencyTable
from paretopress.search.profile_sampler import ProfileSampler
from paretopress.search.result import Objective, Result
from paretopress.search.sampler import Proposal
from paretopress.search.sensitivity import Profile
from paretopress.spaces.choices import Choices
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.errors import SettingError
from paretopress.spaces.knob import Knob
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage

LAYERS = ("a", "b", "c", "d", "e", "f")
BITS = (8, 6, 4, 3, 2)
ACCURACY = Objective("accuracy", "maximize", True)
LOSS = Objective("loss", "minimize", True)
SIZE, SPEED, LATENCY = Objective("size", "minimize"), Objective("speed", "maximize"), Objective("latency", "minimize")


def by_hand() -> Profile:
    """Return the profile of six layers that differ in size and in how much rounding hurts."""
    decision = Option("integer", (Knob("bits", BITS),))
    space = Space([Site(n, "linear", (n,)) for n in LAYERS], [Decision(n, Stage.NUMERIC, (decision,)) for n in LAYERS])
    effects = tuple(
        tuple(Effect((k + 1) ** 2 * 4.0 ** (1 - b), "fisher", {name: (b / 32, 1.0, b / 32)}) for b in BITS)
        for k, name in enumerate(LAYERS)
    )
    units = {name: Unit(1000 * (k % 3 + 2), 5000) for k, name in enumerate(LAYERS)}
    return Profile(Choices(space), effects, units, 500 + sum(u.bytes for u in units.values()))


PROFILE = by_hand()
COSTS = CostModel(PROFILE)


def outcome(recipe: Recipe, number: int = 0) -> Result:
    """Return made-up figures: what was planted is not what the profile says."""
    bits = {s.site: int(s.options["bits"]) for s in recipe.steps}
    damage = sum((7 - k) * 4.0 ** (1 - bits[name]) for k, name in enumerate(LAYERS) if name in bits)
    row = COSTS.predict(PROFILE.choices.genome(recipe)[None])[0]
    cost = dict(zip(COSTS.metrics, row.tolist()))
    latency = 1e-3 * math.sqrt(cost["bops"])
    quality = {"accuracy": 0.95 - 0.8 * damage / (damage + 3), "loss": 0.1 + damage}
    values = {**cost, **quality, "latency": latency, "speed": 1 / latency}
    return Result(number, recipe, {name: Measurement(value) for name, value in values.items()})


BASELINE = outcome(Recipe())


def sampler(
    *objectives: Objective, quality: Objective = ACCURACY, constraints: Sequence[str] = (), seed: int = 0
) -> ProfileSampler:
    """Return a sampler, by default for accuracy and size."""
    parsed = [Constraint.parse(text) for text in constraints]
    return ProfileSampler(PROFILE, objectives or (ACCURACY, SIZE), quality, BASELINE, parsed, seed)


def run(made: ProfileSampler, trials: int = 25, constraints: Sequence[str] = ()) -> list[Result]:
    """Ask and tell so many times."""
    parsed = [Constraint.parse(text) for text in constraints]
    results = []
    for number in range(trials):
        proposal = made.ask()
        results.append(outcome(proposal.recipe, number))
        made.tell(proposal, results[-1], violations(parsed, results[-1], BASELINE, ACCURACY))
    return results


def test_proposals_are_in_the_space_and_new() -> None:
    """Every proposal is a recipe of the space that was not tried, and names its origin."""
    made = sampler()
    found = []
    for number in range(40):
        proposal = made.ask()
        assert proposal.recipe in PROFILE.choices.space
        assert proposal.origin == "profile"
        made.tell(proposal, outcome(proposal.recipe, number))
        found.append(proposal.recipe)
    assert len(set(found)) == 40


def test_same_seed_and_results_same_proposals() -> None:
    """A run can be repeated, and another seed gives another run."""

    def recipes(seed: int) -> list[str]:
        return [r.recipe.digest for r in run(sampler(seed=seed))]

    assert recipes(1) == recipes(1) != recipes(2)


def test_limits_that_nothing_will_keep_are_known_from_the_profile() -> None:
    """With the least that any recipe has; limits within reach, or that only trials tell of, are not among them."""
    least = COSTS.predict(np.array([[len(BITS)] * len(LAYERS)]))[0, COSTS.metrics.index("size")]
    found = sampler(constraints=["size <= 100 B", "macs <= 0.5x", "latency <= 0.01x", "bops <= 0.9x"]).out_of_reach()
    assert found == {"size": pytest.approx(least), "macs": BASELINE.value("macs")}
    assert sampler(constraints=[f"size <= {least:.0f}"]).out_of_reach() == {}


def test_the_least_that_can_be_had_includes_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found to be the fastest may be slower than the original, as layers' times don't just add up."""
    made = sampler(constraints=["bops <= 0.5x"])
    gentlest = np.array([[1] * len(LAYERS)])
    most = float(COSTS.predict(gentlest)[0, COSTS.metrics.index("bops")])
    monkeypatch.setattr(made._proposer.pool, "cheapest", lambda _: gentlest)
    monkeypatch.setitem(made._proposer.goals.base, "bops", most / 2)
    assert made._proposer.least("bops") == most / 2


def test_what_a_model_had_before_its_training_teaches_what_training_does() -> None:
    """Where training ruins good models, it is training that is given up, and not what compressed them."""
    base = Result(0, Recipe(), {"accuracy": Measurement(0.9), "size": Measurement(TRUTH.base["size"])})
    made = ProfileSampler(HARDER, (ACCURACY, SIZE), ACCURACY, base, [], 0)
    untrained, truth = [], []
    for number in range(6):
        proposal = made.ask()
        untrained.append(np.where(made._trains, 0, proposal.handle))
        lost, costs = TRUTH.of(untrained[-1])
        truth.append(lost)
        trained = any(s.technique == "distillation" for s in proposal.recipe.steps)
        measured = {"accuracy": Measurement(0.2 if trained else 0.9 - lost), "size": Measurement(costs["size"])}
        rungs = {"before": {"accuracy": 0.9 - lost}} if trained else {}
        made.tell(proposal, Result(number, proposal.recipe, measured, rungs=rungs))
    made.ask()
    assert sum(u.tobytes() not in made._proposer.told for u in untrained) >= 2
    assert made._proposer.surrogate.predict(np.stack(untrained)).at(0.0) == pytest.approx(truth, abs=0.05)


def test_starting_recipes_are_not_proposed_again() -> None:
    """What the engine asks for by itself comes back unchanged, and counts as running."""
    expected = sampler().ask().recipe
    made = sampler()
    proposal = made.ask_for(expected, "start")
    assert (proposal.recipe, proposal.origin) == (expected, "start")
    assert made.ask().recipe != expected
    made.forget(proposal)
    made.tell(made.ask_for(expected, "start"), outcome(expected))
    assert all(made.ask().recipe != expected for _ in range(20))


def test_recipe_of_another_space_is_refused() -> None:
    """A recipe that the space doesn't hold can't be asked for."""
    with pytest.raises(SettingError):
        sampler().ask_for(Recipe.of([Step.of("a", "integer", bits=5)]), "start")


def test_recalled_results_count_like_told_ones() -> None:
    """A sampler that is rebuilt from results proposes what is new, and knows the front that was reached."""
    results = run(sampler())
    again = sampler(seed=9)
    for result in results:
        again.recall(result, (), {})
    assert again.attributes(again.ask()) == {}
    tried = {r.recipe for r in results}
    assert not tried & {again.ask().recipe for _ in range(10)}
    reached = sampler()
    for result in results:
        reached.tell(reached.ask_for(result.recipe, ""), result)
    assert again._proposer._front.tolist() == reached._proposer._front.tolist()


def test_failed_results_are_the_worst_and_never_on_the_front() -> None:
    """A failed trial is not repeated, and a run of nothing but failures goes on."""
    made = sampler()
    found = []
    for number in range(20):
        proposal = made.ask()
        found.append(proposal.recipe)
        made.tell(proposal, Result(number, proposal.recipe, {}, "failed", "boom"))
    assert len(set(found)) == 20
    assert len(made._proposer._front) == 0


@pytest.mark.parametrize("measured", [{}, {"size": Measurement(900.0)}, {"accuracy": Measurement(math.nan)}])
def test_stopped_trials_without_quality_count_as_useless(measured: dict[str, Measurement]) -> None:
    """A trial that was stopped before its quality was known teaches no numbers that aren't there."""
    made = sampler()
    for number in range(8):
        proposal = made.ask()
        made.tell(proposal, Result(number, proposal.recipe, measured, "stopped", "too large"))
    assert len(run(made, 10)) == 10
    assert np.isfinite(made._proposer.surrogate.mean).all()


def test_stopped_trials_with_an_estimate_are_learnt_from_but_not_trusted() -> None:
    """The estimate of a trial that was stopped informs the model and doesn't enter the front."""
    told, ignored = sampler(), sampler()
    for number in range(10):
        proposal = told.ask()
        result = outcome(proposal.recipe, number)
        stopped = Result(number, proposal.recipe, result.measurements, "stopped", "dominated")
        told.tell(proposal, stopped)
        ignored.tell(Proposal(proposal.recipe, proposal.handle, ""), Result(number, proposal.recipe, {}, "stopped"))
    assert len(told._proposer._front) == 0
    assert list(told._proposer.told) == list(ignored._proposer.told)
    assert told._proposer.ask().tolist() != ignored._proposer.ask().tolist()


def test_results_that_break_a_constraint_stay_off_the_front() -> None:
    """Only what keeps every constraint counts as reached."""
    made = sampler(constraints=["size <= 0.2x"])
    proposal = made.ask()
    made.tell(proposal, outcome(proposal.recipe), [-0.1, 0.2])
    assert len(made._proposer._front) == 0
    proposal = made.ask()
    made.tell(proposal, outcome(proposal.recipe), [-0.1, -0.2])
    assert len(made._proposer._front) == 1


def test_limits_on_costs_are_kept() -> None:
    """Whatever unit a limit is in, proposals are predicted to be within 1 % of it."""
    limits = ["size <= 4 kB", "bops <= 0.2x"]
    results = run(sampler(constraints=limits), constraints=limits)
    assert max(r.value("size") for r in results) <= 4040
    assert max(r.value("bops") for r in results) <= 1.01 * 0.2 * BASELINE.value("bops")


@pytest.mark.parametrize("text", ["accuracy drop <= 0.05", "accuracy >= 0.9"])
def test_limit_on_quality_is_a_loss(text: str) -> None:
    """Both ways of writing it give the same highest loss."""
    assert sampler(constraints=[text])._proposer.goals.lost == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("limits", "span"),
    [((), 0.095), (("accuracy drop <= 0.01",), 0.01), (("accuracy >= 0.5",), 0.45), (("accuracy >= 0.96",), 0.095)],
)
def test_quality_counts_as_far_as_models_are_wanted(limits: Sequence[str], span: float) -> None:
    """Down to the limit or, without one, to a loss of a tenth: else small models that are good for nothing, of which
    there is always a smaller one, would take the trials.
    """
    assert sampler(constraints=limits)._proposer.goals.span == pytest.approx(span)


def test_limit_on_a_quality_that_is_better_when_smaller() -> None:
    """Of a loss, the highest value allowed less the baseline's."""
    made = sampler(LOSS, SIZE, quality=LOSS, constraints=["loss <= 0.3"])
    assert made._proposer.goals.lost == pytest.approx(0.2)


def test_quality_that_is_better_when_smaller_is_lowered() -> None:
    """With a loss as the quality, small models are found within the tenth that counts."""
    results = run(sampler(LOSS, SIZE, quality=LOSS))
    assert any(r.value("size") < 0.3 * BASELINE.value("size") and r.value("loss") < 0.11 for r in results)


def test_cost_that_is_better_when_larger_is_raised() -> None:
    """A speed is an objective like its reciprocal is."""
    fast = max(r.value("speed") for r in run(sampler(ACCURACY, SPEED)))
    assert fast == pytest.approx(max(1 / r.value("latency") for r in run(sampler(ACCURACY, LATENCY))), rel=0.05)
    assert fast > 2.5 * BASELINE.value("speed")


def test_speed_of_nothing_is_the_worst_there_is() -> None:
    """A model that does nothing in a second isn't the fastest."""
    made = sampler(ACCURACY, SPEED)
    slow = Result(0, Recipe(), {"accuracy": Measurement(0.9), "speed": Measurement(0.0)})
    assert made._cost("speed", slow) > made._cost("speed", BASELINE)


def test_limit_on_a_speed_is_kept() -> None:
    """A lowest speed is a highest reciprocal."""
    goals = sampler(ACCURACY, SPEED, constraints=["speed >= 2x"])._proposer.goals
    assert goals.limits["speed"] == pytest.approx(0.5 / BASELINE.value("speed"))


def test_quality_need_not_be_an_objective() -> None:
    """Size and latency alone: the smallest recipe is found, and quality is learnt all the same."""
    made = sampler(SIZE, LATENCY)
    results = run(made, 15)
    smallest = outcome(PROFILE.choices.space.uniform(1.0)).value("size")
    assert min(r.value("size") for r in results) == pytest.approx(smallest)
    assert made._proposer.surrogate.misfit != 0.5


def test_three_objectives_with_one_to_learn() -> None:
    """Accuracy, size and latency: proposals reach small and fast models that are right."""
    results = run(sampler(ACCURACY, SIZE, LATENCY), 30)
    assert any(
        r.value("accuracy") > 0.9
        and r.value("size") < 0.25 * BASELINE.value("size")
        and r.value("latency") < 0.55 * BASELINE.value("latency")
        for r in results
    )


def test_limit_on_latency_is_kept_with_a_table() -> None:
    """A latency table predicts shares of the original's, and limits and objectives are in milliseconds: they are
    brought together, so that from the first trial on fast models are proposed.
    """
    effects = tuple(tuple(replace(e, work=str(b)) for e, b in zip(own, BITS)) for own in PROFILE.effects)
    left = {f"{name}/{b}": {name: b / 32} for name in LAYERS for b in BITS}
    table = LatencyTable("latency", "ONNX Runtime, batch 1, 1 thread", 50.0, dict.fromkeys(LAYERS, 0.15), left)
    timed = replace(PROFILE, effects=effects, latency=table)
    costs = CostModel(timed)
    base = Result(0, Recipe(), {**BASELINE.measurements, "latency": Measurement(50.0)})
    limit = [Constraint.parse("latency <= 17")]
    made = ProfileSampler(timed, (ACCURACY, LATENCY), ACCURACY, base, limit, 0)
    shares = []
    for number in range(10):
        proposal = made.ask()
        shares.append(float(costs.predict(proposal.handle[None])[0, -1]))
        measured = {**outcome(proposal.recipe).measurements, "latency": Measurement(50 * shares[-1])}
        made.tell(proposal, Result(number, proposal.recipe, measured))
    assert 0.25 < max(shares) <= 1.01 * 17 / 50


def test_noise_is_what_the_interval_says() -> None:
    """A wide interval of the baseline's quality means noisy trials; without one, a hundredth of what counts."""
    wide = Measurement(0.95, interval=(0.9, 1.0), repeats=100)
    noisy = Result(0, Recipe(), {**BASELINE.measurements, "accuracy": wide})
    made = ProfileSampler(PROFILE, (ACCURACY, SIZE), ACCURACY, noisy, (), 0)
    assert made._proposer.goals.noise > 3 * sampler()._proposer.goals.noise


def test_reseeding_changes_what_is_drawn() -> None:
    """Copies of a sampler that are reseeded part ways."""
    same, other = sampler(), sampler()
    other.reseed(1)
    assert [r.recipe for r in run(same)] != [r.recipe for r in run(other)]


def test_an_error_near_zero_may_rise_many_times() -> None:
    """A limit far above the original's own error is still a limit: what breaks it isn't taken for what keeps it."""
    limits = ["loss rise <= 1.5", "size <= 0.16x"]
    parsed = [Constraint.parse(text) for text in limits]
    made = sampler(LOSS, SIZE, quality=LOSS, constraints=limits)
    kept = 0
    for number in range(25):
        proposal = made.ask()
        result = outcome(proposal.recipe, number)
        broken = violations(parsed, result, BASELINE, LOSS)
        made.tell(proposal, result, broken)
        kept += max(broken) <= 0
    assert kept >= 5


def test_a_trial_stopped_for_its_costs_teaches_these_and_no_more() -> None:
    """A limit on what the profile is wrong about stops trials before their quality is known. Their steps aren't to
    blame, their quality isn't the worst there is, and the next ones keep the limit.
    """
    limit = ["latency <= 0.38x"]
    most = 0.38 * BASELINE.value("latency")
    made, kept = sampler(constraints=limit), []
    for number in range(30):
        proposal = made.ask()
        whole = outcome(proposal.recipe, number)
        slow = {"latency": whole.measurements["latency"], "size": whole.measurements["size"]}
        stopped = whole.value("latency") > most
        result = replace(whole, measurements=slow, status="stopped") if stopped else whole
        kept.append(not stopped)
        made.tell(proposal, result, violations([Constraint.parse(limit[0])], result, BASELINE, ACCURACY))
    told = list(made._proposer.told.values())
    assert not all(kept)
    assert [t.usable for t in told] == kept
    assert [math.isnan(t.lost) for t in told] == [not k for k in kept]
    assert all(np.isfinite(t.costs).all() for t in told)
    assert made._proposer.failures.chance(np.stack([t.genome for t in told])) == pytest.approx(1)
    assert sum(kept[15:]) >= 12


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_a_limit_of_nothing_is_only_judged(limit: float) -> None:
    """A count of nothing, or a figure that may be negative, has no share of the original's to be near by: a search
    that every recipe satisfies goes as without it.
    """
    baseline = replace(BASELINE, measurements={**BASELINE.measurements, "gone": Measurement(limit)})
    limited, free = (
        ProfileSampler(PROFILE, (ACCURACY, SIZE), ACCURACY, baseline, [Constraint.parse(c) for c in texts], 0)
        for texts in ([f"gone <= {limit:g}"], [])
    )
    for number in range(12):
        mine, other = limited.ask(), free.ask()
        assert mine.recipe == other.recipe
        result = outcome(mine.recipe, number)
        result = replace(result, measurements={**result.measurements, "gone": Measurement(limit)})
        for made, proposal in ((limited, mine), (free, other)):
            made.tell(proposal, result)
