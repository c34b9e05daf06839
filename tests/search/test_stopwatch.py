"""Work is timed in turns: all of it, as often, and nothing that can't run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from paretopress.search import stopwatch
from paretopress.search.stopwatch import FEWEST, PIECES, TURNS, Ready, beside, machine

#: Seconds that works take by the tests' own clock.
TAKES = {"whole": 10.0, "a": 1.0, "b": 2.5, "between": 7.0}


class World:
    """A clock that moves only when work is done, and a record of it."""

    def __init__(self) -> None:
        self.now, self.done, self.speed = 0.0, [], count()

    def clock(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Ready:
        """Return work that takes so many seconds, more and more of them as the machine gets slower."""

        def ready() -> Callable[[], None]:
            def run() -> None:
                self.done.append(name)
                self.now += seconds * (1 + 0.0001 * next(self.speed))

            return run

        return ready


def test_times_are_shares_of_the_whole_whatever_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that gets slower and slower, ratios in a turn stay right; all pieces run as often."""
    monkeypatch.setattr(stopwatch, "SECONDS", 1e9)
    world = World()
    works = {name: world.work(name, TAKES[name]) for name in ("a", "b")}
    whole, times = beside(world.work("whole", 10.0), works, [world.work("between", 7.0)], world.clock)
    assert times == pytest.approx({"a": 0.1, "b": 0.25}, rel=0.05)
    assert whole > 10
    ran = Counter(world.done)
    assert ran["whole"] == TURNS + 1  # and once to warm up
    assert ran["a"] == ran["b"] == TURNS * PIECES / 2 + 1
    assert ran["between"] == TURNS * PIECES + 1
    turn = world.done[-2 * PIECES - 1 :]
    assert turn[0] == "whole"
    assert set(turn[1::2]) == {"between"}


def test_slow_work_has_fewer_turns() -> None:
    """What takes long runs a few times only."""
    world = World()
    beside(world.work("whole", 10.0), {"a": world.work("a", 1.0)}, [], world.clock)
    assert Counter(world.done)["a"] == FEWEST + 1


def test_work_that_fails_is_left_out() -> None:
    """A module that can't run by itself has no time, and stops nobody."""
    world = World()

    def broken() -> Callable[[], None]:
        raise RuntimeError("not alone")

    works = {"a": world.work("a", 1.0), "broken": broken}
    _, times = beside(world.work("whole", 10.0), works, [broken], world.clock)
    assert times.keys() == {"a"}
    _, none = beside(world.work("whole", 10.0), {"broken": broken}, [], world.clock)
    assert none == {}


def test_the_machine_has_a_name() -> None:
    """What decides times is named, and is the same when asked again."""
    assert machine() == machine()
    assert all(isinstance(part, str) for part in machine())
