"""What trials may use: sensible amounts are taken, others refused with the rule."""

from __future__ import annotations

from typing import Any

import pytest

from paretopress.search.resources import Resources
from paretopress.spaces.errors import SettingError


@pytest.mark.parametrize(
    ("memory", "number"),
    [("4 GB", 4 * 10**9), ("1500.5MB", 1_500_500_000), (10**9, 10**9), ("100000000 B", 10**8), (None, None)],
)
def test_memory_has_a_unit_or_is_bytes(memory: Any, number: int | None) -> None:
    """Decimal units, as sizes have everywhere here."""
    assert Resources(memory=memory).memory_bytes == number


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("workers", 0, "at least 1"),
        ("workers", 1.5, "whole number"),
        ("cpus", 0, "above 0"),
        ("cpus", "2", "above 0"),
        ("gpus", 1.5, "a share of one GPU, or a whole number"),
        ("gpus", -1, "a share of one GPU"),
        ("custom", {"phone": 0}, "amounts above 0 by name"),
        ("custom", ["phone"], "amounts above 0 by name"),
        ("custom", {"GPU": 1}, "Use cpus, gpus or memory"),
        ("memory", "4 gigs", "with a unit such as '4 GB'"),
        ("memory", 0, "bytes of a trial, above 0"),
        ("memory", True, "bytes of a trial, above 0"),
        ("memory", 4, "is 4 bytes, and every worker holds more than 100 MB.*Write '4 GB'"),
        ("memory", "4 MB", "is 4,000,000 bytes"),
        ("minutes", 0, "above 0"),
        ("minutes", float("nan"), "above 0"),
        ("address", 6379, "must be 'auto', 'local' or like 'host:6379'"),
        ("address", "", "must be 'auto', 'local'"),
        ("address", "nonsense", "must be 'auto', 'local'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_rule(name: str, value: Any, rule: str) -> None:
    """The message names the setting, the value and what it may be."""
    with pytest.raises(SettingError, match=rule) as told:
        Resources(**{name: value})
    assert name in str(told.value)
