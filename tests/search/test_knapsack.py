"""The knapsack's numbers: what is refused, and coupled decisions as one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretopress.search.knapsack import Problem, merge
from paretopress.search.solver import solve, sweep

CHOICE = st.tuples(st.integers(-6, 20), st.integers(0, 12))
FOUR = st.lists(st.lists(CHOICE, min_size=3, max_size=4), min_size=4, max_size=4)


def problem_of(decisions: list[list[tuple[int, int]]]) -> Problem:
    """Return the problem of (damage, size) choices."""
    tables = [np.array(choices, dtype=float) for choices in decisions]
    return Problem([t[:, 0] for t in tables], {"size": [t[:, 1] for t in tables]}, {"size": 7.0})


def test_evaluate_adds_damage_costs_and_what_is_fixed() -> None:
    """Costs count what no choice changes; damage does not."""
    found = problem_of([[(1, 2), (3, 4)], [(5, 6)]]).evaluate([1, 0])
    assert (found.damage, found.costs) == (8.0, {"size": 4.0 + 6.0 + 7.0})


@pytest.mark.parametrize(
    ("damage", "costs", "fixed", "message"),
    [
        ([], {}, {}, "one decision or more"),
        ([[]], {}, {}, r"damage\[0\]: shape \(0,\)"),
        ([[1.0, np.nan]], {}, {}, r"damage\[0\]: must be finite"),
        ([[1.0], [2.0]], {"size": [[1.0]]}, {}, r"costs\['size'\]: 1 decisions, but damage has 2"),
        ([[1.0, 2.0]], {"size": [[1.0]]}, {}, r"costs\['size'\]\[0\]: shape \(1,\)"),
        ([[1.0]], {"size": [[np.inf]]}, {}, r"costs\['size'\]\[0\]: must be finite"),
        ([[1.0]], {"size": [[1.0]]}, {"macs": 1.0}, r"fixed: unknown costs \['macs'\]"),
        ([[1.0]], {"size": [[1.0]]}, {"size": np.nan}, r"fixed\['size'\]: must be finite"),
    ],
)
def test_wrong_numbers_are_refused(
    damage: list[list[float]], costs: dict[str, list[list[float]]], fixed: dict[str, float], message: str
) -> None:
    """A problem that makes no sense raises where it is made, and the message says where the mistake is."""
    arrays = {name: [np.array(a) for a in table] for name, table in costs.items()}
    with pytest.raises(ValueError, match=message):
        Problem([np.array(a) for a in damage], arrays, fixed)


@pytest.mark.parametrize("choices", [[0], [0, 1], [-1, 0], [2, 0]])
def test_choices_out_of_range_are_refused(choices: list[int]) -> None:
    """A negative number must not silently mean the last choice."""
    with pytest.raises(ValueError, match="choices: needs one number"):
        problem_of([[(1, 2), (3, 4)], [(5, 6)]]).evaluate(choices)


@settings(deadline=None)
@given(FOUR, st.floats(0, 1))
def test_coupled_decisions_are_solved_as_one(decisions: list[list[tuple[int, int]]], share: float) -> None:
    """The merged problem's optimum is brute force's over the legal combinations, translated back to all decisions."""
    problem = problem_of(decisions)

    def legal(members: tuple[int, ...], choices: tuple[int, ...]) -> bool:
        return max(choices) - min(choices) <= 1 if members[0] == 3 else True

    merged = merge(problem, [(3, 0, 2)], legal)
    every = [c for c in product(*(range(len(d)) for d in decisions)) if legal((3, 0, 2), (c[3], c[0], c[2]))]
    found = [problem.evaluate(c) for c in every]
    sizes = [s.costs["size"] for s in found]
    limit = min(sizes) + share * (max(sizes) - min(sizes))
    best = solve(merged.problem, {"size": limit})
    choices = merged.split(best.choices)
    assert tuple(choices) in every
    assert problem.evaluate(choices).damage == best.damage
    assert problem.evaluate(choices).costs == best.costs
    assert best.damage == min(s.damage for s in found if s.costs["size"] <= limit + 1e-9)


def test_merged_choices_are_few() -> None:
    """Joint choices that another one beats are left out, so that a group's product stays small."""
    line = [(0, 9), (1, 8), (2, 7), (3, 6)]
    merged = merge(problem_of([line, line, line]), [(0, 1, 2)], lambda members, choices: True)
    assert [len(d) for d in merged.problem.damage] == [10]  # one for each sum of damage, not 64
    assert len(sweep(merged.problem, "size")) == 2
    assert merged.members == ((0, 1, 2),)


def test_legality_is_asked_from_the_first_pair_on() -> None:
    """An illegal beginning is never completed: groups with many choices stay possible."""
    line = [(i, 100 - i) for i in range(100)]
    merged = merge(problem_of([line] * 4), [(0, 1, 2, 3)], lambda members, choices: len(set(choices)) == 1)
    assert [len(d) for d in merged.problem.damage] == [100]
    assert merged.split([42]).tolist() == [42] * 4


def test_impossible_groups_are_refused() -> None:
    """Overlapping, unknown, empty, illegal and far too large groups raise."""
    line = [(i, 100 - i) for i in range(100)]
    problem = problem_of([line] * 4)
    for groups in ([(0, 1), (1, 2)], [(0, 4)], [()]):
        with pytest.raises(ValueError, match="groups: must be disjoint"):
            merge(problem, groups, lambda members, choices: True)
    with pytest.raises(ValueError, match="no legal joint choice"):
        merge(problem, [(0, 1)], lambda members, choices: False)
    with pytest.raises(ValueError, match="joint choices"):
        merge(problem, [(0, 1, 2, 3)], lambda members, choices: True)
