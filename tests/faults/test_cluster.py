"""Nodes of a cluster come, go, freeze and die during a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mischief import Mischief, Nodes, Run, began, deed, until

from paretopress.search.resources import Resources
from paretopress.search.result import Result
from paretopress.spaces.errors import RunError
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.task import Task

TRIALS = [deed("wait", n) for n in range(1, 5)]


def meanwhile(mischief: Mischief, running: int, act: Callable[[], None]) -> threading.Thread:
    """Act when so many trials run, and let them end."""

    def wait() -> None:
        until(lambda: len(began(mischief)) >= running)
        try:
            act()
        finally:
            (mischief.folder / "go").touch()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def check(results: dict[Recipe, Result], run: Path) -> None:
    """Check that every trial has its result, and nothing more; and that none is blamed for what became of its node."""
    assert set(results) == {Recipe(), *TRIALS}
    assert {r.status for r in results.values()} == {"ok"}
    assert sorted(r.number for r in results.values()) == list(range(1 + len(TRIALS)))
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line.get("blame")]


def test_a_node_whose_raylet_dies_costs_attempts_and_no_trial(
    task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path
) -> None:
    """Its orphan's trial ends, or runs again elsewhere; either way it has one result."""
    raylet = nodes.added[1].all_processes["raylet"][0].process

    def kill() -> None:
        raylet.send_signal(signal.SIGKILL)
        time.sleep(5)  # long enough for the head to notice

    thread = meanwhile(mischief, 2, kill)
    check(Run(task, tmp_path / "run", Resources(address=nodes.address))(TRIALS), tmp_path / "run")
    thread.join()
    nodes.lose(nodes.added[1])


def test_a_frozen_node_costs_attempts_and_no_trial(
    task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path
) -> None:
    """Ray takes it for dead when it answers no more; when it goes on, nobody listens."""
    frozen: list[psutil.Process] = []

    def freeze() -> None:
        raylet = psutil.Process(nodes.added[1].all_processes["raylet"][0].process.pid)
        frozen.extend([raylet, *raylet.children(recursive=True)])
        for process in frozen:
            process.suspend()

    thread = meanwhile(mischief, 2, freeze)
    try:
        check(Run(task, tmp_path / "run", Resources(address=nodes.address))(TRIALS), tmp_path / "run")
    finally:
        thread.join()
        for process in frozen:
            try:
                process.resume()
            except psutil.NoSuchProcess:
                continue
        nodes.lose(nodes.added[1])


def test_a_node_that_joins_is_used(task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path) -> None:
    """More workers than at the start run at a time."""
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        f"--address={nodes.address}",
        "--num-cpus=1",
        "--block",
    ]
    joined: list[subprocess.Popen[bytes]] = []

    def join() -> None:
        joined.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until(lambda: len(began(mischief)) > 2)

    thread = meanwhile(mischief, 2, join)
    try:
        check(Run(task, tmp_path / "run", Resources(address=nodes.address))(TRIALS), tmp_path / "run")
    finally:
        thread.join()
        joined[0].terminate()
        joined[0].wait(30)
    assert len(set(began(mischief)[:3])) == 3


def test_trials_go_where_their_resources_are(task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path) -> None:
    """A custom resource keeps them to the nodes that have it; what no node has is refused, with what they have."""
    phone = nodes.add(resources={"phone": 1})
    resources = Resources(address=nodes.address, custom={"phone": 1})
    thread = meanwhile(mischief, 1, lambda: None)
    check(Run(task, tmp_path / "run", resources)(TRIALS), tmp_path / "run")
    thread.join()
    assert len(set(began(mischief))) == 1
    for asked in (Resources(address=nodes.address, cpus=64), Resources(address=nodes.address, custom={"board": 1})):
        with pytest.raises(RunError, match="no node of the Ray cluster has that"):
            Run(task, tmp_path / "refused", asked)([])
    nodes.lose(phone)


def test_trials_share_a_gpu(task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path) -> None:
    """Of a node with one, two trials that ask for half of it run at a time, and none elsewhere."""
    node = nodes.add(num_gpus=1, num_cpus=4)
    thread = meanwhile(mischief, 2, lambda: None)
    check(Run(task, tmp_path / "run", Resources(address=nodes.address, gpus=0.5))(TRIALS), tmp_path / "run")
    thread.join()
    assert len(set(began(mischief))) == 2
    nodes.lose(node)
