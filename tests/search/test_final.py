"""The warnings that a point of the final front may carry."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Direction, Measurement
from paretopress.search.final import _flags
from paretopress.search.result import Objective


@pytest.mark.parametrize(("direction", "low", "high"), [("maximize", 0.5, 0.6), ("minimize", 0.9, 1.0)])
def test_quality_that_is_worse_beyond_chance_is_flagged(direction: Direction, low: float, high: float) -> None:
    """Below where more is better, above where less is: the words fit both."""
    base = {"score": Measurement(0.75, "", (0.7, 0.8))}
    found = {"score": Measurement((low + high) / 2, "", (low, high))}
    assert _flags(found, base, Objective("score", direction)) == ("score is worse than the original's beyond chance",)
    assert _flags(base, base, Objective("score", direction)) == ()
