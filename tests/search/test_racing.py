"""Racing: who can't reach the front stops, whoever can is measured as if nobody raced."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paretopress.evaluators.accuracy import Quality
from paretopress.evaluators.base import Measurement, Subject
from paretopress.search import Metric, Recipe, Space, Task
from paretopress.search.gains import Gains, Seen
from paretopress.search.pareto import dominates
from paretopress.search.racing import Heat, Race, Stop
from paretopress.search.result import Objective
from paretopress.search.trial import Bench, Job, metrics_for

GOALS = (Objective("accuracy", "maximize", True), Objective("size", "minimize"), Objective("macs", "minimize"))


#: Training has never changed these costs, and has never given anything back.
UNCHANGED = {"size": (1.0, 1.0, 50), "macs": (1.0, 1.0, 50)}
HOPELESS = Gains({"before": (Seen(-0.1, -0.1),) * 50}, UNCHANGED)


def bench_for(task: Task, space: Space) -> Bench:
    """Return a bench with three objectives."""
    return Bench(task, space.sites, metrics_for(task, [o.name for o in GOALS]), GOALS)


def heat(bench: Bench, front: list[list[float]], race: Race | None) -> Heat:
    """Return a heat of the baseline's recipe."""
    return bench.heat(Recipe(), race, front)


def costs(size: float, macs: float) -> dict[str, Measurement]:
    """Return exact costs."""
    return {"size": Measurement(size, "B"), "macs": Measurement(macs)}


def ruined(bench: Bench) -> torch.nn.Module:
    """Return the original model with its last layer's outputs shuffled: right on hardly any example."""
    return torch.nn.Sequential(bench.original, Roll())


class Roll(torch.nn.Module):
    """Gives every class the next one's output."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


CELLS = st.tuples(st.integers(-8, 0), st.integers(0, 3), st.integers(0, 3))


@given(st.lists(CELLS, max_size=6), CELLS)
def test_the_needed_quality_is_what_dominance_says(
    front: list[tuple[int, int, int]], own: tuple[int, int, int]
) -> None:
    """A quality above the bar isn't dominated by the front; one below, or equal with its costs not lower, is."""
    rows = [[loss / 10, float(size), float(macs)] for loss, size, macs in front]
    row = [own[0] / 10, float(own[1]), float(own[2])]
    lane = Heat(Recipe(), GOALS, rows, Race(), Quality(), lambda model: iter(()), pytest.fail, True)
    bar = lane._needed({"size": row[1], "macs": row[2]}, {})
    if row[0] < bar:
        assert not any(dominates(other, row) or other == row for other in rows)
    else:
        assert any(dominates(other, row) or other == row for other in rows)


def test_an_unknown_cost_bars_nobody(task: Task, space: Space) -> None:
    """While an objective is not known, e.g. a latency, it might be the best of all."""
    lane = heat(bench_for(task, space), [[-0.99, 1.0, 1.0]], Race())
    assert lane._needed({"size": 10.0, "macs": 10.0}, {}) == -0.99
    assert lane._needed({"size": 10.0}, {}) == math.inf


@pytest.mark.parametrize(
    ("floor", "stopped"), [({"macs": 5.0}, True), ({"macs": 3.0}, False), ({}, False), ({"size": 9.0}, False)]
)
def test_a_trial_that_is_surely_too_slow_is_not_timed(
    task: Task, space: Space, floor: dict[str, float], stopped: bool
) -> None:
    """Once all else is known, a metric's floor decides: below the front it is measured, behind it nothing is gained."""
    lane = heat(bench_for(task, space), [[-0.9, 10.0, 4.0]], Race(floors=floor))
    known = {"accuracy": Measurement(0.85), "size": Measurement(12.0, "B")}
    if not stopped:
        lane.before("macs", known)
        assert not lane.rungs  # nothing to be learnt from
        return
    with pytest.raises(Stop, match="macs of 5 at least can't reach the front"):
        lane.before("macs", known)
    assert lane.measured == known
    assert lane.rungs == {"at least": {"macs": 5.0}}


