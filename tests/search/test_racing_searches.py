"""Searches that race: the same front for less work, and a journal that knows what was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretopress.evaluators.base import evaluator
from paretopress.search import Front, Recipe, Space, Task, search
from paretopress.search.journal import read
from paretopress.search.pareto import nondominated
from paretopress.search.result import Result
from paretopress.spaces.errors import SettingError


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """Final latencies are measured in less time: no test here looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator("latency"), "seconds", 0.02)
        yield


def work(result: Result) -> int:
    """Return how many examples went through a network, a training example for three."""
    return result.work["examples"] + result.work["calibrated"] + 3 * result.work["trained"]


def run(task: Task, space: Space, folder: Path, **options: Any) -> Front:
    """Search in this process, silently."""
    settings = {"budget": 22, "executor": "local", "progress": False, "run": folder, "sampler": "random", **options}
    return search(task, space, **settings)


@pytest.fixture(scope="module")
def crowded(task: Task) -> Space:
    """A space with many bad recipes."""
    techniques = {
        "integer": {"bits": [8, 4, 2]},
        "magnitude": {"density": [0.6, 0.2, 0.05]},
        "distillation": {"steps": [5]},
    }
    return Space.from_task(task, techniques)


@pytest.fixture(scope="module")
def pair(task: Task, crowded: Space, tmp_path_factory: pytest.TempPathFactory) -> tuple[Front, Front]:
    """The same recipes without racing and with it."""
    folder = tmp_path_factory.mktemp("races")
    return run(task, crowded, folder / "off", racing=False), run(task, crowded, folder / "on")


def test_the_front_is_the_same_for_less_work(pair: tuple[Front, Front], task: Task) -> None:
    """Random proposals don't depend on results: with racing the front has the same models, at less work."""
    off, on = pair
    assert {r.recipe for r in on.results} == {r.recipe for r in off.results}
    assert all(r.status == "ok" for r in off.results)
    assert sum(r.status == "stopped" for r in on.results) >= 3
    assert [p.result.checksum for p in on] == [p.result.checksum for p in off]
    assert sum(map(work, on.results)) < sum(map(work, off.results))
    once = sum(len(target) for _, target in task.calibration)  # stopped before any loss was asked for:
    assert once in {r.work["calibrated"] for r in on.results if not r.foretold}
    assert any("stopped early" in note for note in on.notes)
    assert not any("stopped early" in note for note in off.notes)


def test_stopped_trials_are_on_record_but_not_on_the_front(pair: tuple[Front, Front]) -> None:
    """They count as trials, keep costs and reason through the journal, have no file, and are no failures."""
    _, on = pair
    assert on.folder is not None
    again = [r for r, _ in read(on.folder)[1].results]
    assert [r.to_json() for r in again] == [r.to_json() for r in on.results]
    stopped = [r for r in again if r.status == "stopped"]
    assert not on.errors
    assert not {r.recipe for r in stopped} & {p.recipe for p in on}
    for result in stopped:
        assert result.value("size") > 0
        assert 0 <= result.value("accuracy") <= 1
        assert result.error
        assert not (on.folder / "models" / f"{result.recipe.digest}.safetensors").exists()


def test_a_resumed_run_answers_stopped_recipes_from_the_journal(
    pair: tuple[Front, Front], task: Task, crowded: Space
) -> None:
    """Resuming adds new recipes only, whatever became of the old ones."""
    _, on = pair
    assert on.folder is not None
    more = run(task, crowded, on.folder, budget=24, existing="resume")
    assert len(more.results) == len({r.recipe for r in more.results}) == 24


def test_a_budget_of_evaluations_counts_what_was_looked_at(task: Task, crowded: Space, tmp_path: Path) -> None:
    """The run ends when the work is spent, with more trials than evaluations if some were stopped."""
    front = run(task, crowded, tmp_path / "r", budget=None, evaluations=4)
    done = sum(r.evaluations(200) for r in front.results)
    assert 4 <= done < 5.75  # one trial more at most, three glances included
    assert any("evaluations" in note for note in front.notes)
    full = run(task, crowded, tmp_path / "s", budget=None, evaluations=2, racing=False)
    assert len(full.results) == 2


def test_constraints_stop_nobody_until_something_keeps_them(
    pair: tuple[Front, Front], task: Task, crowded: Space, tmp_path: Path
) -> None:
    """Where nothing is feasible the nearest trial must be found; where something is, dear ones end early, and the front
    is that of the feasible ones without racing.
    """
    hopeless = run(task, crowded, tmp_path / "a", budget=5, constraints=["size <= 100"])
    assert all(r.status == "ok" for r in hopeless.results)
    off, _ = pair
    tight = run(task, crowded, tmp_path / "b", constraints=["size <= 0.3x"])
    assert tight.feasible
    most = 0.3 * off.results[0].value("size")
    small = [r for r in off.results if r.value("size") <= most]
    rows = [[o.loss(r.value(o.name)) for o in off.objectives] for r in small]
    assert sorted(p.result.checksum for p in tight) == sorted(small[i].checksum for i in nondominated(rows))
    beyond = [r for r in tight.results if "breaks the limit of" in r.error]
    assert beyond
    assert all(r.work["calibrated"] == 0 or r.rungs for r in beyond)


def test_looser_limits_bring_back_what_was_stopped_for_the_old_ones(task: Task, crowded: Space, tmp_path: Path) -> None:
    """The front of a run that is resumed under other limits is that of the recipes it tried."""
    front = run(task, crowded, tmp_path, constraints=["size <= 0.3x"])
    dear = [r for r in front.results if "breaks the limit of" in r.error]
    assert dear
    again = run(task, crowded, tmp_path, constraints=["size <= 0.9x"], existing="resume")
    assert len(again.results) == len(front.results)
    off = run(task, crowded, tmp_path / "off", constraints=["size <= 0.9x"], racing=False)
    assert sorted(p.result.checksum for p in again) == sorted(p.result.checksum for p in off)
    stamp = len((tmp_path / "journal.jsonl").read_text().splitlines())
    (tmp_path / "front.json").unlink()  # or nothing is looked at
    run(task, crowded, tmp_path, constraints=["size <= 0.9x"], existing="resume")
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == stamp  # once is enough


def test_memory_is_judged_by_the_model_that_is_read_back(task: Task, tmp_path: Path) -> None:
    """A draft holds its intermediates longer: no trial is stopped for what isn't its own."""
    space = Space.from_task(task, {"integer": {"bits": [8, 6, 4], "granularity": "channel"}})
    front = run(task, space, tmp_path, budget=6, constraints=["memory <= 1x"])
    assert all(r.status == "ok" for r in front.results)


@pytest.mark.parametrize(("option", "value"), [("evaluations", 0), ("evaluations", "many"), ("racing", "yes")])
def test_wrong_settings_are_named(task: Task, space: Space, tmp_path: Path, option: str, value: object) -> None:
    """A mistake is told before anything is written."""
    with pytest.raises(SettingError, match=option):
        run(task, space, tmp_path / "r", **{option: value})
    assert not (tmp_path / "r").exists()


def test_work_of_old_journals_counts_in_full() -> None:
    """A line without work is one evaluation; one that looked at nothing still counts a little, so that runs end."""
    old = Result.from_json({"number": 1, "recipe": Recipe().to_json(), "status": "ok", "measurements": {}})
    assert old.evaluations(200) == 1.0
    assert replace(old, work={"examples": 50, "trained": 9}).evaluations(200) == 0.25
    assert replace(old, work={"examples": 0, "trained": 0}).evaluations(200) > 0
