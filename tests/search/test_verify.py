"""A run's models are checked in a process that never saw their class, and what is wrong is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from paretopress.search import Front, Task, container, open_front
from paretopress.search import recheck as recheck_module
from paretopress.search.artifact import FILE
from paretopress.search.cli import main
from paretopress.search.kept_settings import read_kept
from paretopress.search.recheck import Check, Request, recheck
from paretopress.spaces.errors import PressError

MODULE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from paretopress.search import Task
from paretopress.search.examples.digits import splits

print("a task may print")


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


class Branching(Flat):
    def forward(self, x):
        return x if x.sum() > 1e9 else super().forward(x)


def make(kind="Flat", examples=200):
    torch.manual_seed(0)
    model = {"Flat": Flat, "Branching": Branching}[kind]()
    images, labels = splits()["train"].tensors
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    part = {name: TensorDataset(*(t[:examples] for t in splits()[name].tensors)) for name in ("validation", "test")}
    return Task(model, DataLoader(part["validation"], 100), DataLoader(part["test"], 100))


def fewer():
    return make(examples=150)


def broken():
    raise ValueError("the disk with the data is gone")
"""
YAML = """
task: own_task_of_verify:make
arguments: {kind: %s}
techniques: {integer: {bits: [8, 3]}, entropy: {}}
budget: {trials: %s}
executor: local
"""


def command(*words: str | Path) -> object:
    """Run a command and return its status; models are checked in a process of their own."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, and a run of each of its models."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "own_task_of_verify.py").write_text(MODULE)
    for kind, trials in (("Flat", 3), ("Branching", 2)):
        (folder / f"{kind}.yaml").write_text(YAML % (kind, trials))
        assert not command("search", folder / f"{kind}.yaml")
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run whose models load by themselves, to be damaged."""
    return Path(shutil.copytree(runs / "Flat", tmp_path / "run"))


def checked(folder: Path, task: str | None = None, *, named: bool = True) -> list[Check]:
    """Return the checks of a run, made in this process."""
    kept = read_kept(folder)
    data = kept.config.model_dump() if task is None else {"task": task}
    return recheck(Request(str(folder), data if named else None, str(kept.origin), task is not None, sys.path, 1))


def test_an_edited_file_is_found_and_named(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a fresh process, one flipped bit fails the command; the other models are measured, and are right."""
    file = run / "front/0" / FILE
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert command("verify", run) == 1
    told = capfd.readouterr().out
    assert "! point 0: the checksum does not match: the file was damaged or edited after it was written." in told
    models = 1 + len(open_front(run))
    assert f"1 of {models} models is not what the run says" in told
    assert told.count("size, parameters, macs, accuracy") == models - 1


def test_a_model_that_needs_its_class_is_checked_with_the_task(
    runs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fresh process finds the task's module beside the settings, though it can't see it while it loads."""
    monkeypatch.setenv("PYTHONPATH", str(runs))
    assert not command("verify", runs / "Branching")
    told = capfd.readouterr().out
    models = 1 + len(open_front(runs / "Branching"))
    assert told.count("with its class") == told.count("size, parameters, macs, accuracy") == models
    assert told.count("right") == models
    assert "not tried" not in told
    assert "not checked" not in told


def test_a_sound_run_has_every_figure(runs: Path) -> None:
    """Files, counts and accuracy are exactly those of ``front.json``."""
    checks = checked(runs / "Flat")
    assert len(checks) >= 2
    for check in checks:
        assert check.loads == "yes"
        assert check.equal == ["size", "parameters", "macs", "accuracy"]
        assert not check.wrong
        assert not check.unchecked


def test_without_a_task_it_says_what_it_could_not_check(runs: Path) -> None:
    """Files and counts are checked all the same, and a model that needs its class isn't called wrong."""
    for check in checked(runs / "Flat", named=False):
        assert (check.loads, check.equal, check.wrong) == ("yes", ["size", "parameters", "macs"], [])
        assert check.unchecked == ["accuracy on test (the run names no task)"]
    for check in checked(runs / "Branching", named=False):
        assert (check.loads, check.equal, check.wrong) == ("not tried", ["size"], [])
        assert check.unchecked == ["the model, which needs its class (the run names no task)"]


def test_another_file_with_a_checksum_of_its_own_is_found(run: Path) -> None:
    """Whoever exchanges a model and mends its checksum is caught by the run's record and by the figures."""
    front = open_front(run)
    point = front[0]
    assert point.path is not None
    assert front.baseline.path is not None
    other = (front.baseline.path / FILE).read_bytes()
    container.read(other)
    (point.path / FILE).write_bytes(other)
    _, check, *_ = checked(run)
    assert check.loads == "yes"
    assert check.wrong[0].startswith("it is not the file that was measured: its SHA-256 begins with")
    assert any(sentence.startswith(f"size is {len(other)}, the run says ") for sentence in check.wrong)


def test_a_file_that_is_gone_is_wrong(run: Path) -> None:
    """A missing model fails, and doesn't hide the others."""
    (run / "front/0" / FILE).unlink()
    base, check, *_ = checked(run)
    assert (check.loads, check.bytes) == ("no", 0)
    assert check.wrong[0].startswith("there is no file ")
    assert not base.wrong


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("recipe.json", "[]", "recipe.json is not what the run says"),
        ("metrics.json", None, "metrics.json is not what the run says"),
        ("metrics.json", "{", "metrics.json can't be read (JSONDecodeError)"),
    ],
)
def test_files_beside_the_model_are_checked(run: Path, name: str, text: str | None, expected: str) -> None:
    """Other programs read them: edited ones are found, though the model is sound."""
    file = run / "front/0" / name
    data = json.loads(file.read_text())
    if text is None:
        data["final"]["size"]["value"] -= 1
    file.write_text(json.dumps(data) if text is None else text)
    assert [check.wrong for check in checked(run)][1] == [expected]


