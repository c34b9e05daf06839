"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import TensorDataset

from paretopress.search import Front, Task, open_front, search
from paretopress.search.config import check
from paretopress.search.examples.digits import task as digits

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the README's first code block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.S)
    assert found is not None
    return found[1]


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dozen lines of the README end with a compressed model, with a smaller budget and in this process."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(96, 6), torch.randint(0, 3, (96,)))
    names = {
        "model": nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3)).eval(),
        "train_set": data,
        "validation_set": data,
        "test_set": data,
    }
    text = block("python").replace("budget=100", "budget=8, executor='local', progress=False")
    text = text.replace("max_accuracy_drop=0.01", "max_accuracy_drop=1.0")
    exec(compile(text, "README.md", "exec"), names)
    small, front = names["small"], names["front"]
    assert isinstance(small, nn.Module)
    assert isinstance(front, Front)
    assert small(torch.randn(2, 6)).shape == (2, 3)
    assert [p.recipe for p in open_front(tmp_path / "runs/mine")] == [p.recipe for p in front]


def test_the_yaml_example_searches_latency_under_its_constraint(tmp_path: Path) -> None:
    """The README's settings are valid, and latency can be an objective and a limit."""
    text = block("yaml").replace("my_module:make_task", "paretopress.search.examples.digits:task")
    config = check(yaml.safe_load(text.replace("layer*", "block*")), "README.md")
    task = config.build_task()
    space = config.build_space(task)
    assert {"integer", "channels", "entropy", "distillation", "svd"} <= set(space.techniques)
    narrow = space.without("<model>", techniques=["distillation"])
    front = search(
        task,
        narrow,
        config.objectives,
        budget=6,
        constraints=[*config.constraints, "latency <= 3x"],
        executor="local",
        run=tmp_path / "r",
        progress=False,
    )
    good = [r for r in front.results if r.status == "ok"]
    assert good
    assert all(r.measurements["latency"].interval is not None for r in good)


def test_a_preset_with_settings_needs_no_training_data() -> None:
    """Beside a preset, settings of one technique don't make another one, which trains, a demand."""
    whole = digits()
    bare = Task(whole.model, whole.validation.source)
    data = {"task": "a:b", "preset": "full", "techniques": {"integer": {"bits": [4]}}}
    space = check(data, "x").build_space(bare)
    assert "distillation" not in space.techniques
    assert "integer" in space.techniques
