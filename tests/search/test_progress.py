"""The progress line: what happened to the trials so far, in words."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search import progress
from paretopress.search.plan import Budget
from paretopress.search.progress import Progress, duration
from paretopress.search.result import Objective, Result, Status
from paretopress.spaces.recipe import Recipe, Step

GOALS = (Objective("accuracy", "maximize", True), Objective("size", "minimize"))


def result(number: int, status: Status) -> Result:
    """Return a result of a made-up recipe."""
    recipe = Recipe.of([Step.of("a", "t", n=number)]) if number else Recipe()
    return Result(number, recipe, {"accuracy": Measurement(0.9), "size": Measurement(10)}, status)


def test_stopped_and_failed_trials_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log says how many trials were stopped early, which is good, and how many failed, which is not; how many are
    done goes up only, in whatever order they end, and with an earlier session's.
    """
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    base = result(0, "ok")
    with Progress(Budget(trials=9), GOALS) as watcher:
        watcher.searching(base, [base, result(1, "failed"), result(5, "stopped")])
        statuses: list[Status] = ["stopped", "stopped", "failed", "ok"]
        for number, status in zip([4, 3, 2, 1], statuses):
            watcher.finished(result(number, status), [base], 0, True)
    last = " ".join(capsys.readouterr().err.split()).rpartition(" s ")[2]
    assert "6 of 9 trials done" in last
    assert "3 stopped early" in last
    assert "2 failed" in last


def test_the_front_is_counted_as_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The original model is no point of the front, neither while the search runs nor at its end."""
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    base, other = result(0, "ok"), result(1, "ok")
    with Progress(Budget(trials=9), GOALS) as watcher:
        watcher.searching(base, [base])
        watcher.finished(other, [base, other], 0, True)
        assert "front 1 " in capsys.readouterr().err
        watcher.finished(result(2, "failed"), [base], 0, True)
        assert "front 1 " in capsys.readouterr().err


def test_the_time_that_a_profile_still_takes_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log says how far the layers are and how long it will take; the end of it is no news."""
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    with Progress(Budget(trials=9), GOALS) as watcher:
        watcher.profiling(0.25, 41.0)
        watcher.profiling(1.0, 0.0)
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("25 % of measuring the layers' sensitivity, about 41 s left")


def test_times_are_said_as_people_say_them() -> None:
    """Estimates have no false digits."""
    assert [duration(s) for s in (0.2, 3.4, 250)] == ["less than 1 s", "about 3 s", "about 4 min"]


def test_a_front_of_near_ones_is_not_called_a_front(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever watches a run for hours knows whether any model keeps the limits."""
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    base, near = result(0, "ok"), result(1, "ok")
    with Progress(Budget(trials=9), GOALS) as watcher:
        watcher.searching(base, [base])
        watcher.finished(near, [near], 0, False)
        assert "2 of 9 trials done · nothing keeps all limits yet" in " ".join(capsys.readouterr().err.split())
        watcher.finished(result(2, "ok"), [near], 0, True)
        assert "3 of 9 trials done · front 1 · hypervolume" in " ".join(capsys.readouterr().err.split())
