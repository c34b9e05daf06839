"""What a resumed run takes over, and what it looks at again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from paretopress.evaluators.base import Evaluator, Measurement, Subject
from paretopress.search import Front, Metric, Space, Task, open_front, search
from paretopress.spaces.errors import RunError

OPTIONS: dict[str, Any] = {"executor": "local", "progress": False, "sampler": "random"}


class Saved(Evaluator):
    """A column of one's own."""

    name, unit, direction, cost = "saved", "", "maximize", 0.01

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(-float(subject.file_bytes or 0))


def of(task: Task, **changes: Any) -> Task:
    """Return a task of the same model and validation data."""
    parts = {"test": None, "metric": task.metric, **changes}
    return Task(task.model, task.validation.source, **parts)


def run(task: Task, space: Space, folder: Path, **options: Any) -> Front:
    """Search, or go on."""
    existing = "resume" if (folder / "journal.jsonl").exists() else "refuse"
    return search(task, space, run=folder, existing=existing, **{"budget": 4, **OPTIONS, **options})


def test_test_data_and_columns_that_are_new_are_measured(task: Task, space: Space, tmp_path: Path) -> None:
    """A run that has all its trials isn't done where its front lacks what is asked for."""
    first = run(of(task), space, tmp_path)
    assert first.split == "validation"
    tested = of(task, test=task.test.source if task.test is not None else None)
    assert run(tested, space, tmp_path).split == "test"
    stamp = (tmp_path / "front.json").stat().st_mtime_ns
    assert run(tested, space, tmp_path).split == "test"
    assert (tmp_path / "front.json").stat().st_mtime_ns == stamp  # now it is
    found = run(tested, space, tmp_path, metrics=[Saved()])
    assert all("saved" in p.final for p in found)
    for front in (found, open_front(tmp_path)):  # more is better, there as here
        assert front.best("saved").value("saved") == max(p.value("saved") for p in front)


def test_limits_without_a_compressed_model_are_told(task: Task, space: Space, tmp_path: Path) -> None:
    """The original alone keeps them, and is not what was asked for."""
    front = run(of(task), space, tmp_path, budget=1, constraints=["accuracy drop <= 0.1"])
    assert not front.feasible
    assert front.notes[0] == "No compressed model ran to its end, so none keeps the limits; the original does."


def test_a_limit_on_quality_alone_names_the_nearest_model(task: Task, tmp_path: Path) -> None:
    """Where every compressed model loses too much, the run says by how much, and shows those that came nearest."""
    space = Space.from_task(task, {"magnitude": {"density": [0.1, 0.2]}})
    front = run(of(task), space, tmp_path, constraints=["accuracy drop <= 0"])
    assert not front.feasible
    assert not any(p.recipe.is_baseline for p in front)
    assert "The nearest, point" in front.notes[0]
    assert "misses accuracy drop <= 0 by" in front.notes[0]
    assert all(r.status == "ok" for r in front.results)


def test_another_metric_of_the_same_name_is_refused(task: Task, space: Space, tmp_path: Path) -> None:
    """Figures of two kinds on one front would mean nothing; a digit of rounding is the same metric."""

    def top(count: int) -> Metric:
        def share(outputs: Tensor, targets: Tensor) -> float:
            return float((outputs.topk(count, 1).indices == targets[:, None]).any(1).float().mean())

        return Metric("share", share)

    objectives = ["share", "size"]
    run(of(task, metric=top(1)), space, tmp_path, objectives=objectives)
    (tmp_path / "front.json").unlink()  # or nothing is left to do
    with pytest.raises(RunError, match="share of the original model is .* now, and was .* when the run was begun"):
        run(of(task, metric=top(3)), space, tmp_path, objectives=objectives)
    metric = top(1)
    rounded = replace(metric, function=lambda o, t: round(metric(o, t), 3))
    assert run(of(task, metric=rounded), space, tmp_path, objectives=objectives)
