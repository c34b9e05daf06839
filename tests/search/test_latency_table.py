"""The latency table as data: what settings leave, what is a guess, and how far it is off."""

from __future__ import annotations

import json

import pytest

from paretopress.search.effects import Effect
from paretopress.search.latency_table import LatencyTable

UNITS = {"a": 0.3, "b": 0.2, "": 0.1}
TABLE = LatencyTable(
    "latency",
    "ONNX Runtime, batch 1, 1 thread",
    5.0,
    UNITS,
    {"a/half": {"a": 0.5}, "b/odd": {"b": 1.5}},
    frozenset({"b/odd"}),
)


def test_settings_leave_what_was_measured() -> None:
    """By what they compute, not by what they are; masks and number formats compute what the original does."""
    assert TABLE.shares("a", Effect(work="half")) == {"a": 0.5}
    assert TABLE.saved("a", Effect(work="half")) == pytest.approx(0.15)
    assert TABLE.saved("b", Effect(work="odd")) == pytest.approx(-0.1)
    assert TABLE.shares("a", Effect(shares={"a": (0.1, 0.2, 0.3)})) == {}
    assert TABLE.saved("a", Effect()) == 0


def test_multiplications_stand_for_what_was_not_measured() -> None:
    """A setting that nobody timed has its share of MACs, and says so."""
    unknown = Effect(shares={"a": (0.1, 0.25, 1.0), "c": (0.5, 1.0, 1.0)}, work="new")
    assert TABLE.shares("a", unknown) == {"a": 0.25}
    assert TABLE.is_guess("a", unknown)
    assert TABLE.is_guess("b", Effect(work="odd"))
    assert not TABLE.is_guess("a", Effect(work="half"))
    assert not TABLE.is_guess("a", Effect())


def test_the_error_is_stated() -> None:
    """The median of the errors, in words as well; unchecked is said, too."""
    assert TABLE.error is None
    assert (
        TABLE.summary == "latency: measured per layer (ONNX Runtime, batch 1, 1 thread); its prediction was not checked"
    )
    checked = LatencyTable(
        "latency", "ONNX Runtime, batch 1, 1 thread", 5.0, UNITS, checked=((0.9, 1.0), (0.5, 0.5), (1.1, 0.88))
    )
    assert checked.error == pytest.approx(0.1)
    assert checked.summary.endswith("its prediction was off by 10 % (median of 3 recipes)")
    data = json.loads(json.dumps(checked.to_json(), allow_nan=False))
    assert data["median_error"] == pytest.approx(0.1)
    assert data["recipes"][0] == {"predicted": 0.9, "measured": 1.0}
    assert data["fixed"] == pytest.approx(0.4)
