"""The knapsack's solver against brute force: every combination of small problems is looked at."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.search import solver
from paretopress.search.knapsack import Array, Problem
from paretopress.search.solver import fill, solve, sweep

#: Damage, size and macs of the choices of some decisions: whole numbers, so that ties and exact fits are common.
CHOICE = st.tuples(st.integers(-6, 20), st.integers(0, 12), st.integers(0, 12))
SMALL = st.lists(st.lists(CHOICE, min_size=1, max_size=5), min_size=1, max_size=4)
SHARE = st.integers(-2, 20).map(lambda n: n / 20)
SHARES = st.tuples(SHARE, SHARE)


def problem_of(decisions: list[list[tuple[int, int, int]]], damage: float = 1.0, size: float = 1.0) -> Problem:
    """Return the problem with damages and sizes in other units."""
    tables = [np.array(choices, dtype=float) for choices in decisions]
    costs = {"size": [size * t[:, 1] for t in tables], "macs": [t[:, 2] for t in tables]}
    return Problem([damage * t[:, 0] for t in tables], costs, {"size": 3 * size})


def everything(problem: Problem) -> Array:
    """Return (combinations, 3): damage, size and macs of all there are."""
    found = [problem.evaluate(choices) for choices in product(*(range(len(d)) for d in problem.damage))]
    return np.array([[s.damage, s.costs["size"], s.costs["macs"]] for s in found])


def limits_of(rows: Array, shares: tuple[float, float]) -> dict[str, float]:
    """Return limits between the least and the most that any combination costs, or a little below that."""
    low, high = rows[:, 1:].min(axis=0), rows[:, 1:].max(axis=0)
    return dict(zip(("size", "macs"), (low + np.array(shares) * (high - low)).tolist()))


def vertices(points: Array) -> list[tuple[float, float]]:
    """Return the (damage, cost) vertices of the lower left hull, least damage first, by the definition.

    A point is one if no other is as good in both, and no two others have it on or above the line between them.
    """
    best = sorted({(d, c) for d, c in points if not any((e <= d and b <= c) and (e, b) != (d, c) for e, b in points)})
    return [
        (d, c)
        for d, c in best
        if not any(
            e < d < f and (c - b) * (f - e) >= (a - b) * (d - e)  # on or above the line from (e, b) to (f, a)
            for e, b in best
            for f, a in best
        )
    ]


def test_a_weak_bound_drops_nothing_that_is_needed() -> None:
    """Where Lagrange's bound is below no damage at all, choices are judged by it as it is, not by zero."""
    decisions = [[(9, 6, 0), (11, 4, 0), (12, 0, 0)], [(0, 0, 0), (0, 0, 0), (-1, 1, 0)]]
    assert solve(problem_of(decisions), {"size": 9.875}).damage == 9.0


@settings(deadline=None)
@given(SMALL)
def test_sweep_gives_exactly_the_vertices_of_the_hull(decisions: list[list[tuple[int, int, int]]]) -> None:
    """Without a number of points there is every vertex, nothing else, and each says what its choices cost."""
    problem = problem_of(decisions)
    found = sweep(problem, "size")
    assert [(s.damage, s.costs["size"]) for s in found] == vertices(everything(problem)[:, :2])
    for solution in found:
        again = problem.evaluate(solution.choices)
        assert (again.damage, again.costs) == (solution.damage, solution.costs)
        assert solution.gap == 0


@settings(deadline=None)
@given(SMALL, st.integers(0, 3), st.integers(0, 3))
def test_sweep_of_weighted_costs_is_the_hull_of_their_sum(
    decisions: list[list[tuple[int, int, int]]], size: int, macs: int
) -> None:
    """Weights make one cost of several; with weights of 0 only the least damage remains."""
    problem = problem_of(decisions)
    found = sweep(problem, {"size": size, "macs": macs})
    rows = everything(problem)
    total = size * rows[:, 1] + macs * rows[:, 2]
    expected = vertices(np.column_stack([rows[:, 0], total]))
    assert [(s.damage, size * s.costs["size"] + macs * s.costs["macs"]) for s in found] == expected


def random_problem(seed: int, decisions: int, choices: int) -> Problem:
    """Return a problem whose damages, sizes and macs span several powers of ten, as those of networks do."""
    rng = np.random.default_rng(seed)
    shape = (decisions, choices)
    weights = np.exp(rng.normal(8, 1.5, (decisions, 1)))
    kept = rng.uniform(0.05, 1, shape)
    damage = np.exp(rng.normal(-8, 3, (decisions, 1))) * (1 - kept) ** 3 * np.exp(rng.normal(0, 0.5, shape))
    size, macs = np.round(weights * kept), np.round(weights * kept * rng.choice([1, 4, 16], (decisions, 1)))
    return Problem(list(damage), {"size": list(size), "macs": list(macs)})