def test_edited_figures_are_found(run: Path) -> None:
    """Each figure of the front is compared: one that was made prettier is named with both values."""
    data = json.loads((run / "front.json").read_text())
    final = data["points"][0]["final"]
    for name, change in (("accuracy", 0.005), ("macs", -1.0)):
        final[name]["value"] += change
    (run / "front.json").write_text(json.dumps(data))
    _, check, *_ = checked(run)
    now = final["accuracy"]["value"]
    assert any(text.endswith(f"the run says {now:.10g}") for text in check.wrong if text.startswith("accuracy is "))
    assert any(text.startswith("macs is ") for text in check.wrong)
    assert check.equal == ["size", "parameters"]


def test_another_task_is_not_compared(run: Path) -> None:
    """Figures on other data would differ for no fault of the model: the reason is given instead."""
    for check in checked(run, "own_task_of_verify:fewer"):
        assert not check.wrong
        assert check.unchecked[0].startswith("accuracy on test (the task is not the one that was searched: its model")


def test_what_was_not_checked_is_no_success(
    run: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A script sees it where the task that it named was of no use, and where models weren't even loaded."""
    monkeypatch.chdir(runs)
    assert command("verify", run, "--task", "own_task_of_verify:fewer") == 1
    assert "the task is not the one that was searched" in " ".join(capfd.readouterr().out.split())
    nameless = Path(shutil.copytree(runs / "Branching", tmp_path / "nameless"))
    (nameless / "config.json").unlink()
    assert command("verify", nameless) == 1
    assert "not tried" in capfd.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["points"][0]["final"].update(size="x"),
        lambda d: d["points"][0]["final"]["size"].update(interval=[1]),
        lambda d: d["points"][0]["trial"].update(timings=3),
        lambda d: d["points"][0].update(flags=None),
        lambda d: d.update(points=None),
    ],
)
def test_a_damaged_front_is_one_message(run: Path, damage: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever was done to ``front.json``, it says that it is damaged and how to get it back, with status 2."""
    document = json.loads((run / "front.json").read_text())
    damage(document)
    (run / "front.json").write_text(json.dumps(document))
    for words in (("verify", run), ("pick", run), ("report", run)):
        assert command(*words) == 2
        told = " ".join(capfd.readouterr().err.split())
        assert "is damaged or can't be read" in told
        assert "paretopress resume" in told


def test_a_task_that_cannot_be_built(run: Path) -> None:
    """It is a mistake where it was asked for, and a reason where the settings name it."""
    with pytest.raises(PressError, match="the disk with the data is gone") as caught:
        checked(run, "own_task_of_verify:broken")
    assert "own_task_of_verify:broken" in str(caught.value)
    saved = json.loads((run / "config.json").read_text())
    saved["config"]["arguments"] = {"kind": "Gone"}
    (run / "config.json").write_text(json.dumps(saved))
    for check in checked(run):
        assert not check.wrong
        assert "the run's task can't be built: " in check.unchecked[0]


def test_a_folder_without_a_front_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One message and status 2, as for every mistake."""
    assert command("verify", tmp_path) == 2
    assert "there is no run here" in capsys.readouterr().err


def test_the_task_is_built_on_the_threads_of_a_search(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that trains its model gives other weights on other threads: only what follows is on the run's."""
    seen: list[int] = []
    build = recheck_module._task

    def watched(request: Request, front: Front) -> tuple[Task | None, str]:
        seen.append(torch.get_num_threads())
        return build(request, front)

    monkeypatch.setattr(recheck_module, "_task", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert not any(check.wrong for check in checked(runs / "Flat"))
        assert (seen, torch.get_num_threads()) == ([3], 1)
    finally:
        torch.set_num_threads(before)
