"""How a run stands, against going through all its results anew."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretopress.evaluators.base import Measurement
from paretopress.search.constraint import Constraint, violations
from paretopress.search.pareto import nondominated
from paretopress.search.result import LEAST, Objective, Result
from paretopress.search.standing import Standing
from paretopress.spaces.recipe import Recipe, Step

QUALITY = Objective("accuracy", "maximize", True)
GOALS = (QUALITY, Objective("size", "minimize"))
#: Accuracy, size, violation, and whether it failed.
TRIALS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(-1, 2), st.booleans()), max_size=15)


def result(number: int, accuracy: float, size: float, failed: bool = False) -> Result:
    """Return a result of a made-up recipe; number 0 is the original."""
    recipe = Recipe.of([Step.of("a", "t", n=number)]) if number else Recipe()
    if failed:
        return Result(number, recipe, {}, "failed", "boom")
    return Result(number, recipe, {"accuracy": Measurement(accuracy, repeats=100), "size": Measurement(size, "B")})


@given(TRIALS)
def test_the_front_is_that_of_all_results_together(trials: list[tuple[int, int, int, bool]]) -> None:
    """Whatever comes in whatever order, the front is the non-dominated part of those that break the limits least."""
    broken = {number: [float(violation)] for number, (_, _, violation, _) in enumerate(trials)}
    standing = Standing(GOALS, QUALITY, lambda r: broken[r.number])
    results = [result(n, a, s, failed) for n, (a, s, _, failed) in enumerate(trials)]
    changes = [standing.add(r) for r in results]
    good = [r for r in results if r.status == "ok"]
    least = min((max(0.0, broken[r.number][0]) for r in good if r.number), default=math.inf)
    near = [r for r in good if max(0.0, broken[r.number][0]) <= 2 * least]
    rows = [[max(0.0, broken[r.number][0]), *(o.loss(r.value(o.name)) for o in GOALS)] for r in near]
    assert standing.front == [near[i] for i in nondominated(rows)]
    assert standing.losses == [[o.loss(r.value(o.name)) for o in GOALS] for r in standing.front]
    assert standing.feasible == (least <= 0 or not good)
    assert list(standing.results.values()) == results
    assert not any(changed for changed, r in zip(changes, results) if r.status == "failed")


def test_the_original_alone_is_no_answer_to_a_limit() -> None:
    """It keeps what a model may lose; who asks for less wants to know which compressed model comes nearest."""
    broken = {0: [0.0], 1: [0.3], 2: [0.1], 3: [0.0]}
    standing = Standing(GOALS, QUALITY, lambda r: broken[r.number])
    assert standing.feasible
    for number, best in ((0, {0}), (1, {0, 1}), (2, {0, 2}), (3, {0, 3})):
        standing.add(result(number, 0.9, 100 - 10 * number))
        assert {r.number for r in standing.front} == ({3} if number == 3 else best)
        assert standing.feasible == (number == 3)
    unlimited = Standing(GOALS, QUALITY, lambda r: [])
    unlimited.add(result(0, 0.9, 100))
    assert unlimited.feasible


@pytest.mark.parametrize(
    ("known", "error", "returns"),
    [
        ({"accuracy": 0.85, "size": 60}, "accuracy can't become 0.9", True),
        ({"accuracy": 0.75, "size": 60}, "accuracy can't become 0.9", False),  # a point of the front is better
        ({"accuracy": 0.85, "size": 150}, "size breaks the limit of 20", False),  # of the new one, too
        ({"size": 60}, "size breaks the limit of 20", True),  # nobody knows how good it would have been
        ({"accuracy": 0.95}, "accuracy can't become 1", True),
    ],
)
def test_a_stopped_trial_returns_where_its_figures_would_do_now(
    known: dict[str, float], error: str, returns: bool
) -> None:
    """Under other limits, what it was stopped for may be none of theirs."""
    standing = Standing(GOALS, QUALITY, lambda r: [r.value("size") - 120 if "size" in r.measurements else -1.0])
    for r in (result(0, 0.9, 100), result(1, 0.8, 50)):
        standing.add(r)
    measured = {name: Measurement(value) for name, value in known.items()}
    stopped = Result(2, Recipe.of([Step.of("a", "t", n=2)]), measured, "stopped", error)
    assert standing.may_return(stopped) == returns
    assert not standing.may_return(replace(stopped, status="failed"))


@pytest.mark.parametrize(
    ("accuracy", "floor", "most", "returns"),
    [(0.7, 0.6, 0.5, False), (0.7, 0.6, 0.8, True), (0.85, 0.9, 0.95, False), (0.85, 0.7, 0.95, True)],
)
def test_a_trial_that_was_too_slow_to_be_timed_returns_where_it_may_be_fast_enough_now(
    accuracy: float, floor: float, most: float, returns: bool
) -> None:
    """What its latency is all but sure to be above is kept, and judged by today's limits and today's front."""
    goals = QUALITY, Objective("latency", "minimize")
    standing = Standing(goals, QUALITY, lambda r: [r.value("latency") - most])
    for number, right, slow in ((0, 0.9, 1.0), (1, 0.85, 0.8 * most), (2, 0.6, 0.4)):
        timed = {"accuracy": Measurement(right), "latency": Measurement(slow, "x baseline")}
        standing.add(replace(result(number, right, 0), measurements=timed))
    measured = {"accuracy": Measurement(accuracy)}
    rungs = {"at least": {"latency": floor}}
    stopped = Result(3, Recipe.of([Step.of("a", "t", n=3)]), measured, "stopped", "too slow", rungs=rungs)
    assert standing.may_return(Result.from_json(stopped.to_json())) == returns


@pytest.mark.parametrize(("size", "limit", "returns"), [(50, 60, True), (50, 40, False), (20, 40, True)])
def test_a_limited_metric_that_nobody_measured_keeps_no_trial_away(size: int, limit: int, returns: bool) -> None:
    """A trial stopped for its size has no latency yet: under a looser limit on the size, it may keep both."""
    limits = [Constraint.parse(text) for text in (f"size <= {limit} B", "latency <= 0.5x")]
    timed = {"latency": Measurement(1.0, "x baseline")}
    base = result(0, 0.9, 100)
    base = replace(base, measurements={**base.measurements, **timed})
    standing = Standing(GOALS, QUALITY, lambda r: violations(limits, r, base, QUALITY), limits)
    small = result(1, 0.6, 10)
    fast = {"latency": Measurement(0.4, "x baseline")}
    for r in (base, replace(small, measurements={**small.measurements, **fast})):
        standing.add(r)
    recipe, measured = Recipe.of([Step.of("a", "t", n=2)]), {"size": Measurement(size, "B")}
    assert standing.may_return(Result(2, recipe, measured, "stopped", "size breaks the limit of 15 B")) == returns


def test_no_accuracy_is_beyond_one() -> None:
    """What was stopped because a smaller model is right everywhere stays stopped."""
    standing = Standing(GOALS, QUALITY, lambda r: [])
    for r in (result(0, 1.0, 100), result(1, 1.0, 50)):
        standing.add(r)
    for size, returns in ((60, False), (40, True)):
        recipe, measured = Recipe.of([Step.of("a", "t", n=2)]), {"size": Measurement(size)}
        stopped = Result(2, recipe, measured, "stopped", "no accuracy is high enough for its costs")
        assert standing.may_return(stopped) == returns


def test_infeasible_results_are_the_front_only_where_nothing_is_feasible() -> None:
    """The first that keeps the limits replaces all that break them."""
    broken = {1: [1.0], 2: [0.4], 3: [0.0]}
    standing = Standing(GOALS, QUALITY, lambda r: broken[r.number])
    for number, best in ((1, [1]), (2, [2]), (3, [3])):
        assert standing.add(result(number, 0.1 * (4 - number), 10 * number))
        assert [r.number for r in standing.front] == best
        assert standing.feasible == (number == 3)


def test_where_nothing_is_feasible_there_is_a_choice_of_near_results() -> None:
    """Of those that are near, one that breaks another limit less, or is better, stays; one only farther goes."""
    broken = {1: [0.2, 0.0], 2: [0.0, 0.3], 3: [0.25, 0.0], 4: [0.3, 0.0], 5: [0.3, 0.2]}
    standing = Standing(GOALS, QUALITY, lambda r: broken[r.number])
    for number, accuracy, kept in ((1, 0.5, True), (2, 0.5, True), (3, 0.6, True), (4, 0.4, False), (5, 0.9, False)):
        assert standing.add(result(number, accuracy, 10)) == kept
    assert [r.number for r in standing.front] == [1, 2, 3]
    assert not standing.feasible


def test_work_is_counted_once_in_shares_of_the_originals() -> None:
    """A full look is one evaluation, half of the examples a half, and a trial that saw nothing the least share."""
    standing = Standing(GOALS, QUALITY, lambda r: [])
    assert standing.evaluations == 0
    standing.add(result(0, 0.9, 100))
    half = Result(1, Recipe.of([Step.of("a", "t", n=1)]), {}, "stopped", work={"examples": 50})
    standing.add(half)
    assert standing.evaluations == 1.5
    standing.add(Result(2, Recipe.of([Step.of("a", "t", n=2)]), {}, "failed", work={"examples": 0}))
    assert standing.evaluations == 1.5 + LEAST
    assert standing.evaluations == 1.5 + LEAST


def test_a_failed_result_is_replaced_in_its_place() -> None:
    """A trial that was run again has its new result, and the order of trials stays."""
    standing = Standing(GOALS, QUALITY, lambda r: [])
    for r in (result(0, 0.9, 100), result(1, 0, 0, failed=True), result(2, 0.8, 50), result(1, 0.85, 60)):
        standing.add(r)
    assert [(r.number, r.status) for r in standing.results.values()] == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert {r.number for r in standing.front} == {0, 1, 2}
