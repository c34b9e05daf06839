"""Sentences on a run: what they count, and whether they are English."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search import facts
from paretopress.search.facts import notes
from paretopress.search.front import Front, Point
from paretopress.search.plan import Plan
from paretopress.search.result import Objective, Result
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.space import Space

QUALITY = Objective("accuracy", "maximize", True)


def result(number: int, **more: Any) -> Result:
    """Return a result on 200 validation examples."""
    recipe = Recipe.of([Step.of("a", "t", n=number)]) if number else Recipe()
    measured = {"accuracy": Measurement(0.9, repeats=200), "size": Measurement(10, "B"), "macs": Measurement(5)}
    return Result(number, recipe, measured, **{"work": {"examples": 200}, **more})


def front(*results: Result) -> Front:
    """Return a front of the first two results."""
    base, point = (Point(i - 1, r, r.measurements) for i, r in enumerate(results[:2]))
    return Front((QUALITY, Objective("size", "minimize")), QUALITY, base, (point,), results, "test")


def said(found: Front, repeats: int = 0) -> Iterator[str]:
    """Return the sentences on a front."""
    plan, space = SimpleNamespace(constraints=(), quality=QUALITY), SimpleNamespace(notes=())
    return notes(found, cast(Space, space), cast(Plan, plan), "trials", repeats, "")


def test_work_is_told_with_what_it_consists_of() -> None:
    """Looks at validation, batch norm and training are told apart, and nothing is compared that nobody measured."""
    stopped = result(2, status="stopped", work={"examples": 300, "trained": 640, "calibrated": 512})
    text = " ".join(said(front(result(0), result(1), stopped)))
    assert "1 of 3 trials was stopped early" in text
    assert "looked at 3.5 times the 200 validation examples" in text
    assert "ran 512 calibration examples for batch norm, and trained on 640 examples" in text


def test_work_is_told_where_nothing_was_stopped() -> None:
    """What a run cost is as interesting then."""
    assert any("looked at 2.0 times the 200 validation examples" in note for note in said(front(result(0), result(1))))


def test_only_models_that_keep_the_limits_can_be_no_better() -> None:
    """Where none keeps them, smaller ones may have been found: that the original is the nearest is another matter."""
    base = result(0)
    alone = Front((QUALITY,), QUALITY, Point(-1, base), (Point(0, base, base.measurements),), (base,), "test")
    alone = replace(alone, baseline=Point(-1, base, base.measurements))
    assert any("No compressed model was better" in note for note in said(alone))
    assert not any("No compressed model was better" in note for note in said(replace(alone, feasible=False)))


def test_stopped_trials_are_told_by_their_reasons() -> None:
    """Who sees that trials were lost to a limit can loosen it; to the front, nothing is wrong."""
    broke = result(2, status="stopped", error="size of 17 kB breaks the limit of 11 kB")
    behind = result(3, status="stopped", error="accuracy 0.5 can't become accuracy 0.9")
    base = result(0), result(1)
    assert "1 of 3 trials was stopped early: 1 broke a limit." in said(front(*base, broke))
    assert "1 of 3 trials was stopped early: the front was out of reach." in said(front(*base, behind))
    both = "2 of 4 trials were stopped early: 1 broke a limit, the front was out of reach of 1."
    assert both in said(front(*base, broke, behind))


def test_what_racing_spared_is_told_by_what_trials_took() -> None:
    """Who wonders whether racing pays sees measured seconds, the original's left out; nothing where none ran on."""
    long = [result(n, seconds=s) for n, s in ((1, 1000.0), (2, 1400.0), (3, 1200.0))]
    short = result(4, seconds=0.25, status="stopped")
    told = "A trial took 1,200 s to its end, and 0.25 s where it was stopped (medians)."
    assert told in said(front(result(0, seconds=9.0), *long, short))
    assert not any("to its end" in note for note in said(front(result(0, seconds=9.0), *long)))
    assert not any("to its end" in note for note in said(front(result(0, seconds=9.0), short)))


def test_one_is_singular() -> None:
    """One trial, one proposal and two of them have their verbs."""
    stopped = [result(n, status="stopped") for n in (2, 3)]
    assert any(note.startswith("2 of 4 trials were ") for note in said(front(result(0), result(1), *stopped)))
    alone = front(result(0), result(1))
    assert any(note.startswith("1 proposal that repeated a known recipe was ") for note in said(alone, 1))
    assert any(note.startswith("2 proposals that repeated known recipes were ") for note in said(alone, 2))
    assert repr(alone).startswith("Front(1 point of 2 trials, ")
    assert repr(replace(alone, points=(), results=())).startswith("Front(0 points of 0 trials, ")


@pytest.mark.parametrize(("kept", "words"), [(True, "on disk and in memory"), (False, "none is kept on disk")])
def test_where_results_came_from_is_said(monkeypatch: pytest.MonkeyPatch, kept: bool, words: str) -> None:
    """A cache that is off on disk still has hits, in the memory of each process: the sentence says which it was."""
    monkeypatch.setattr(facts, "cache_kept", lambda: kept)
    text = " ".join(said(front(result(0), result(1, cache={"hits": 3, "misses": 1}))))
    assert "3 of 4 results for single layers (75%) came from the cache" in text
    assert words in text