def test_a_floor_beyond_a_limit_stops_a_trial(task: Task, space: Space) -> None:
    """A constraint that will be broken needs no measurement."""
    lane = heat(bench_for(task, space), [], Race({"macs": (-math.inf, 4.0)}, floors={"macs": 5.0}))
    with pytest.raises(Stop, match="macs of 5 at least breaks the limit of 4"):
        lane.before("macs", {})
    Race(floors={"macs": 5.0})
    heat(bench_for(task, space), [[-1.0, 1.0, 1.0]], None).before("macs", {})


def test_a_hopeless_model_stops_on_the_first_slice_and_says_what_it_knows(task: Task, space: Space) -> None:
    """The estimate holds the truth, and says on how few examples it rests."""
    bench = bench_for(task, space)
    lane = heat(bench, [[-0.9, 1.0, 1.0]], Race())
    with pytest.raises(Stop) as stopped:
        lane.measure(costs(100, 100), ruined(bench))
    estimate = stopped.value.estimate
    assert estimate is not None
    assert estimate.interval is not None
    assert lane.examples == estimate.repeats < 200
    truth = Quality().measure(Subject(ruined(bench), task, task.validation)).value
    assert estimate.interval[0] <= truth <= estimate.interval[1] < 0.9


@pytest.mark.parametrize(
    ("front", "race"),
    [([[-0.9, 1000.0, 1.0]], Race()), ([[-0.9, 1.0, 1.0]], None), ([], Race()), ([[-0.001, 1.0, 1.0]], Race())],
    ids=["cheaper than the front", "racing off", "no front", "better than the front"],
)
def test_whoever_may_reach_the_front_is_measured_in_full(
    task: Task, space: Space, front: list[list[float]], race: Race | None
) -> None:
    """Nothing but a front that is as cheap and proven better ends a measurement."""
    bench = bench_for(task, space)
    model = ruined(bench) if not front or race is None or front[0][1] > 100 else bench.original
    lane = heat(bench, front, race)
    assert lane.measure(costs(100, 100), model) == Quality().measure(Subject(model, task, task.validation))
    assert lane.examples == 200


def test_no_example_is_looked_at_where_no_accuracy_would_do(task: Task, space: Space) -> None:
    """Against a perfect model of the same costs, and beyond a limit on costs, nothing can be won."""
    bench = bench_for(task, space)
    for front, limits in (
        ([[-1.0, 100.0, 100.0]], {}),
        ([], {"size": (-math.inf, 99.0)}),
        ([], {"macs": (101.0, 1e9)}),
    ):
        lane = heat(bench, front, Race(limits))
        with pytest.raises(Stop) as stopped:
            lane.measure(costs(100, 100), bench.original)
        assert lane.examples == 0
        assert stopped.value.estimate is None


