"""A single trial gives what a search's trial of the same recipe gives."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretopress.search import Latency, Measure, Recipe, Space, Task, load, search
from paretopress.search.trial import Bench, Finished, Job
from paretopress.spaces.errors import ModelError, SettingError
from paretopress.spaces.recipe import Step


def test_a_recipe_measures_as_in_a_search(task: Task, space: Space, tmp_path: Path) -> None:
    """The figures are the search's own, for the original and for what it tried."""
    front = search(
        task, space, ["accuracy", "size"], budget=5, executor="local", run=tmp_path / "r", racing=False, progress=False
    )
    measure = Measure(task, space, ["size", "accuracy"])
    for result in front.results:
        values = measure(result.recipe)
        assert list(values) == ["size", "accuracy"]
        assert values == {name: result.value(name) for name in values}


def test_the_model_that_was_measured_can_be_kept(task: Task, space: Space, tmp_path: Path) -> None:
    """The file has the measured size, and loads."""
    recipe = space.uniform(0.5)
    values = Measure(task, space, ["size"])(recipe, save=tmp_path / "deep" / "small.safetensors")
    file = tmp_path / "deep" / "small.safetensors"
    assert file.stat().st_size == values["size"]
    assert load(file)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_recipe_that_cant_be_applied_is_an_error_with_the_reason(task: Task, space: Space) -> None:
    """A wrong layer must not look like a bad model, and does no harm to the next trial."""
    measure = Measure(task, space, ["size"])
    with pytest.raises(ModelError, match="nowhere"):
        measure(Recipe((Step("nowhere", "integer", {"bits": 4}),)))
    assert measure(Recipe())["size"] > 0


def test_two_techniques_of_one_stage_at_a_site_are_refused(task: Task, space: Space) -> None:
    """The second would undo the first without a word, and the file would not be what the recipe says."""
    twice = Recipe.of([Step.of("fc", "integer", bits=4, granularity="channel"), Step.of("fc", "codebook", bits=4)])
    with pytest.raises(ModelError, match="recipe = 'fc': codebook and integer are both of the stage numeric. Keep one"):
        Measure(task, space, ["size"])(twice)


def test_without_names_it_measures_the_tasks_own_metric_and_size(task: Task, space: Space) -> None:
    """Whatever the metric is called."""
    mine = Task(task.model, task.validation, metric=replace(task.metric, name="hits"))
    assert list(Measure(mine, Space.from_task(mine, "quantize"))(Recipe())) == ["hits", "size"]


@pytest.mark.parametrize("seed", ["x", -1, 1.5, None, True])
def test_a_wrong_seed_or_file_is_told_before_the_first_trial(task: Task, space: Space, seed: object) -> None:
    """And not by a library, at the first recipe that draws random numbers."""
    with pytest.raises(SettingError, match=r"seed = .*: must be a whole number from 0 to"):
        Measure(task, space, ["size"], seed=seed)  # type: ignore[arg-type] # a mistake
    with pytest.raises(SettingError, match=r"save = 3: must be a file's path"):
        Measure(task, space, ["size"])(Recipe(), save=3)  # type: ignore[arg-type] # a mistake


def test_threads_take_turns(task: Task, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study with several threads loses no trial: models can't be traced in two threads at a time."""
    inside = most = 0
    run = Bench.run

    def counted(bench: Bench, job: Job) -> Finished:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        try:
            return run(bench, job)
        finally:
            inside -= 1

    monkeypatch.setattr(Bench, "run", counted)
    measures = [Measure(task, space, ["size"]) for _ in range(2)]
    recipes = [space.uniform(level) for level in (0.0, 0.3, 0.6, 1.0)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: measures[i % 2](recipes[i])["size"], range(4)))
    assert most == 1
    assert found == [measures[0](recipe)["size"] for recipe in recipes]


def test_metrics_of_ones_own_are_measured(task: Task, space: Space) -> None:
    """A latency of other conditions stands beside names, as among a search's ``metrics=``."""
    eager = Latency(4, 0.05, runtime="torch", name="eager")
    found = Measure(task, space, ["size", eager])(Recipe())
    assert list(found) == ["size", "eager"]
    assert 0.5 < found["eager"] < 2


def test_what_is_no_recipe_is_refused(task: Task, space: Space) -> None:
    """The message names what to write, where `None` would be an error deep inside."""
    with pytest.raises(SettingError, match="recipe = None: must be a Recipe"):
        Measure(task, space, ["size"])(None)  # type: ignore[arg-type]  # the mistake that is tested


@pytest.mark.parametrize("metrics", [[], "size", ["sise"], ["size", 3]])
def test_wrong_metrics_are_refused(task: Task, space: Space, metrics: list[str]) -> None:
    """A mistake shows before the first trial."""
    with pytest.raises(SettingError):
        Measure(task, space, metrics)