@pytest.mark.parametrize("points", [1, 2, 7, 40])
def test_sweep_spreads_its_points_over_the_front(points: int) -> None:
    """There are as many as asked for, all different, both ends among them, and none far from where it should be."""
    problem = random_problem(0, 60, 12)
    every = [s.costs["size"] for s in sweep(problem, "size")]
    costs = [s.costs["size"] for s in sweep(problem, "size", points)]
    assert len(set(costs)) == points
    assert set(costs) <= set(every)
    assert costs == sorted(costs, reverse=True)
    if points > 1:
        assert (costs[0], costs[-1]) == (every[0], every[-1])
        assert max(-np.diff(costs)) <= (every[0] - every[-1]) / (points - 1) + 2 * max(-np.diff(every))


def test_sweep_returns_all_vertices_where_more_are_asked_for() -> None:
    """A short hull has no more points to give."""
    problem = random_problem(1, 2, 3)
    assert len(sweep(problem, "size", 1000)) == len(sweep(problem, "size"))


@settings(deadline=None, max_examples=150)
@given(SMALL, SHARES, st.sampled_from([(1.0, 1.0), (1e-9, 1e9), (1e9, 1e-3)]))
def test_solve_finds_the_least_damage_within_several_limits(
    decisions: list[list[tuple[int, int, int]]], shares: tuple[float, float], units: tuple[float, float]
) -> None:
    """It is what brute force finds, in any units; where nothing fits, the least sum of relative excess."""
    problem = problem_of(decisions, *units)
    rows = everything(problem)
    limits = limits_of(rows, shares)
    found = solve(problem, limits)
    bounds = np.array([limits["size"], limits["macs"]])
    unit = np.where(bounds == 0, 1, abs(bounds))
    excess = np.maximum(0, rows[:, 1:] - bounds) / unit
    inside = (excess <= 1e-9).all(axis=1)
    assert found.feasible == inside.any() == (not found.infeasible)
    assert found.costs == problem.evaluate(found.choices).costs
    if inside.any():
        best = rows[inside, 0].min()
        assert found.damage == pytest.approx(best, rel=1e-9, abs=1e-12 * units[0])
        assert found.gap == 0
    else:
        least = excess.sum(axis=1).min()
        assert sum(found.excess.values()) == pytest.approx(least, rel=1e-6, abs=1e-9)
        own = [(found.costs[n] - limits[n]) / u for n, u in zip(("size", "macs"), unit)]
        assert found.excess == pytest.approx({n: e for n, e in zip(("size", "macs"), own) if e > 1e-9})
        as_near = (excess <= np.maximum(0, own) * (1 + 1e-9)).all(axis=1)
        assert found.damage == pytest.approx(rows[as_near, 0].min(), rel=1e-9, abs=1e-12 * units[0])


