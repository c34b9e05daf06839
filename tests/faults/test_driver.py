"""The driver dies, or another one comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from mischief import Drivers, Linear, deed, until

from paretopress.search import Space, Task
from paretopress.search.engine import MAX_LOSSES
from paretopress.search.journal import Journal, read
from paretopress.search.ownership import Ownership
from paretopress.search.record import identity
from paretopress.search.trial import Job
from paretopress.spaces.errors import RunError

WAITING = "[deed('none', 1), deed('none', 2), deed('wait', 3), deed('wait', 4), deed('none', 5)]"


def began(folder: Path, name: str) -> int:
    """Return how many trials of a deed have begun."""
    file = folder / "began"
    return sum(line.startswith(f"{name} ") for line in file.read_text().splitlines()) if file.exists() else 0


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a driver as by power loss: it says nothing to anybody."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_driver_loses_nothing(driver: Drivers, tmp_path: Path) -> None:
    """What was running runs again under its number, what had ended isn't repeated, and no worker stays behind."""
    first = driver(WAITING)
    until(lambda: began(tmp_path, "wait") == 2)
    workers = [p for p in psutil.Process(first.pid).children(recursive=True) if "ray::Worker" in p.name()]
    assert len(workers) == 2
    kill(first)
    record = read(tmp_path / "run")[1]
    assert sorted(u.number for u in record.unfinished.values()) == [3, 4]
    assert [r.number for r, _ in record.results] == [0, 1, 2]
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers), 60)
    (tmp_path / "go").touch()
    told, _ = driver(WAITING).communicate(timeout=150)
    assert "trials 6 0:ok 1:ok 2:ok 3:ok 4:ok 5:ok" in told
    assert began(tmp_path, "none") == 3
    assert began(tmp_path, "wait") == 4


def test_a_result_between_worker_and_journal_is_taken_over(driver: Drivers, tmp_path: Path) -> None:
    """The driver is stopped while its workers end, and killed before it hears of it: no trial runs twice."""
    first = driver(WAITING)
    until(lambda: began(tmp_path, "wait") == 2)
    first.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    until(lambda: len(list((tmp_path / "run" / "pending").glob("*.trial"))) == 2)
    kill(first)
    told, _ = driver(WAITING).communicate(timeout=150)
    assert "trials 6 0:ok 1:ok 2:ok 3:ok 4:ok 5:ok" in told
    assert began(tmp_path, "wait") == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert sorted(line["trial"]["number"] for line in lines if "trial" in line) == [0, 1, 2, 3, 4, 5]


def test_a_trial_that_always_kills_fails_across_restarts(driver: Drivers, tmp_path: Path) -> None:
    """Its losses are counted in the journal: a driver that is killed in between doesn't set them back."""
    recipes = "[deed('kill', 1), deed('wait', 2)]"
    first = driver(recipes)
    until(lambda: (tmp_path / "run" / "journal.jsonl").exists() and losses(tmp_path) >= MAX_LOSSES - 1)
    kill(first)
    (tmp_path / "go").touch()
    told, _ = driver(recipes).communicate(timeout=150)
    assert "trials 3 0:ok 1:failed 2:ok" in told
    assert began(tmp_path, "kill") <= MAX_LOSSES


def losses(folder: Path) -> int:
    """Return how many losses the journal holds."""
    return (folder / "run" / "journal.jsonl").read_text().count('{"lost":')


def owner_elsewhere(folder: Path, seconds_ago: float) -> None:
    """Leave a folder as a process on another machine does that was heard of so long ago."""
    file = folder / ".owner"
    file.write_text(json.dumps({"host": "elsewhere", "process": 1, "token": "abc"}))
    os.utime(file, (time.time() - seconds_ago,) * 2)


def test_a_driver_on_another_machine_is_respected_while_it_lives(tmp_path: Path) -> None:
    """Where the file system doesn't share locks, the owner's file does; a dead one is replaced after a minute."""
    owner_elsewhere(tmp_path, 10)
    with pytest.raises(RunError, match="process 1 on elsewhere is running a search in this folder"):
        Ownership(tmp_path)
    owner_elsewhere(tmp_path, 100)
    owner = Ownership(tmp_path)
    owner.check()
    owner.release()
    assert not list(tmp_path.glob(".owner*"))


def test_a_driver_whose_folder_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    """It was frozen for a minute, another machine went on with the run, and it wakes up."""
    torch.manual_seed(0)
    task = Task(Linear(), validation=[(torch.randn(8, 4), torch.randint(0, 3, (8,)))], name="faults")
    space = Space.from_task(task, {"integer": {}})
    with Journal(tmp_path, identity(task, space, ())) as journal:
        owner_elsewhere(tmp_path, 0)
        before = (tmp_path / "journal.jsonl").read_bytes()
        with pytest.raises(RunError, match="isn't this process's own any more"):
            journal.start([Job(1, deed("none"))])
        assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert json.loads((tmp_path / ".owner").read_text())["host"] == "elsewhere"


def test_a_folder_that_is_lost_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    """A shared folder that is unmounted, or removed under a run."""
    torch.manual_seed(0)
    task = Task(Linear(), validation=[(torch.randn(8, 4), torch.randint(0, 3, (8,)))], name="faults")
    space = Space.from_task(task, {"integer": {}})
    with Journal(tmp_path / "run", identity(task, space, ())) as journal:
        (tmp_path / "run").rename(tmp_path / "gone")
        with pytest.raises(RunError, match="removed or lost"):
            journal.start([Job(1, deed("none"))])
