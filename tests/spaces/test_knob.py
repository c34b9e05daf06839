"""Knobs: finite grids that refuse what can't be counted, hashed or tried."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretopress.spaces.errors import SettingError
from paretopress.spaces.knob import Knob, canonical

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_integers_include_both_ends() -> None:
    """The upper end of an integer grid is part of it when the step reaches it, and never overshot."""
    assert Knob.integers("bits", 2, 8, 3).values == (2, 5, 8)
    assert Knob.integers("bits", 2, 9, 3).values == (2, 5, 8)


def test_floats_include_the_upper_end_in_spite_of_rounding() -> None:
    """Binary rounding of the step doesn't lose the last value of a float grid."""
    assert Knob.floats("ratio", 0.1, 0.7, 0.1).values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@given(low=st.floats(-10, 10), width=st.floats(0, 5), step=st.floats(0.01, 2))
def test_float_grid_stays_in_range(low: float, width: float, step: float) -> None:
    """A float grid starts at its lower end, rises by the step and never leaves the range."""
    low, step = round(low, 3), round(step, 3)
    values = Knob.floats("x", low, low + width, step).values
    assert values[0] == low
    assert all(float(v) <= low + width + 1e-6 for v in values)
    assert float(values[-1]) + step > low + width - 1e-6
    assert all(math.isclose(float(b) - float(a), step, abs_tol=2e-6) for a, b in pairwise(values))


@pytest.mark.parametrize(("low", "high", "step"), [(3, 2, 1), (0, 4, 0), (0, 4, -1)])
def test_impossible_integer_range_names_its_rule(low: int, high: int, step: int) -> None:
    """An empty or endless range fails when it is written, not when it is sampled."""
    with pytest.raises(SettingError, match="low <= high and step >= 1"):
        Knob.integers("bits", low, high, step)


@pytest.mark.parametrize(("low", "high", "step"), [(1.0, 0.0, 0.1), (0.0, 1.0, 0.0), (0.0, math.inf, 1.0)])
def test_impossible_float_range_names_its_rule(low: float, high: float, step: float) -> None:
    """An empty, endless or infinite range fails when it is written."""
    with pytest.raises(SettingError, match="low <= high and step > 0"):
        Knob.floats("ratio", low, high, step)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "at least one value"),
        ((1, 2, 1), "must differ"),
        ((0, False), "must differ"),
        ((math.nan,), "must be finite"),
        ((math.inf, 1.0), "must be finite"),
        ((None,), "a number, a string or a boolean"),
        (((1, 2),), "a number, a string or a boolean"),
    ],
)
def test_bad_grid_is_refused(values: tuple[object, ...], message: str) -> None:
    """A grid that is empty, ambiguous or not made of finite scalars is refused with the knob's name."""
    with pytest.raises(SettingError, match=f"bits.*{message}"):
        Knob("bits", values)  # type: ignore[arg-type]  # the wrong types are what is tested


@given(FINITE)
def test_canonical_is_idempotent_and_close(value: float) -> None:
    """The stored form of a float is a fixed point, within nine significant digits, and never minus zero."""
    once = canonical(value)
    assert canonical(once) == once
    assert math.isclose(float(once), value, rel_tol=1e-8)
    assert math.copysign(1.0, float(once)) > 0 or once != 0


def test_grid_holds_the_form_that_recipes_store() -> None:
    """A grid value with more digits than a recipe keeps is still found again in the grid."""
    knob = Knob("x", (0.12345678901234, 0.5))
    assert knob.index(canonical(0.12345678901234)) == 0


def test_index_tells_booleans_from_numbers() -> None:
    """True isn't the number 1: a recipe can't smuggle one in for the other."""
    with pytest.raises(SettingError, match="must be one of"):
        Knob("bits", (1, 2)).index(True)
    with pytest.raises(SettingError, match="must be one of"):
        Knob("signed", (True, False)).index(1)


def test_alive_follows_the_condition() -> None:
    """A conditional knob lives under its condition only."""
    knob = Knob("group", (32, 64), when=("granularity", "group"))
    assert knob.alive({"granularity": "group"})
    assert not knob.alive({"granularity": "channel"})
    assert not knob.alive({})


@pytest.mark.parametrize("value", [1, 9, 4.0, True, "4", None, math.nan])
def test_check_refuses_what_a_whole_knob_cannot_take(value: object) -> None:
    """A bounded whole-number knob names its range for values outside it and for other types."""
    with pytest.raises(SettingError, match=r"integer\.bits.*must be a whole number from 2 to 8"):
        Knob.integers("bits", 2, 8, bounds=(2, 8)).check(value, "integer.bits")


def test_check_takes_values_between_the_grid_points() -> None:
    """Bounds, not the default grid, limit what a user may list."""
    knob = Knob("ratio", (0.25, 0.5), bounds=(0.0, 0.9))
    knob.check(0.33)
    knob.check(0)
    with pytest.raises(SettingError, match=r"must be a number from 0 to 0\.9"):
        knob.check(0.95)


def test_check_without_bounds_takes_the_grid_only() -> None:
    """A knob of names takes its names and lists them when it refuses."""
    with pytest.raises(SettingError, match=r"must be one of \['l1', 'l2'\]"):
        Knob("norm", ("l1", "l2")).check("l3")


def test_with_values_keeps_the_order_from_gentle_to_strong() -> None:
    """However a user lists values, the strongest compression comes last."""
    bits = Knob("bits", (8, 6, 4, 2), bounds=(1, 8))
    assert bits.with_values("bits", [2, 7, 3]).values == (7, 3, 2)
    ratio = Knob("ratio", (0.1, 0.5), bounds=(0.0, 0.9))
    assert ratio.with_values("ratio", [0.6, 0, 0.3]).values == (0.0, 0.3, 0.6)
    norm = Knob("norm", ("l2", "l1", "max"))
    assert norm.with_values("norm", ["max", "l2"]).values == ("l2", "max")


@pytest.mark.parametrize(
    ("values", "message"), [([], "at least one value"), ([4, 4], "must differ"), ([9], "from 1 to 8")]
)
def test_with_values_names_the_users_setting(values: list[int], message: str) -> None:
    """A bad list in a settings file is reported under the name that the user wrote."""
    with pytest.raises(SettingError, match=f"techniques.integer.bits.*{message}"):
        Knob("bits", (8, 4), bounds=(1, 8)).with_values("techniques.integer.bits", values)


@given(
    st.lists(st.one_of(st.integers(), FINITE, st.text()), min_size=1, max_size=6),
    st.booleans(),
    st.one_of(st.none(), st.tuples(st.text(min_size=1), st.integers())),
    st.one_of(st.none(), st.tuples(FINITE, FINITE)),
)
def test_json_round_trip(
    values: list[int | float | str],
    ordered: bool,
    when: tuple[str, int] | None,
    bounds: tuple[float, float] | None,
) -> None:
    """A knob survives JSON unchanged, types of its values included."""
    knob = Knob("k", tuple(dict.fromkeys(canonical(v) for v in values)), ordered, when, bounds)
    again = Knob.from_json(json.loads(json.dumps(knob.to_json())))
    assert again == knob
    assert [type(v) for v in again.values] == [type(v) for v in knob.values]
