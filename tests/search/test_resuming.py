"""What a resumed run takes over, and what it looks at again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from paretopress.evaluators.params import Parameters
from paretopress.search import Front, Metric, Space, Task, search
from paretopress.spaces.errors import RunError

OPTIONS: dict[str, Any] = {"executor": "local", "progress": False, "sampler": "random"}


def of(task: Task, **changes: Any) -> Task:
    """Return a task of the same model and validation data."""
    parts = {"test": None, "metric": task.metric, **changes}
    return Task(task.model, task.validation.source, **parts)


def run(task: Task, space: Space, folder: Path, **options: Any) -> Front:
    """Search, or go on."""
    existing = "resume" if (folder / "journal.jsonl").exists() else "refuse"
    return search(task, space, run=folder, existing=existing, budget=4, **{**OPTIONS, **options})


def test_test_data_and_columns_that_are_new_are_measured(task: Task, space: Space, tmp_path: Path) -> None:
    """A run that has all its trials isn't done where its front lacks what is asked for."""
    first = run(of(task), space, tmp_path)
    assert first.split == "validation"
    tested = of(task, test=task.test.source if task.test is not None else None)
    assert run(tested, space, tmp_path).split == "test"
    stamp = (tmp_path / "front.json").stat().st_mtime_ns
    assert run(tested, space, tmp_path).split == "test"
    assert (tmp_path / "front.json").stat().st_mtime_ns == stamp  # now it is
    weights = Parameters()
    weights.name = "weights"  # type: ignore[misc]  # a column of one's own
    assert all("weights" in p.final for p in run(tested, space, tmp_path, metrics=[weights]))


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
