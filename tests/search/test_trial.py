"""What a trial records about itself."""

from __future__ import annotations

import time

import pytest

from paretopress.search.trial import Clock


def test_a_phase_inside_another_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phases of a trial add up to its seconds, wherever one of them is interrupted by others."""
    times = iter([0.0, 1.0, 2.0, 4.0, 7.0, 11.0, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock = Clock()
    with clock("outer"):
        with clock("inner"):
            pass
        with clock("inner"):
            pass
    with clock("outer"):
        pass
    assert clock.seconds == {"outer": 11.0 - 1.0 - 3.0 + 1.0, "inner": 1.0 + 3.0}
