"""The progress line: what happened to the trials so far, in words."""

from __future__ import annotations

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search import progress
from paretopress.search.plan import Budget
from paretopress.search.progress import Progress
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
    """A log says how many trials were stopped early, which is good, and how many failed, which is not."""
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    base = result(0, "ok")
    with Progress(Budget(trials=9), GOALS, base) as watcher:
        statuses: list[Status] = ["stopped", "stopped", "failed", "ok"]
        for number, status in enumerate(statuses, 1):
            watcher.finished(result(number, status), [base], 0)
    last = " ".join(capsys.readouterr().err.split()).rpartition("trial ")[2]
    assert last.startswith("4 of 9")
    assert "2 stopped early" in last
    assert "1 failed" in last