@pytest.mark.parametrize("seed", range(12))
def test_solve_has_no_gap_where_damages_span_many_powers_of_ten(seed: int) -> None:
    """One layer's damage of a million must not hide what the others' of a millionth add up to."""
    problem = random_problem(seed, 6, 5)
    rows = everything(problem)
    for shares in ((0.2, 0.2), (0.5, 0.3), (0.8, 0.6)):
        limits = limits_of(rows, shares)
        inside = (rows[:, 1] <= limits["size"]) & (rows[:, 2] <= limits["macs"])
        found = solve(problem, limits)
        assert found.feasible == inside.any()
        if inside.any():
            assert found.damage == pytest.approx(rows[inside, 0].min(), rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_solve_looks_beyond_the_choices_that_it_tries_first(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few choices are tried first, those that could still matter are tried before it calls a point optimal."""
    monkeypatch.setattr(solver, "_FIRST_CORE", 0)
    problem = random_problem(seed, 6, 5)
    rows = everything(problem)
    limits = limits_of(rows, (0.4, 0.4))
    inside = (rows[:, 1] <= limits["size"]) & (rows[:, 2] <= limits["macs"])
    assert solve(problem, limits).damage == pytest.approx(rows[inside, 0].min(), rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_solve_respects_a_limit_to_the_byte(seed: int) -> None:
    """Within a solver's tolerance is not within the limit: one byte in ten billion too much is too much."""
    rng = np.random.default_rng(seed)
    size = [np.round(rng.uniform(1e9, 1e10, 6)) for _ in range(5)]
    problem = Problem([rng.uniform(0, 1, 6) - s / 1e10 for s in size], {"size": size, "macs": [s[::-1] for s in size]})
    rows = everything(problem)
    limits = limits_of(rows, (0.5, 0.6))
    for _ in range(5):
        found = solve(problem, limits, tolerance=0)
        inside = (rows[:, 1] <= limits["size"]) & (rows[:, 2] <= limits["macs"])
        assert found.feasible
        assert found.damage == pytest.approx(rows[inside, 0].min(), rel=1e-9)
        limits = {name: cost - 1 for name, cost in found.costs.items()} | {"macs": limits["macs"]}


def test_solve_without_a_limit_takes_the_least_damage() -> None:
    """No limits, and limits of infinity, leave every decision to its own."""
    problem = Problem([np.array([0.0, -2.0, 1.0]), np.array([3.0])], {"size": [np.array([5.0, 9.0, 1.0]), np.ones(1)]})
    for limits in ({}, {"size": math.inf}):
        found = solve(problem, limits)
        assert found.choices.tolist() == [1, 0]
        assert (found.damage, found.costs, found.gap) == (1.0, {"size": 10.0}, 0.0)


def test_solve_says_what_is_proven_when_the_time_is_up() -> None:
    """With no time at all there is still a point within the limits, and a bound below the least damage."""
    problem = random_problem(3, 40, 8)
    ends = [sweep(problem, name, 2) for name in ("size", "macs")]
    limits = {n: 0.7 * a.costs[n] + 0.3 * b.costs[n] for n, (a, b) in zip(("size", "macs"), ends)}
    hurried, exact = solve(problem, limits, seconds=0), solve(problem, limits)
    assert hurried.feasible
    assert not hurried.infeasible
    assert hurried.bound <= exact.damage <= hurried.damage
    assert exact.gap == 0
    assert hurried.gap == pytest.approx(hurried.damage - hurried.bound)


@settings(deadline=None)
@given(SMALL, st.integers(1, 6))
def test_fill_has_the_best_point_at_every_limit(decisions: list[list[tuple[int, int, int]]], points: int) -> None:
    """At each evenly spread limit some point of the front is as good as brute force's, and none is dominated."""
    problem = problem_of(decisions)
    rows = everything(problem)
    front = fill(problem, "size", points)
    ends = vertices(rows[:, :2])
    assert [(front[i].damage, front[i].costs["size"]) for i in (0, -1)] == [ends[0], ends[-1]]
    for limit in np.linspace(ends[0][1], ends[-1][1], points + 2):
        best = rows[rows[:, 1] <= limit + 1e-9, 0].min()
        assert min(s.damage for s in front if s.costs["size"] <= limit + 1e-9) == pytest.approx(best)
    assert all(a.damage < b.damage and a.costs["size"] > b.costs["size"] for a, b in pairwise(front))


def test_fill_finds_points_inside_the_hull() -> None:
    """A point above the line between two vertices is no hull's, but is the best within its budget."""
    problem = Problem([np.array([0.0, 3.0, 4.0])], {"size": [np.array([10.0, 5.0, 0.0])]})
    assert [s.costs["size"] for s in sweep(problem, "size")] == [10, 0]
    assert [s.costs["size"] for s in fill(problem, "size", 1)] == [10, 5, 0]


def test_mistakes_are_named() -> None:
    """A wrong name, weight, limit or number raises at once."""
    problem = random_problem(0, 2, 2)
    with pytest.raises(ValueError, match="cost: unknown .'speed'"):
        sweep(problem, "speed")
    with pytest.raises(ValueError, match="weights must be 0 or more"):
        sweep(problem, {"size": -1.0})
    with pytest.raises(ValueError, match="points: must be 1 or more"):
        sweep(problem, "size", 0)
    with pytest.raises(ValueError, match="points: must be 1 or more"):
        fill(problem, "size", 0)
    with pytest.raises(ValueError, match="limits: unknown costs .'speed'"):
        solve(problem, {"speed": 1.0})
    with pytest.raises(ValueError, match="limits: must be numbers"):
        solve(problem, {"size": math.nan})
    with pytest.raises(ValueError, match="tolerance and seconds"):
        solve(problem, {"size": 1.0}, tolerance=-1)
