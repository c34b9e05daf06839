"""Limits as people write them."""

from __future__ import annotations

import math

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.constraint import Constraint, allowed, check_constraints, violations
from paretopress.search.result import Objective, Result
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Recipe

QUALITY = Objective("accuracy", "maximize")
BASE = Result(0, Recipe(), {"accuracy": Measurement(0.9), "size": Measurement(1000, "B")})
SMALL = Result(1, Recipe(), {"accuracy": Measurement(0.88), "size": Measurement(300, "B")})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("size <= 300", True),
        ("size <= 0.29 kB", False),
        ("size<=0.3x", True),
        ("size <= 0.2x", False),
        ("accuracy >= 88%", True),
        ("accuracy >= 0.89", False),
        ("accuracy drop <= 0.021", True),
        ("accuracy drop <= 1%", False),
        ("size <= 31%", True),
        ("size <= 29%", False),
    ],
)
def test_limits_are_kept_or_broken(text: str, kept: bool) -> None:
    """Absolute, relative and drop limits are read with their units and compared on the right side."""
    [violation] = violations([Constraint.parse(text)], SMALL, BASE, QUALITY)
    assert (violation <= 1e-9) is kept


def test_drop_of_a_loss_is_its_rise() -> None:
    """For a metric that is minimised, a drop in quality is a rise of its value."""
    base = Result(0, Recipe(), {"mse": Measurement(1.0)})
    worse = Result(1, Recipe(), {"mse": Measurement(1.5)})
    [violation] = violations([Constraint.parse("mse drop <= 0.25")], worse, base, Objective("mse", "minimize"))
    assert violation == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["size", "size < 3", "size <= big", "<= 3", "size <= 3 furlongs", "", "size <= 1.2.3"])
def test_another_form_is_refused(text: str) -> None:
    """The message shows the text and the forms that are understood."""
    with pytest.raises(SettingError, match="must read like"):
        Constraint.parse(text)


def test_only_the_quality_can_drop() -> None:
    """A drop of a cost has no meaning, and the message says how to limit one."""
    with pytest.raises(SettingError, match="size <= 0.5x"):
        check_constraints([Constraint.parse("size drop <= 10%")], QUALITY)
    check_constraints([Constraint.parse("accuracy drop <= 10%")], QUALITY)


@pytest.mark.parametrize(
    "text",
    ["size <= 300", "size <= 0.3x", "accuracy >= 88%", "accuracy drop <= 0.02", "size >= 2 kB", "accuracy <= 0.5"],
)
def test_the_allowed_range_says_what_the_violation_says(text: str) -> None:
    """A value is in the range exactly where its violation is 0 or less: racing and front must agree."""
    constraint = Constraint.parse(text)
    ((name, (low, high)),) = allowed([constraint], BASE, QUALITY).items()
    for value in (0.0, 0.5, 0.879, 0.881, 0.9, 299.0, 300.0, 301.0, 2001.0):
        result = Result(1, Recipe(), {name: Measurement(value)})
        assert (low <= value <= high) == (constraint.violation(result, BASE, QUALITY) <= 0)


def test_ranges_of_a_loss_and_of_several_limits() -> None:
    """A drop of a metric to be minimised is an upper end, and two limits on one metric leave what both allow."""
    base = Result(0, Recipe(), {"mse": Measurement(1.0)})
    drop = Constraint.parse("mse drop <= 0.25")
    assert allowed([drop], base, Objective("mse", "minimize"))["mse"] == (-math.inf, 1.25)
    both = [Constraint.parse("size <= 0.3x"), Constraint.parse("size >= 100"), Constraint.parse("size <= 400")]
    assert allowed(both, BASE, QUALITY) == {"size": (100.0, 300.0)}


def test_what_a_stopped_trial_never_measured_counts_as_broken() -> None:
    """Samplers can't be told NaN: a limit on a figure that is missing is a broken one."""
    stopped = Result(1, Recipe(), {"size": Measurement(300)}, "stopped")
    assert violations([Constraint.parse("accuracy >= 0.5")], stopped, BASE, QUALITY) == [1.0]
