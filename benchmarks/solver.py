"""How exact the knapsack's solver is, and how long it takes on a large network.

Exactness is measured against brute force on small problems, whose damages and costs span several powers of ten. Times
are for 300 sites with 30 choices each; beside each is something that it can't do without, timed in the same run: for
the sweep a sort of all choices' ratios, for the solution under two limits the linear relaxation, solved by HiGHS.

Bars
----
gap of solve
    Largest excess of damage over brute force's, relative: below 1e-9, and the same answer on what is infeasible.
sweep
    All vertices of the hull of 300 x 30 choices, median: within 0.1 seconds.
two limits
    The least damage within two limits at once, 300 x 30 choices, median: within 10 seconds, proven.

Also printed: the gap of the hull's best point within a single limit (Lagrange's), and what `fill` takes for 10 limits.

Run: ``python benchmarks/solver.py [--quick] [--json FILE]``; exits 1 when a bar is missed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import product
from statistics import median

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array
from verdict import Bar, arguments, conclude

from paretopress.search.knapsack import Problem, Solution
from paretopress.search.solver import fill, solve, sweep

GAP, SWEEP_SECONDS, SOLVE_SECONDS = 1e-9, 0.1, 10.0
SITES, CHOICES = 300, 30


def network(seed: int, sites: int, choices: int) -> Problem:
    """Return a problem like a network's: layers of very different sizes, sensitivities and reuse of their weights."""
    rng = np.random.default_rng(seed)
    weights, reuse = np.exp(rng.normal(10, 1.0, (sites, 1))), rng.choice([1, 4, 16, 64], (sites, 1))
    bits, kept = rng.integers(2, 9, (sites, choices)), rng.uniform(0.2, 1, (sites, choices))
    bits[:, 0], kept[:, 0] = 32, 1
    damage = np.exp(rng.normal(-8, 2, (sites, 1))) * (4.0**-bits + (1 - kept) ** 2)
    damage *= np.exp(rng.normal(0, 0.5, damage.shape)) * weights
    size, macs = np.round(weights * kept * bits / 8), np.round(weights * kept * reuse)
    return Problem(list(damage), {"size": list(size), "macs": list(macs)}, {"size": 1000.0})


def limits_at(problem: Problem, share: float) -> dict[str, float]:
    """Return limits on both costs, at a share of the way from the least cost to that of the least damage."""
    ends = {name: sweep(problem, name, 2) for name in problem.costs}
    return {n: end[-1].costs[n] + share * (end[0].costs[n] - end[-1].costs[n]) for n, end in ends.items()}


def brute_force(problem: Problem, limits: dict[str, float]) -> float:
    """Return the least damage of all combinations within the limits; infinity where there is none."""
    picks = np.array(list(product(*(range(len(d)) for d in problem.damage))))
    total = {name: sum(t[picks[:, i]] for i, t in enumerate(table)) for name, table in problem.costs.items()}
    inside = [total[n] + problem.fixed.get(n, 0.0) <= limit * (1 + 1e-9) for n, limit in limits.items()]
    damage = sum(d[picks[:, i]] for i, d in enumerate(problem.damage))
    return float(np.min(damage[np.all(inside, axis=0)], initial=np.inf))


def gaps(seeds: int) -> dict[str, float]:
    """Return the largest relative gap of `solve`, Lagrange's median and largest, and the wrong feasibilities."""
    exact, lagrange, wrong, infeasible = list[float](), list[float](), 0, 0
    for seed in range(seeds):
        problem = network(seed, 6, 5)
        for share in (0.0, 0.3, 0.6):
            limits = limits_at(problem, share)
            best, found = brute_force(problem, limits), solve(problem, limits)
            infeasible += best == np.inf
            wrong += found.feasible == (best == np.inf)
            if found.feasible and best < np.inf:
                exact.append(abs(found.damage - best) / best)
            one = {"size": limits["size"]}
            best = brute_force(problem, one)
            hull = [s for s in sweep(problem, "size") if s.costs["size"] <= one["size"] * (1 + 1e-9)]
            exact.append(abs(solve(problem, one).damage - best) / best)
            if share > 0:  # the least cost of all is on the hull
                lagrange.append(hull[0].damage / best - 1)
    return {
        "instances": 6 * seeds,
        "infeasible_instances": infeasible,
        "wrong_feasibility": wrong,
        "solve_gap": max(exact),
        "lagrange_gap_median": median(lagrange),
        "lagrange_gap_largest": max(lagrange),
    }


def relaxation(problem: Problem, limits: dict[str, float]) -> None:
    """Solve the linear relaxation as it stands."""
    owner = np.repeat(np.arange(SITES), CHOICES)
    one = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    costs = np.array([np.concatenate(problem.costs[n]) / limit for n, limit in limits.items()])
    room = [1 - problem.fixed.get(n, 0.0) / limit for n, limit in limits.items()]
    linprog(np.concatenate(problem.damage), A_ub=costs, b_ub=room, A_eq=one, b_eq=np.ones(SITES))


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def times(seeds: int) -> dict[str, float]:
    """Return the median seconds of everything on large problems, and the largest gap that was left."""
    seconds: dict[str, list[float]] = {name: [] for name in ("sweep", "sort", "solve", "relaxation", "fill")}
    left, vertices = 0.0, []
    for seed in range(seeds):
        problem = network(seed, SITES, CHOICES)
        vertices.append(len(sweep(problem, "size")))
        ratios = np.concatenate(problem.damage) / np.concatenate(problem.costs["size"])
        seconds["sweep"] += [timed(lambda p=problem: sweep(p, "size")) for _ in range(5)]
        seconds["sort"] += [timed(lambda r=ratios: np.argsort(r)) for _ in range(5)]
        for share in (0.5, 0.2):
            limits, found = limits_at(problem, share), list[Solution]()
            seconds["solve"].append(timed(lambda p=problem, s=limits, f=found: f.append(solve(p, s, seconds=120))))
            seconds["relaxation"].append(timed(lambda p=problem, s=limits: relaxation(p, s)))
            left = max(left, found[0].gap / found[0].damage)
        seconds["fill"].append(timed(lambda p=problem: fill(p, "size", 10)))
    figures = {f"{name}_seconds": median(values) for name, values in seconds.items()}
    figures |= {"solve_seconds_largest": max(seconds["solve"]), "solve_gap_left": left, "vertices": median(vertices)}
    figures["sweep_over_sort"] = figures["sweep_seconds"] / figures["sort_seconds"]
    figures["solve_over_relaxation"] = figures["solve_seconds"] / figures["relaxation_seconds"]
    return figures


def main() -> int:
    options = arguments(__doc__, quick="fewer seeds, about half a minute").parse_args()
    figures = gaps(30 if options.quick else 300) | times(2 if options.quick else 7)
    bars = [
        Bar("gap of solve to brute force", figures["solve_gap"], most=GAP),
        Bar("wrong answers on what is infeasible", figures["wrong_feasibility"], most=0),
        Bar("sweep, seconds", figures["sweep_seconds"], most=SWEEP_SECONDS),
        Bar("two limits, seconds", figures["solve_seconds"], most=SOLVE_SECONDS),
        Bar("two limits, gap left to prove", figures["solve_gap_left"], most=0),
    ]
    return conclude(bars, options, figures)


if __name__ == "__main__":
    sys.exit(main())
