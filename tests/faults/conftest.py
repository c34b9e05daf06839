"""A real Ray cluster on loopback, and a small task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mischief import Drivers, Linear, Mischief, Nodes

from paretopress.compressors.base import register
from paretopress.spaces.catalogue import REGISTRY
from paretopress.spaces.task import Task


@pytest.fixture
def mischief(tmp_path: Path) -> Iterator[Mischief]:
    """The technique, registered for a test."""
    entry = Mischief(tmp_path)
    register(entry)
    yield entry
    del REGISTRY.members[entry.name]


@pytest.fixture
def task() -> Task:
    """A task whose trials take milliseconds."""
    torch.manual_seed(0)
    data = [(torch.randn(64, 4), torch.randint(0, 3, (64,)))]
    return Task(Linear(), validation=data, name="faults")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A cluster of two nodes that notices within seconds that one is frozen."""
    health = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
    health |= {"health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}
    found = Nodes(2, _system_config=health)
    yield found
    found.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The cluster with its two nodes, whatever became of them before."""
    cluster.restore()
    return cluster


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Drivers]:
    """Starts processes; none outlives the test."""
    found = Drivers(tmp_path)
    yield found
    for process in found.started:
        process.kill()