class Known(torch.nn.Module):
    """Reads the class out of its input, and is wrong on a share of the examples."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        out = torch.nn.functional.one_hot((x[:, 0] * 10).long(), 10).float()
        return torch.where(x[:, 1:2] < self.wrong, out.roll(1, 1), out)


def known_heat(bar: float) -> Heat:
    """Return a heat on 800 examples against a front of that accuracy, for models such as `Known`."""
    labels = torch.arange(800) % 10
    x = torch.stack([(labels + 0.5) / 10, torch.rand(800, generator=torch.Generator().manual_seed(0))], 1)
    own = Task(Known(0.05), validation=list(zip(x.split(50), labels.split(50))))
    looks = Quality().looks
    *_, base = looks(Subject(own.model, own, own.validation))
    return Heat(
        Recipe(), GOALS, [[-bar, 1.0, 1.0]], Race(), Quality(),
        lambda model: looks(Subject(model, own, own.validation)), lambda: base, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("new", "old", "stops"), [(0.6, 0.9, True), (0.9, 0.6, True), (0.6, 0.0, False), (0.1, 0.9, False)]
)
def test_statistics_are_not_chosen_for_a_model_that_is_hopeless_with_either(
    new: float, old: float, stops: bool
) -> None:
    """One set of statistics with which the model may reach the front is enough to go on, whatever the other gives."""
    lane = known_heat(0.93)
    judge = lane.before_statistics(costs(2, 2))
    assert judge is not None
    if stops:
        assert judge(Known(new), True)
        with pytest.raises(Stop) as stopped:
            judge(Known(old), False)
        estimate = stopped.value.estimate
        assert estimate is not None
        assert estimate.value == pytest.approx(1 - min(new, old), abs=0.15)  # the better one's
        assert lane.examples < 150
    else:
        assert not (judge(Known(new), True) and judge(Known(old), False))


@pytest.mark.parametrize(("bar", "examples"), [(0.5, 50), (0.92, 150)])
def test_a_model_ahead_of_the_bar_is_screened_on_one_slice(bar: float, examples: int) -> None:
    """A glance is for hopeless models: of one that is ahead so far the first slice is enough, of one in doubt not."""
    lane = known_heat(bar)
    judge = lane.before_statistics(costs(2, 2))
    assert judge is not None
    assert not judge(Known(0.1), True)
    assert lane.examples == examples


@pytest.mark.parametrize(("bar", "looks"), [(0.99, {"before", "short"}), (0.01, {"before"})])
def test_training_that_is_sure_to_reach_the_front_is_not_looked_at(
    task: Task, space: Space, bar: float, looks: set[str]
) -> None:
    """Where even the least that training ever gave back is enough, a second glance could stop nobody."""
    long = Space.from_task(task, {"integer": {"bits": [8]}, "distillation": {"steps": [12]}})
    rng = random.Random(0)
    seen = tuple(Seen(-(x := rng.uniform(0, 0.9)), -x - rng.uniform(0.0, 0.2)) for _ in range(60))
    race = Race(gains=Gains({"before": seen}, UNCHANGED))
    result = bench_for(task, long).run(Job(0, long.uniform(0.0), race=race), [[-bar, 1.0, 1.0]]).result
    assert result.work["trained"] > 0
    assert {rung for rung, values in result.rungs.items() if "accuracy" in values} == looks


def test_without_anything_to_beat_nobody_judges_the_statistics(task: Task, space: Space) -> None:
    """A trial that is cheaper than all of the front is not looked at before it is measured."""
    assert heat(bench_for(task, space), [[-0.9, 1000.0, 1.0]], Race()).before_statistics(costs(100, 100)) is None


def test_a_limit_on_quality_stops_what_breaks_it_and_not_what_just_keeps_it(task: Task, space: Space) -> None:
    """A model that would be alone on the front is stopped if the constraint rules it out; equality keeps it."""
    bench = bench_for(task, space)
    base = bench.reference.measurement.value
    lane = heat(bench, [], Race({"accuracy": (0.5, math.inf)}))
    with pytest.raises(Stop):
        lane.measure(costs(100, 100), ruined(bench))
    lane = heat(bench, [], Race({"accuracy": (base, math.inf)}))
    assert lane.measure(costs(100, 100), bench.original).value == base


def sample(space: Space, count: int, seed: int = 0) -> list[Recipe]:
    """Return random recipes."""
    rng = random.Random(seed)
    return [space.sample(rng) for _ in range(count)]


def test_a_trial_that_is_not_stopped_is_the_same_model_as_without_racing(task: Task, space: Space) -> None:
    """Looking before and in training touches no random number, no statistic and no weight: bit for bit."""
    long = Space.from_task(task, {"integer": {"bits": [4, 2]}, "distillation": {"steps": [12]}})
    bench = bench_for(task, long)
    recipes = [long.uniform(1.0), *sample(long, 3)]
    assert any(s.technique == "distillation" for r in recipes for s in r.steps)
    for recipe in recipes:
        alone, raced = bench.run(Job(0, recipe, 3)), bench.run(Job(0, recipe, 3, race=Race()))
        assert raced.result.status == "ok"
        assert raced.result.checksum == alone.result.checksum
        assert raced.result.measurements == alone.result.measurements
        assert raced.data == alone.data
        trains = any(s.technique == "distillation" for s in recipe.steps)
        assert set(raced.result.rungs) == ({"before", "short"} if trains else set())
        assert not alone.result.rungs
        assert raced.result.work["trained"] == alone.result.work["trained"] == (12 * 50 if trains else 0)
        assert alone.result.work["examples"] == 200


def test_a_trial_whose_training_will_not_help_is_stopped_before_it(task: Task, space: Space) -> None:
    """What finished trials gained decides; the result expects what they would have led to, and trained on nothing."""
    bench = bench_for(task, space)
    recipe = space.uniform(1.0)
    assert any(s.technique == "distillation" for s in recipe.steps)
    rng = random.Random(0)
    seen = tuple(Seen(-(x := rng.uniform(0, 0.9)), -x - rng.uniform(0.0, 0.01)) for _ in range(60))
    gains = Gains({"before": seen}, UNCHANGED)
    before = bench.run(Job(0, recipe, race=Race(gains=gains))).result  # no front: it goes on
    assert before.status == "ok"
    start = before.rungs["before"]["accuracy"]
    result = bench.run(Job(0, recipe, race=Race(gains=gains)), [[-min(1.0, start + 0.1), 1.0, 1.0]]).result
    assert result.status == "stopped"
    assert result.foretold
    assert result.work["trained"] == 0
    assert result.work["examples"] < 200
    assert start - 0.02 < result.value("accuracy") < start + 0.05
    assert result.value("macs") == before.value("macs")
    assert bench.run(Job(0, recipe, race=Race()), [[-1 + 1e-9, 1.0, 1.0]]).result.work["trained"] > 0


def test_a_model_that_only_training_mends_is_not_failed_by_a_glance(task: Task, space: Space) -> None:
    """What can't be judged before training is not judged: without racing nobody would have looked."""
    lane = heat(bench_for(task, space), [[-0.9, 1.0, 1.0]], Race(gains=HOPELESS))
    judge = lane.before_training(costs(100, 100))
    assert judge is not None
    with pytest.raises(Stop):
        judge(ruined(bench_for(task, space)), True)
    broken = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).requires_grad_(False)
    broken[1].weight.fill_(math.nan)
    lane = heat(bench_for(task, space), [[-0.9, 1.0, 1.0]], Race(gains=HOPELESS))
    judge = lane.before_training(costs(100, 100))
    assert judge is not None
    assert not judge(broken, True)
    assert lane.rungs == {"before": {"size": 100, "macs": 100}}


