"""A space belongs to a model: another one's is refused at the door."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paretopress.search import Measure, Space, Task, profile, search
from paretopress.search.fitting import check_fits
from paretopress.spaces.errors import SettingError


def dense(width: int, depth: int = 1) -> Task:
    """Return a task of another model."""
    layers = [nn.Linear(4, width), *(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, 2)]
    return Task(nn.Sequential(*layers).eval(), [(torch.randn(8, 4), torch.randint(0, 2, (8,)))])


def test_a_space_of_another_model_is_refused_everywhere(task: Task, tmp_path: Path) -> None:
    """Search, profile and single trials say at once which module or shape doesn't fit, and what to write."""
    other = Space.from_task(dense(8))
    with pytest.raises(SettingError, match=r"another model than the task's.*Space.from_task\(task\)"):
        search(task, other, run=tmp_path / "r", executor="local", progress=False)
    assert not (tmp_path / "r").exists()
    with pytest.raises(SettingError, match="it has no module"):
        profile(task, other, progress=False)
    with pytest.raises(SettingError, match="it has no module"):
        Measure(task, other)


def test_other_shapes_and_depths_are_told(task: Task, space: Space) -> None:
    """The same names with other shapes don't fit, more layers than there are neither; a model's own space does."""
    check_fits(task, space)
    with pytest.raises(SettingError, match="has the shape"):
        check_fits(dense(8), Space.from_task(dense(6)))
    with pytest.raises(SettingError, match="it has no module '3'"):
        check_fits(dense(2), Space.from_task(dense(2, depth=2)))


def test_other_things_are_named_briefly(task: Task) -> None:
    """What is no task and no space is shown on one line, however long it prints."""
    with pytest.raises(SettingError, match="must be a Task") as caught:
        check_fits(task.model, Space.from_task(task))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match=r"Write Space.from_task\(task, 'full'\)"):
        check_fits(task, "full")
