"""Limits as people write them."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.constraint import Constraint, check_constraints, violations
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
