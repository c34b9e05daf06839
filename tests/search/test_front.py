"""What is asked of a front by hand."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.front import Front, Point
from paretopress.search.result import Objective, Result
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Recipe, Step

QUALITY = Objective("accuracy", "maximize", True)


@pytest.fixture
def front() -> Front:
    """Return the original and one model that is two points worse and half as large."""
    recipes = Recipe(), Recipe.of([Step.of("a", "t", n=1)])
    measured = [
        {"accuracy": Measurement(quality), "size": Measurement(size, "B")} for quality, size in ((0.9, 100), (0.88, 50))
    ]
    base, point = (Point(i - 1, Result(i, r, m), m) for i, (r, m) in enumerate(zip(recipes, measured)))
    return Front((QUALITY, Objective("size", "minimize")), QUALITY, base, (point,), (base.result, point.result), "test")


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (True, "must be a finite number"),
        ("1%", "must be a finite number"),
        (float("nan"), "must be a finite number"),
        (2, r"more than an accuracy can be\. Did you mean 0\.02, which is 2 points"),
    ],
)
def test_a_drop_that_is_none_is_refused(front: Front, drop: object, message: str) -> None:
    """A drop in per cent would let every model pass, and a switch is no number."""
    assert front.pick(max_accuracy_drop=0.02) is front[0]
    with pytest.raises(SettingError, match=message):
        front.pick(max_accuracy_drop=drop)  # type: ignore[arg-type]  # that is the mistake
