"""A cluster's head isn't there, doesn't let one in, or dies; in every case a run says so."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mischief import Drivers, Mischief, Nodes, Run, began, until

from paretopress.search.resources import Resources
from paretopress.spaces.errors import RunError
from paretopress.spaces.task import Task

WAITING = "[deed('wait', n) for n in range(1, 5)]"
#: Seconds in which a run says that its head is gone; Ray itself ends the process without a word after a minute.
SOON = 45
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 40}


def free_port() -> int:
    """Return a port where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    """Whether something does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ray_start() -> Iterator[tuple[str, psutil.Process]]:
    """Start a cluster of one machine as a person does; give its address, and the process to which that belongs."""
    port = free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=2"]
    process = subprocess.Popen(
        [*command, "--include-dashboard=false", "--block"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **TOKEN},
    )  # fmt: skip
    try:
        until(lambda: listens(port))
        yield f"127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def test_an_address_where_nothing_listens_is_refused_at_once(task: Task, mischief: Mischief, tmp_path: Path) -> None:
    """Within seconds, with what to do."""
    port = free_port()
    with pytest.raises(RunError, match="nothing answers there"):
        Run(task, tmp_path / "run", Resources(address=f"127.0.0.1:{port}"))([])


def test_a_cluster_with_another_way_of_authentication_says_so(driver: Drivers) -> None:
    """The message names the setting that must be the same on both sides."""
    with ray_start() as (address, _):
        told, _ = driver("[]", address, RAY_AUTH_MODE="disabled").communicate(timeout=120)
    assert "refused: Ray at" in told
    assert "RAY_AUTH_MODE is disabled" in told


@pytest.mark.parametrize("caught", [True, False])
def test_a_head_that_dies_with_its_workers_ends_the_run_with_a_reason(
    driver: Drivers, mischief: Mischief, caught: bool
) -> None:
    """Where trials ran on the head's own machine its workers are gone at the same time: whatever the run would ask of
    the head for them waits for ever, and so would Ray's own way to show an error that a script doesn't catch.
    """
    with ray_start() as (address, process):
        run = driver(WAITING, address, caught, **TOKEN)
        until(lambda: len(began(mischief)) >= 2)
        [head] = [p for p in process.children(recursive=True) if p.name().startswith("gcs_server")]
        head.kill()
        killed = time.monotonic()
        said = next(line for line in run.stdout or () if "the head of the Ray cluster is gone" in line)
        assert said.startswith("refused: " if caught else "paretopress.spaces.errors.RunError: ")
        assert time.monotonic() - killed < SOON
        run.kill()  # Ray takes its minute to let the process end


def test_a_head_that_dies_ends_the_run_with_a_reason(
    driver: Drivers, mischief: Mischief, nodes: Nodes, tmp_path: Path
) -> None:
    """Its workers live on elsewhere for a while; the run goes on on another cluster. This is the last one: the cluster
    is gone after it.
    """
    process = driver(WAITING, nodes.address)
    until(lambda: len(began(mischief)) >= 2)
    head = nodes.cluster.head_node.all_processes["gcs_server"][0].process
    head.send_signal(signal.SIGKILL)
    told, _ = process.communicate(timeout=100)
    assert "refused: the head of the Ray cluster is gone" in told
    (tmp_path / "go").touch()
    told, _ = driver(WAITING).communicate(timeout=200)
    assert "trials 5 0:ok 1:ok 2:ok 3:ok 4:ok" in told
