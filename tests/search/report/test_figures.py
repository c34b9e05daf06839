"""Numbers as a person reads them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretopress.search.report.figures import (
    axis,
    change,
    factor,
    kind_of,
    label,
    number,
    paired,
    share,
    show,
    show_range,
)


def plain(text: str) -> str:
    """Return the text with ordinary spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "metric", "unit", "text"),
    [
        (0.9725, "accuracy", "", "97.25 %"),
        (123, "size", "B", "123 B"),
        (18_345, "size", "B", "18.3 kB"),
        (999_600, "size", "B", "1.00 MB"),
        (1_240_000, "macs", "MACs", "1.24 M"),
        (320_000, "parameters", "weights", "320 k"),
        (0.774, "latency", "x baseline", "0.77×"),
        (0.0637, "latency", "x baseline", "0.064×"),
        (12.34567, "perplexity", "", "12.35"),
        (0.00123, "delay", "s", "0.00123 s"),
        (0, "size", "B", "0 B"),
        (-2_500, "change", "B", "-2.50 kB"),
    ],
)
def test_value_is_written_in_the_unit_of_its_metric(value: float, metric: str, unit: str, text: str) -> None:
    """Bytes read as kB, MACs as M, shares as per cent and ratios with ×, so that nobody counts zeros."""
    assert plain(show(value, kind_of(metric, unit), unit)) == text


@pytest.mark.parametrize("given_value", [None, math.nan, math.inf, "many", [1]])
def test_what_is_no_number_is_shown_as_a_dash(given_value: object) -> None:
    """A missing or broken figure never shows as 0 or nan."""
    assert number(given_value) is None
    assert show(number(given_value), "bytes") == "–"


@given(st.floats(0, 1e17, allow_nan=False))
def test_short_form_of_bytes_stays_close_to_the_value(value: float) -> None:
    """Rounding for the eye never changes a size by more than half a per cent or half a byte."""
    digits, prefix = show(value, "bytes").removesuffix("B").split("\N{NO-BREAK SPACE}")
    scale = 1000 ** ("", "k", "M", "G", "T", "P").index(prefix)
    assert float(digits) * scale == pytest.approx(value, rel=0.0051, abs=0.5)


def test_interval_names_its_unit_once_where_both_ends_share_it() -> None:
    """A range is as short as it can be and still can't be misread across a change of prefix."""
    assert plain(show_range(0.961, 0.984, "share")) == "96.1–98.4 %"
    assert plain(show_range(900, 1_200, "bytes")) == "900 B–1.20 kB"
    assert plain(show_range(1_100, 1_200, "bytes")) == "1.10–1.20 kB"
    assert show_range(0.9, 1.1, "factor") == "0.90–1.10×"


def test_ratio_words() -> None:
    """A saving reads as the change it is, in either direction."""
    assert [plain(change(x)) for x in (0.81, -0.1, 0.0)] == ["−81 %", "+10 %", "0 %"]
    assert [factor(x) for x in (5.234, 12.34, 123.4)] == ["5.23×", "12.3×", "123×"]
    assert plain(share(0.125)) == "12.5 %"


def test_metrics_are_named_in_prose() -> None:
    """Axis titles and headings speak, they don't show identifiers."""
    assert [label(n) for n in ("macs", "top_5_error", "latency_batch8")] == [
        "MACs",
        "top 5 error",
        "latency at batch 8",
    ]
    assert axis(kind_of("delay", "ms"), "ms") == (".4~g", " in ms")


def test_milliseconds_say_what_the_ratio_says() -> None:
    """They are of the original's in the same pairs, so that a faster model never shows more of them."""
    assert paired(0.96, {"milliseconds": 0.0771, "baseline_milliseconds": 0.0567}) == "0.0544 of 0.0567 ms"
    assert paired(0.96, {"milliseconds": 0.0771}) == ""
    assert paired(None, {"baseline_milliseconds": 0.0567}) == ""