def test_a_metric_that_is_a_function_races_by_bootstrap(model: torch.nn.Module, task: Task, space: Space) -> None:
    """A metric to be minimised with no bound is stopped where it is clearly worse, and a better one never."""

    def error(outputs: Tensor, targets: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(outputs, targets))

    # Twice as many examples as in the fixture: fewer prove nothing.
    twice = [(torch.cat([x, x + 0.01]), torch.cat([y, y])) for (x,), y in task.validation]
    own = Task(model, validation=twice, metric=Metric("error", error, "minimize"))
    goals = (Objective("error", "minimize", True), Objective("size", "minimize"))
    bench = Bench(own, space.sites, metrics_for(own, ["error", "size"]), goals)
    base = bench.reference.measurement.value
    lane = heat(bench, [[base, 1.0]], Race())
    with pytest.raises(Stop) as stopped:
        lane.measure({"size": Measurement(100)}, ruined(bench))
    assert stopped.value.estimate is not None
    assert stopped.value.estimate.interval is not None
    assert stopped.value.estimate.interval[0] > base
    lane = heat(bench, [[base + 1e-3, 1.0]], Race())
    assert lane.measure({"size": Measurement(100)}, bench.original).value == base


def test_a_metric_with_a_state_is_never_judged_in_part(model: torch.nn.Module, task: Task, space: Space) -> None:
    """Half a torchmetrics object is no figure: such a trial is measured in full, once."""
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = Metric("f1", torchmetrics.F1Score(task="multiclass", num_classes=10, average="macro"))
    own = Task(model, list(task.validation), train=list(task.validation), metric=metric)
    goals = (Objective("f1", "maximize", True), Objective("size", "minimize"))
    bench = Bench(own, space.sites, metrics_for(own, ["f1", "size"]), goals)
    result = bench.run(Job(0, space.uniform(1.0), race=Race()), [[-0.99, 1.0]]).result
    assert (result.status, result.work["examples"]) == ("ok", 200)
    assert set(result.rungs["before"]) == {"size"}  # costs tell what training does to them, the metric wasn't looked at
