"""What a metric does when the trials are over must not cost their front."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from mischief import Nodes, leak
from torch import nn

from paretopress.evaluators.base import Evaluator, Measurement, Subject
from paretopress.search import Resources, Space, Task, search
from paretopress.search.front import Front


class Doing(Evaluator):
    """A column of the front that does something else than to measure, if it isn't in the process that made it."""

    unit, direction, cost, summary = "", "minimize", 1.0, "a test's"

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.home = name, folder, os.getpid()

    def measure(self, subject: Subject) -> Measurement:
        """Note it, and do what the name says."""
        with (self.folder / self.name).open("a") as file:
            file.write("x")
        if os.getpid() == self.home:
            raise AssertionError("nothing is measured in the driver")
        if self.name == "hangs":
            time.sleep(10_000)
        if self.name == "leaks":
            leak()
        if self.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return Measurement(float(os.getpid()))


def tried(folder: Path, name: str) -> int:
    """Return how often a metric was measured."""
    return len((folder / name).read_text())


def run(nodes: Nodes, folder: Path, *doings: str, minutes: float = 0.1, **more: object) -> Front:
    """Search a small space."""
    torch.manual_seed(0)
    model, examples = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.randn(2000, 64)
    data = [(examples, model(examples).argmax(1))]  # every bit less costs accuracy
    task = Task(model, validation=data, test=data, name="end")
    space = Space.from_task(task, {"integer": {"bits": [8, 6, 4, 3, 2]}})
    resources = Resources(address=nodes.address, minutes=minutes, memory="1 GB")
    return search(
        task, space, run=folder / "run", metrics=[Doing(name, folder) for name in doings], budget=6, sampler="random",
        resources=resources, progress=False, racing=False, **more,
    )  # type: ignore[arg-type]  # further settings of a search  # fmt: skip


def test_metrics_that_hang_leak_or_kill_cost_their_own_figures(nodes: Nodes, tmp_path: Path) -> None:
    """Each is ended by the limits of a trial and not tried for ever; all else is measured, by one worker."""
    front = run(nodes, tmp_path, "hangs", "leaks", "dies", "fine")
    assert len(front) >= 2
    for point in (front.baseline, *front):
        assert point.final["accuracy"].interval is not None
        assert "fine" in point.final
        assert not {"hangs", "leaks", "dies"} & point.final.keys()
    for lost in ("hangs", "leaks", "dies"):
        assert any(note.startswith(f"{lost} could not be measured for any model: it") for note in front.notes)
    said = " ".join(front.baseline.flags)
    assert "hangs could not be measured on test: it ran for more than 0.1 min" in said
    assert "leaks could not be measured on test: it took" in said
    assert "dies could not be measured on test: its worker died" in said
    assert "it was not tried again after this: it ran for more than 0.1 min" in " ".join(front[-1].flags)
    assert tried(tmp_path, "hangs") == tried(tmp_path, "leaks") == 2
    assert tried(tmp_path, "dies") == 4
    assert tried(tmp_path, "fine") == 1 + len(front)


def test_lost_files_are_made_again_by_workers(nodes: Nodes, tmp_path: Path) -> None:
    """A file that is missing or damaged is made again where trials run, and is the one that it was."""
    first = run(nodes, tmp_path)
    missing, damaged = sorted((tmp_path / "run" / "models").iterdir())[:2]
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-5] + b"wrong")
    again = run(nodes, tmp_path, existing="resume", retry="errored", minutes=1)
    assert {p.result.checksum for p in again} >= {p.result.checksum for p in first}
    assert not any("made again" in flag for point in again for flag in point.flags)
