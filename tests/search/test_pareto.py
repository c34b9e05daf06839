"""Dominance and hypervolume, against definitions and closed forms."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretopress.evaluators.base import Measurement
from paretopress.search.pareto import dominates, hypervolume, nondominated, scaled_hypervolume
from paretopress.search.result import Objective, Result
from paretopress.spaces.recipe import Recipe, Step

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)
GOALS = (Objective("accuracy", "maximize"), Objective("size", "minimize"))


def result(number: int, accuracy: float, size: float) -> Result:
    """Return a result of a made-up recipe."""
    recipe = Recipe.of([Step.of("a", "t", n=number)]) if number else Recipe()
    return Result(number, recipe, {"accuracy": Measurement(accuracy), "size": Measurement(size, "B")})


@given(ROWS)
def test_front_is_what_the_definition_says(rows: list[tuple[int, int, int]]) -> None:
    """A row is kept exactly if no other row dominates it, and of equal rows the first."""
    kept = nondominated(rows)
    expected = [
        i for i, row in enumerate(rows) if not any(dominates(other, row) for other in rows) and row not in rows[:i]
    ]
    assert kept == expected


@given(ROWS)
def test_hypervolume_counts_the_cells_that_are_dominated(rows: list[tuple[int, int, int]]) -> None:
    """On a grid of whole numbers the hypervolume is the number of dominated unit cells."""
    cells = sum(any(all(v <= c for v, c in zip(row, cell)) for row in rows) for cell in product(range(6), repeat=3))
    assert hypervolume(rows, (6, 6, 6)) == pytest.approx(cells)


def test_hypervolume_has_its_closed_form_on_a_hyperbola() -> None:
    """Points on y = 1/x have the hypervolume of the sum of their rectangles, which nears 1 + ln 10 - ... from below."""
    count = 2000
    xs = [0.1 * 100 ** (i / count) for i in range(count + 1)]
    exact = 10 * 10 - 10 * 0.1 - math.log(10 / 0.1)
    assert hypervolume([(x, 1 / x) for x in xs], (10, 10)) == pytest.approx(exact, rel=1e-3)


def test_points_beyond_the_reference_add_nothing() -> None:
    """A point worse than the reference in one objective has no volume."""
    assert hypervolume([(0.0, 2.0)], (1.0, 1.0)) == 0.0
    assert hypervolume([], (1.0, 1.0)) == 0.0


def test_scaled_hypervolume_is_relative_to_the_baseline() -> None:
    """A model of half the size at the same accuracy dominates (0.5 x 0.6) of a box of (0.5 x 1.1)."""
    base = result(0, 0.9, 1000)
    half = result(1, 0.9, 500)
    assert scaled_hypervolume([half], GOALS, base) == pytest.approx((0.5 * 0.6) / (0.5 * 1.1))
