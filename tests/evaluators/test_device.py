"""Another device is asked by a command or a function, and its answer is looked at before it counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paretopress.evaluators import device as module
from paretopress.evaluators.base import Subject
from paretopress.evaluators.device import Command
from paretopress.evaluators.latency import Latency
from paretopress.spaces.errors import SettingError
from paretopress.spaces.task import Task

SCRIPT = """
import json, pathlib, sys
model, baseline, batch, threads = sys.argv[1:]
sizes = [pathlib.Path(p).stat().st_size for p in (model, baseline)]
print("connecting")
print(json.dumps({"seconds": [sizes[0] * int(batch)] * 8, "baseline_seconds": [sizes[1] * int(batch)] * 8}))
"""


@pytest.fixture
def subject() -> Subject:
    """Give a model whose files are 30 and 40 bytes."""
    task = Task(nn.Linear(2, 2), [(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))])
    return Subject(task.model, task, task.validation, deploy=lambda: bytes(30), deploy_baseline=lambda: bytes(40))


def written(folder: Path, text: str) -> str:
    """Return a command line that runs a script of this text on the two files."""
    (folder / "phone.py").write_text(text)
    return f"{sys.executable} '{folder / 'phone.py'}' {{model}} {{baseline}} {{batch}} {{threads}}"


def test_command_is_given_both_files_and_gives_the_times(subject: Subject, tmp_path: Path) -> None:
    """The figure is the device's, under a name of its own, whatever else the command prints."""
    line = written(tmp_path, SCRIPT)
    metric = Latency(4, device=line, threads=2, name="phone")
    found = metric.measure(subject)
    assert (found.value, found.repeats) == (0.75, 8)
    assert found.detail["milliseconds"] == 30 * 4 * 1e3
    assert found.detail["runtime"] == line
    assert not metric.here
    assert metric.deployed
    assert metric.conditions == f"{line}, batch 4, 2 threads"


def on_the_desk(model: Path, baseline: Path, batch: int, threads: int) -> tuple[Sequence[float], Sequence[float]]:
    """Stand for a user's function."""
    return [model.stat().st_size * 1.0] * 6, [baseline.stat().st_size * 2.0] * 6


def test_function_is_asked_like_a_command(subject: Subject) -> None:
    """From Python, a callback reaches the board; it may answer in the form of a command."""
    found = Latency(device=on_the_desk, name="board").measure(subject)
    assert found.value == 30 / 80

    def named(*what: Any) -> dict[str, Sequence[float]]:
        return dict(zip(("seconds", "baseline_seconds"), on_the_desk(*what)))

    assert Latency(device=named, name="board").measure(subject).value == 30 / 80


@pytest.mark.parametrize("answer", [None, 3.0, {"seconds": [1.0]}, "fast", ([1.0], None)])
def test_a_function_that_gives_something_else_is_told_what_to_give(subject: Subject, answer: Any) -> None:
    """Both forms are in the message."""
    with pytest.raises(RuntimeError, match="must return two lists of seconds, .* or them as {'seconds'"):
        Latency(device=lambda *_: answer, name="board").measure(subject)


def test_a_function_that_takes_something_else_is_refused_at_once() -> None:
    """What it is called with is in the message."""
    with pytest.raises(SettingError, match=r"must be a function of \(model, baseline, batch, threads\)"):
        Latency(device=lambda model: ([], []), name="board")  # type: ignore[arg-type,misc]  # that is the point


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import sys; print('no phone', file=sys.stderr); sys.exit(3)", "ended with 3: no phone"),
        ("print('done')", "must be {\"seconds\": .*, not: done"),
        ("print('{\"seconds\": [1, 2]}')", "must be {\"seconds\""),
        ("print('{\"seconds\": [1, 2], \"baseline_seconds\": [1, 2]}')", "gave 2 and 2 times"),
        ("print('{\"seconds\": [0, 1, 1, 1, 1, 1], \"baseline_seconds\": [1, 1, 1, 1, 1, 1]}')", "not above 0"),
        ("print('{\"seconds\": [1e999], \"baseline_seconds\": [1]}')", "gave 1 and 1 times"),
        ("import time; time.sleep(60)", "longer than 1 s"),
        ("", "must be {\"seconds\".*not: no message"),
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_an_error(
    subject: Subject, tmp_path: Path, script: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial fails with the device's own words; no figure is made up."""
    monkeypatch.setattr(module, "PATIENCE", 1.0 if "sleep" in script else 60.0)
    with pytest.raises(RuntimeError, match=expected):
        Latency(device=written(tmp_path, script), name="phone").measure(subject)


def test_a_program_that_is_not_there_is_named(subject: Subject) -> None:
    """A wrong path is the commonest mistake."""
    with pytest.raises(RuntimeError, match=r"\./phone\.sh can't be run"):
        Latency(device="./phone.sh {model} {baseline}", name="phone").measure(subject)


@pytest.mark.parametrize("line", ["./phone.sh", "", "./phone.sh {model}", "./phone.sh '{model} {baseline}"])
def test_a_line_without_places_for_the_files_is_refused(line: str) -> None:
    """At once, with the form that it must have."""
    with pytest.raises(SettingError, match="device"):
        Command(line)
