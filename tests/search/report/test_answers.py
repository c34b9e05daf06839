"""The advice at the top of the page."""

from typing import Any

import pytest

from paretopress.search.report.answers import TOLERANCES, answers

Figures = dict[str, dict[str, Any]]


def figures(quality: float, size: float) -> Figures:
    """Return measured figures as the page prepares them."""
    return {
        "score": {"value": quality, "text": f"{quality:g}", "range": ""},
        "size": {"value": size, "text": f"{size:g} B", "range": ""},
    }


def point(ident: int, validation: float, test: float, size: float) -> dict[str, Any]:
    """Return a point with different figures on the two splits."""
    return {"id": ident, "search": figures(validation, size), "final": figures(test, size), "ratios": {}}


def ask(points: list[dict[str, Any]], tolerance: float, direction: str = "maximize") -> dict[str, Any]:
    """Return the answer for one tolerance against a baseline of 1.0 and 1000 B."""
    found = answers(points, point(0, 1.0, 1.0, 1000), ("score", direction), [("size", "minimize")], "test")
    return found[TOLERANCES.index(tolerance)]


def test_smallest_point_inside_the_margin_is_advised() -> None:
    """More given-up quality buys a smaller model, and never one outside the margin."""
    points = [point(1, 1.0, 1.0, 900), point(2, 0.992, 0.992, 500), point(3, 0.96, 0.96, 100)]
    chosen = [ask(points, t)["cards"][0]["point"] for t in (0.0, 0.01, 0.05)]
    assert chosen == [1, 2, 3]
    assert "Point 2 is the smallest model within 1 % of the baseline’s score: 500 B" in ask(points, 0.01)["headline"]


def test_test_data_chooses_nothing() -> None:
    """The margin looks at validation; a point that leaves it on test is named with its loss there."""
    lucky, unlucky = point(1, 0.9, 1.0, 10), point(2, 1.0, 0.9, 20)
    answer = ask([unlucky, lucky], 0.01)
    assert answer["cards"][0]["point"] == 2
    assert answer["cards"][0]["outside"]
    assert "on test it is 10 % below the baseline" in answer["caveat"]


def test_error_like_metric_may_rise_by_the_margin() -> None:
    """For a metric to minimise, the margin lies above the baseline."""
    points = [point(1, 1.008, 1.008, 500), point(2, 1.03, 1.03, 100)]
    assert ask(points, 0.01, "minimize")["cards"][0]["point"] == 1
    assert ask(points, 0.05, "minimize")["cards"][0]["point"] == 2


def test_no_point_inside_names_the_nearest() -> None:
    """Where nothing fits, the page says so and still points somewhere."""
    answer = ask([point(1, 0.9, 0.9, 10), point(2, 0.5, 0.5, 5)], 0.01)
    assert answer["cards"] == []
    assert answer["headline"].startswith("No point is within 1 % of the baseline’s score. The nearest is point 1")


@pytest.mark.parametrize("points", [[], [{"id": 1, "search": {}, "final": {}, "ratios": {}}]])
def test_missing_figures_give_a_sentence_not_an_error(points: list[dict[str, Any]]) -> None:
    """An empty front or a point without figures still gets an honest headline."""
    for tolerance in TOLERANCES:
        assert ask(points, tolerance)["headline"].endswith(".")
        assert ask(points, tolerance)["cards"] == []
