"""Solving the multiple-choice knapsack of `knapsack.Problem`.

`sweep` gives the exact lower convex hull of damage against cost. By Lagrange's multipliers the hull of a sum is the
merged hulls of its parts (Everett, Operations Research 11, 1963; Sinha and Zoltners, Operations Research 27, 1979).
`solve` gives the least damage under several limits at once, `fill` the points between the hull's. Both take the
multipliers' bound, drop every choice that it proves useless (Pisinger, EJOR 83, 1995), and leave the few that remain to
HiGHS (Huangfu and Hall, 2018), whose tolerances are then small beside what is at stake.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_array

from .knapsack import Array, Flat, Ints, Problem, Solution
from .quiet import without_lines

#: HiGHS works to about 1e-6 absolute: the largest damage and the largest cost that it sees are scaled to these.
_DAMAGE_SCALE, _COST_SCALE = 1e4, 1e3
#: A gap below this share of the damage counts as none.
_EXACT = 1e-10
#: So many choices beside one for each decision are tried first; what they reach shows which others could matter.
_FIRST_CORE = 150
#: HiGHS prints this whatever it is told (HiGHS.jl issue 312).
_STRAY = "HighsMipSolverData::transformNewIntegerFeasibleSolution"


class _Effort(NamedTuple):
    """When HiGHS must end, by the monotonic clock, and how many nodes it may look at in one go; None for all."""

    deadline: float
    nodes: int | None


def sweep(problem: Problem, cost: str | Mapping[str, float], points: int | None = None) -> list[Solution]:
    """Return vertices of the lower convex hull of damage against a cost, from the least damage to the least cost.

    Each has the least damage of all that cost no more. The breakpoints are exact, from no grid of multipliers, in
    O(T log T) beside wrapping the decisions' own hulls.

    Parameters
    ----------
    cost
        A cost's name, or weights (0 or more) of several costs whose sum is meant.
    points
        How many at most, spread evenly over the cost, both ends included; None for all.

    Raises
    ------
    ValueError
        If a cost is unknown, a weight is negative or not finite, or ``points`` is less than 1.
    """
    if points is not None and points < 1:
        raise ValueError(f"points: must be 1 or more, not {points}")
    flat = problem.flat
    value = _weights(problem, cost) @ flat.costs
    path = _path(flat, value)
    # Steps of one slope lie on one edge: its end is the vertex.
    ends = np.flatnonzero(np.diff(path.slope, prepend=-np.inf, append=np.inf))
    if points is not None:
        spent = np.concatenate([[0.0], np.cumsum(value[path.new] - value[path.old])])
        ends = ends[_spread(spent[ends], points)]
    columns = np.empty((len(ends), len(path.first)), dtype=np.int64)
    at, done = path.first.copy(), 0
    for row, end in enumerate(ends.tolist()):
        taken = path.new[done:end]
        at[flat.owner[taken]] = taken  # of one decision's steps the last remains
        columns[row], done = at, end
    return problem.solutions(columns)


def solve(
    problem: Problem,
    limits: Mapping[str, float],
    *,
    tolerance: float = 1e-9,
    seconds: float = math.inf,
    nodes: int | None = None,
) -> Solution:
    """Return the choices with the least damage among those that keep every limit.

    Where none does, ``infeasible`` is true, and the choices are those with the least sum of ``excess``; among those
    that exceed no limit further, the least damage.

    Parameters
    ----------
    limits
        By name the most a cost may be, ``fixed`` included.
    tolerance
        Share of a limit by which it may be exceeded, for sums that were rounded.
    seconds
        When the time is up, the best so far is returned; ``bound`` then says what is proven.
    nodes
        The same for so many nodes of HiGHS's tree of cases: what is found doesn't depend on the machine.

    Raises
    ------
    ValueError
        If a limit names no cost or isn't a number, or ``tolerance`` or ``seconds`` is negative.
    """
    if unknown := limits.keys() - problem.costs.keys():
        raise ValueError(f"limits: unknown costs {sorted(unknown)}; known: {sorted(problem.costs)}")
    if any(math.isnan(limit) or limit == -math.inf for limit in limits.values()):
        raise ValueError(f"limits: must be numbers, not {dict(limits)}")
    if not tolerance >= 0 or not seconds >= 0:
        raise ValueError(f"tolerance and seconds: must be 0 or more, not {tolerance} and {seconds}")
    effort = _Effort(time.monotonic() + seconds, nodes)
    named = {name: limit for name, limit in limits.items() if limit < math.inf}
    rows = [list(problem.costs).index(name) for name in named]
    flat = replace(problem.flat, costs=problem.flat.costs[rows], fixed=problem.flat.fixed[rows]).useful()
    limit = np.array([*named.values()], dtype=float)
    unit = np.where(limit == 0, 1.0, np.abs(limit))
    allowed = limit + tolerance * np.abs(limit)

    at, proven = _walk(flat, allowed, 1 / unit), True
    if at is None:
        at, proven = _least_excess(flat, allowed, unit, effort)
    totals = flat.total(at)
    broken = totals > allowed
    at, bound = _least_damage(flat, np.maximum(allowed, totals), at, effort)
    found = problem.solutions((problem.flat.start + flat.choice[at])[None])[0]
    if not broken.any():
        return replace(found, bound=min(bound, found.damage))
    excess = (flat.total(at) - limit) / unit
    over = {name: float(share) for name, share, is_broken in zip(named, excess, broken) if is_broken}
    return replace(found, bound=math.inf if proven else -math.inf, excess=over)


def fill(problem: Problem, cost: str, points: int, *, seconds: float = math.inf) -> list[Solution]:
    """Return the exact front at evenly spread limits of one cost, from the least damage to the least cost.

    Unlike `sweep` it finds points inside the convex hull. Limits that give the same choices give one point.

    Parameters
    ----------
    points
        The number of limits, 1 or more, between the hull's two ends, which are always there.
    seconds
        For all of them together; each one gets its share of what is left.

    Raises
    ------
    ValueError
        If ``cost`` is unknown or ``points`` is less than 1.
    """
    if points < 1:
        raise ValueError(f"points: must be 1 or more, not {points}")
    ends = sweep(problem, cost, 2)
    front, last = ends[:1], ends[-1]
    deadline = time.monotonic() + seconds
    budgets = np.linspace(front[0].costs[cost], last.costs[cost], points + 2)[1:-1]
    for number, budget in enumerate(budgets):
        share = max(0.0, deadline - time.monotonic()) / (points - number)
        found = solve(problem, {cost: float(budget)}, seconds=share)
        if last.costs[cost] < found.costs[cost] < front[-1].costs[cost]:
            front.append(found)
    return [*front, *ends[1:]]


def _weights(problem: Problem, cost: str | Mapping[str, float]) -> Array:
    weights = {cost: 1.0} if isinstance(cost, str) else cost
    if unknown := weights.keys() - problem.costs.keys():
        raise ValueError(f"cost: unknown {sorted(unknown)}; known: {sorted(problem.costs)}")
    if not all(0 <= weight < math.inf for weight in weights.values()):
        raise ValueError(f"cost: weights must be 0 or more and finite, not {dict(weights)}")
    return np.array([weights.get(name, 0.0) for name in problem.costs])


def _spread(values: Array, points: int) -> Ints:
    """Return the positions of ``points`` different ones of falling values, close to evenly spread, ends included."""
    if points >= len(values):
        return np.arange(len(values))
    targets = np.linspace(values[0], values[-1], points) if points > 1 else values[[0, -1]].mean(keepdims=True)
    found: list[int] = []
    for number, target in enumerate(targets):
        nearest = int(np.abs(values - target).argmin())
        found.append(min(max(nearest, found[-1] + 1 if found else 0), len(values) - points + number))
    return np.array(found)


class _Path(NamedTuple):
    """A walk along a hull: at first columns (N,); then S steps, each putting column ``new`` in place of ``old``.

    ``slope`` (S,) is the damage for each unit saved. It never falls.
    """

    first: Ints
    old: Ints
    new: Ints
    slope: Array


def _path(flat: Flat, value: Array) -> _Path:
    """Return the walk along the hull of damage against ``value`` (T,), from the least damage to the least value.

    Each decision's own hull is wrapped like a gift, all decisions at once; then their edges are merged by slope.
    """
    first = at = flat.best(flat.damage, value)
    slope = np.zeros(len(first))
    rounds = [_Path(first, at[:0], at[:0], slope[:0])]
    while True:
        saved = value[at][flat.owner] - value
        cheaper = saved > 0
        steep = np.full(len(value), np.inf)
        steep[cheaper] = (flat.damage - flat.damage[at][flat.owner])[cheaper] / saved[cheaper]
        least = flat.least(steep)
        moves = np.isfinite(least)
        if not moves.any():
            break
        slope = np.maximum(slope, least)  # rounding must not swap two steps of a decision
        after = flat.best(steep, value)
        rounds.append(_Path(first, at[moves], after[moves], slope[moves]))
        at = np.where(moves, after, at)
    old, new, slope = (np.concatenate(parts) for parts in list(zip(*rounds))[1:])
    order = np.argsort(slope, kind="stable")
    return _Path(first, old[order], new[order], slope[order])


def _walk(flat: Flat, limit: Array, prices: Array) -> Ints | None:
    """Return the first columns (N,) that keep the limits (M,) on the hull of damage against the costs at these prices,
    with single choices then changed as long as that lessens the damage; None if none on the hull keeps them.
    """
    path = _path(flat, prices @ flat.costs)
    spent = np.cumsum(
        np.column_stack([flat.total(path.first), flat.costs[:, path.new] - flat.costs[:, path.old]]), axis=1
    )
    inside = np.flatnonzero((spent <= limit[:, None]).all(axis=0))
    if not len(inside):
        return None
    at, taken = path.first.copy(), path.new[: inside[0]]
    at[flat.owner[taken]] = taken
    if (flat.total(at) > limit).any():
        return None  # the running sum was rounded to the good side
    while True:
        room = limit - flat.total(at)
        fits = (flat.costs - flat.costs[:, at][:, flat.owner] <= room[:, None]).all(axis=0)
        gain = np.where(fits, flat.damage[at][flat.owner] - flat.damage, 0.0)
        best = int(gain.argmax())
        changed = np.where(flat.owner[best] == np.arange(len(at)), best, at)
        if gain[best] <= 0 or (flat.total(changed) > limit).any():
            return at
        at = changed


def _prices(flat: Flat, limit: Array) -> Array:
    """Return the prices (M,) of the limits, 0 or more, at which Lagrange's bound is highest: the relaxation's duals.

    Any prices give a true bound, so the tolerances of the linear solver can't spoil it.
    """
    if len(limit) == 1:
        path = _path(flat, flat.costs[0])
        spent = flat.total(path.first)[0] + np.cumsum(flat.costs[0][path.new] - flat.costs[0][path.old])
        if flat.total(path.first)[0] <= limit[0] or not len(spent):
            return np.zeros(1)
        crossing = min(int(np.count_nonzero(spent > limit[0])), len(spent) - 1)
        return path.slope[[crossing]]
    damage, costs, room, sizes = _scaled(flat, limit)
    one = _one_each(flat)
    found = linprog(damage, A_ub=costs, b_ub=room, A_eq=one, b_eq=np.ones(len(flat.start)), method="highs")
    if not found.success:
        return np.zeros(len(limit))
    return np.asarray(np.maximum(0.0, -found.ineqlin.marginals) * sizes[1:] / sizes[0])


def _scaled(flat: Flat, limit: Array) -> tuple[Array, Array, Array, Array]:
    """Return damage (T,), costs (M, T) and the room for them (M,) as HiGHS should see them, and the scales (1 + M,).

    Each decision's least damage and least cost count as 0.
    """
    damage = flat.damage - flat.least(flat.damage)[flat.owner]
    costs = flat.costs - flat.least(flat.costs)[:, flat.owner]
    room = limit - flat.fixed - flat.least(flat.costs).sum(axis=1)
    spans = costs.max(axis=1)
    largest = np.array([damage.max(), *np.where(spans > 0, spans, np.abs(room))])
    wanted = np.array([_DAMAGE_SCALE, *[_COST_SCALE] * len(limit)])
    sizes = wanted / np.where(largest > 0, largest, wanted)
    return damage * sizes[0], costs * sizes[1:, None], room * sizes[1:], sizes


def _one_each(flat: Flat, extra: int = 0) -> csr_array:
    """Return the (N, T + extra) matrix whose product with the picks must be 1 everywhere."""
    count = len(flat.owner)
    return csr_array((np.ones(count), (flat.owner, np.arange(count))), shape=(len(flat.start), count + extra))


def _least_damage(flat: Flat, limit: Array, at: Ints, effort: _Effort) -> tuple[Ints, float]:
    """Return the columns (N,) with the least damage within the limits, and a bound, from columns ``at`` that keep them.

    What Lagrange's bound proves useless is left out before HiGHS sees the rest.
    """
    least = flat.least(flat.damage)
    upper = float((flat.damage[at] - least).sum())
    columns = np.flatnonzero(flat.damage - least[flat.owner] <= upper * (1 + 1e-9))
    near = flat.keep(columns)
    prices = _prices(near, limit)
    walked = _walk(near, limit, prices)
    if walked is not None and (other := float((near.damage[walked] - least).sum())) < upper:
        at, upper = columns[walked], other

    rise, cheapest = near.damage - least[near.owner], near.least(near.costs)
    room = limit - flat.fixed - cheapest.sum(axis=1)
    priced = rise + prices @ (near.costs - cheapest[:, near.owner])
    relaxed = float(near.least(priced).sum() - prices @ room)  # below 0 it says nothing of the least damage
    lower, rounding = max(0.0, relaxed), 1e-9 * float(upper + abs(prices @ room))
    wasted = priced - near.least(priced)[near.owner]
    reach, proven = float(np.sort(wasted)[: len(at) + _FIRST_CORE][-1]), upper - lower <= _EXACT * upper
    while not proven:
        needed = upper - relaxed + rounding  # a choice that wastes more is in nothing better
        useful = (wasted <= min(reach, needed)) & (rise <= upper + rounding)
        tried = np.union1d(columns[useful], at)
        core = flat.keep(tried)
        picked, optimal, bound = _core(core, limit, upper + float((least - core.least(core.damage)).sum()), effort)
        if picked is not None and (value := float((core.damage[picked] - least).sum())) < upper:
            at, upper = tried[picked], value
        whole = reach >= upper - relaxed + rounding
        if whole and not optimal:
            lower = max(lower, float((core.least(core.damage) - least).sum()) + bound)
        if not optimal:
            break
        reach, proven = math.inf, whole
    damage = float(flat.damage[at].sum())
    return at, damage if proven else min(damage, float(least.sum()) + lower)


def _core(flat: Flat, limit: Array, enough: float, effort: _Effort) -> tuple[Ints | None, bool, float]:
    """Return the columns (N,) that HiGHS finds best, whether they are or nothing is below ``enough``, and its bound.

    Damage is counted from the sum of each decision's least. None stands for none within the limits.
    """
    damage, costs, room, sizes = _scaled(flat, limit)
    rows = [LinearConstraint(_one_each(flat), 1, 1), LinearConstraint(costs, -np.inf, room)]
    while True:
        found = _highs(damage, rows, len(damage), effort)
        bound = (found.mip_dual_bound or 0.0) / sizes[0]
        if found.x is None:
            return None, found.status == 2, bound
        picked = flat.best(-found.x)
        if (flat.total(picked) <= limit).all():
            return picked, found.status == 0, bound
        if damage[picked].sum() / sizes[0] >= enough:
            return None, found.status == 0, bound
        # Within HiGHS's tolerance of the limits, but not within ours: forbid these choices and go on.
        cut = np.bincount(picked, minlength=len(damage))
        rows.append(LinearConstraint(cut[None], -np.inf, len(picked) - 1))


def _least_excess(flat: Flat, limit: Array, unit: Array, effort: _Effort) -> tuple[Ints, bool]:
    """Return the columns (N,) that exceed the limits least, summed in ``unit`` (M,), and whether none can keep them."""
    if len(limit) == 1:
        return flat.best(flat.costs[0], flat.damage), True
    _, costs, room, sizes = _scaled(flat, limit)
    weights = 1 / (unit * sizes[1:])
    objective = np.concatenate([np.zeros(len(flat.owner)), weights / weights.max()])
    rows = [
        LinearConstraint(_one_each(flat, len(limit)), 1, 1),
        LinearConstraint(np.column_stack([costs, -np.eye(len(limit))]), -np.inf, room),
    ]
    found = _highs(objective, rows, len(flat.owner), effort)
    hopeless = bool((flat.fixed + flat.least(flat.costs).sum(axis=1) > limit).any())
    if found.x is None:
        return flat.best((1 / unit) @ flat.costs), hopeless
    return flat.best(-found.x[: len(flat.owner)]), hopeless or bool(found.status == 0 and found.fun > 1e-5)


def _highs(objective: Array, rows: list[LinearConstraint], whole: int, effort: _Effort) -> OptimizeResult:
    """Return HiGHS's answer: the first ``whole`` variables are 0 or 1, the others 0 or more; no gap is allowed."""
    left = max(0.0, effort.deadline - time.monotonic())
    is_whole = np.arange(len(objective)) < whole
    bounds = Bounds(0, np.where(is_whole, 1.0, np.inf))
    # `_least_damage` has left out what is useless: a presolve finds little and takes longer.
    options = {"mip_rel_gap": 0.0, "time_limit": left, "presolve": False}
    if effort.nodes is not None:
        options["node_limit"] = effort.nodes
    with without_lines(_STRAY):
        return milp(objective, integrality=is_whole.astype(int), bounds=bounds, constraints=rows, options=options)
