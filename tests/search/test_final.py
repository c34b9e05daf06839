"""The warnings that a point of the final front may carry."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Direction, Measurement
from paretopress.search.final import _flags
from paretopress.search.front import Point
from paretopress.search.result import Objective, Result
from paretopress.spaces.recipe import Recipe


@pytest.mark.parametrize(("direction", "low", "high"), [("maximize", 0.5, 0.6), ("minimize", 0.9, 1.0)])
def test_quality_that_is_worse_beyond_chance_is_flagged(direction: Direction, low: float, high: float) -> None:
    """Below where more is better, above where less is: the words fit both."""
    base = {"score": Measurement(0.75, "", (0.7, 0.8))}
    found = {"score": Measurement((low + high) / 2, "", (low, high))}
    assert _flags(found, base, Objective("score", direction)) == ("score is worse than the original's beyond chance",)
    assert _flags(base, base, Objective("score", direction)) == ()


def timed(value: float, high: float = 0.0, **detail: object) -> Measurement:
    """Return a latency; ``high`` is how slow it may be in truth."""
    return Measurement(value, "x baseline", (value, max(value, high)), detail=detail)


def flags(macs: float, **others: Measurement) -> tuple[str, ...]:
    """Return the warnings of a model as good as its original, which has 100 MACs and an ONNX file of 100 bytes."""
    base = {"score": Measurement(0.75), "macs": Measurement(100.0), "onnx_size": Measurement(100.0)}
    found = {**base, "onnx_size": Measurement(50.0), "macs": Measurement(macs), **others}
    return _flags(found, base, Objective("score", "maximize"))


def test_fewer_macs_without_a_speed_up_are_flagged() -> None:
    """For each latency by its name, where there are several."""
    assert flags(50, latency=timed(1.1)) == ("fewer MACs but not faster",)
    assert flags(50, latency=timed(0.9, high=1.02)) == flags(50, latency=timed(1.1))
    assert flags(50, latency=timed(0.96)) == ("fewer MACs but hardly faster",)
    assert flags(50, latency=timed(0.6)) == flags(99, latency=timed(1.1)) == ()
    slow = flags(50, latency=timed(0.6), latency_batch32=timed(1.0), phone=timed(1.2))
    assert slow == ("fewer MACs but not faster (latency_batch32, phone)",)


def test_a_deployed_file_that_is_not_smaller_is_flagged() -> None:
    """An export that keeps the dense weights isn't compressed, whatever the native file says."""
    assert flags(100, onnx_size=Measurement(100.0)) == ("deployed, it is not smaller than the original",)
    assert flags(100, onnx_size=Measurement(99.0)) == ()


@pytest.mark.parametrize("mark", ["noisy", "contended"])
def test_a_latency_that_was_taken_on_a_busy_machine_is_flagged(mark: str) -> None:
    """Nobody must choose a model by it unawares."""
    assert flags(100, latency=timed(0.5, **{mark: True})) == ("latency is uncertain: the machine was busy",)


def test_every_latency_has_its_speed_up() -> None:
    """A second batch or device has one as well as the first."""
    measured = {"latency": timed(0.5), "phone": timed(0.25), "size": Measurement(10.0, "B")}
    point = Point(0, Result(0, Recipe(), measured))
    base = Point(-1, Result(0, Recipe(), {"size": Measurement(40.0, "B")}))
    ratios = point.ratios(base)
    assert ratios["latency"] == {"speedup": 2.0}
    assert ratios["phone"] == {"speedup": 4.0}
    assert ratios["size"] == {"compression": 4.0, "saving": 0.75}
