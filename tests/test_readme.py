"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import TensorDataset

from paretopress.search import Front, Space, Task, load, open_front, search
from paretopress.search.config import check
from paretopress.search.examples.digits import task as digits

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    """Return one of the README's code blocks of a language, by default the first."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)[number]


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


def test_the_optuna_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler works in a user's own study as shown, and leaves a model that loads."""
    monkeypatch.chdir(tmp_path)
    whole = digits()
    names = {"task": whole, "space": Space.from_task(whole, {"integer": {"bits": [8, 4, 2]}, "entropy": {}})}
    exec(compile(block("python", 1).replace("n_trials=100", "n_trials=6"), "README.md", "exec"), names)
    sizes = [trial.values[1] for trial in names["study"].trials]  # type: ignore[attr-defined] # a study by now
    assert len(sizes) == 6
    assert (tmp_path / "smallest.safetensors").stat().st_size in sizes
    assert load(tmp_path / "smallest.safetensors")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_the_yaml_example_searches_latency_under_its_constraint(tmp_path: Path) -> None:
    """The README's settings are valid, and latency can be an objective and a limit."""
    text = block("yaml").replace("my_module:make_task", "paretopress.search.examples.digits:task")
    config = check(yaml.safe_load(text.replace("layer*", "block*")), "README.md")
    task = config.build_task()
    space = config.build_space(task)
    assert {"integer", "channels", "entropy", "distillation", "svd"} <= set(space.techniques)
    # The layers are timed first, in files of every shape and of many mixtures of integers: a few are enough here.
    narrow = space.without(techniques=["channels", "depth", "distillation", "svd"])
    narrow = narrow.without("block[123]*", "down", "block4.conv1")
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
