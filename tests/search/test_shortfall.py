"""What is said of models that break a limit."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.constraint import Constraint
from paretopress.search.result import Objective, Result
from paretopress.search.shortfall import broken_by, broken_in_search
from paretopress.spaces.recipe import Recipe

QUALITY = Objective("accuracy", "maximize", True)
BASE = Result(0, Recipe(), {"accuracy": Measurement(0.9), "size": Measurement(90_000, "B")})
FINAL = Result(1, Recipe(), {"accuracy": Measurement(0.88), "size": Measurement(12_340, "B")})


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("accuracy drop <= 1%", "breaks the limit 'accuracy drop <= 1%' on test data: 0.02"),
        ("accuracy >= 0.89", "breaks the limit 'accuracy >= 0.89' on test data: 0.88"),
        ("size <= 0.1x", "breaks the limit 'size <= 0.1x': 12.3 kB"),
        ("accuracy drop <= 3%", ""),
        ("size <= 13 kB", ""),
        ("latency <= 0.5x", ""),
    ],
)
def test_a_model_whose_final_figures_break_a_limit_says_so(text: str, warning: str) -> None:
    """What it had in the search is no excuse; what wasn't measured breaks nothing."""
    assert broken_by(Constraint.parse(text), FINAL, BASE, QUALITY, "test") == warning


def test_what_was_broken_in_the_search_only_is_said_to_be() -> None:
    """Beside a final figure that keeps the limit, the warning must not look like a mistake."""
    limit = Constraint.parse("size <= 0.1x")
    assert broken_in_search(limit, FINAL, BASE, QUALITY) == "breaks the limit 'size <= 0.1x': 12.3 kB in the search"
    assert broken_in_search(Constraint.parse("size <= 1x"), FINAL, BASE, QUALITY) == ""
