"""A machine that has something else to do: what is timed there says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from paretopress.evaluators.base import Subject
from paretopress.evaluators.latency import Latency
from paretopress.spaces.task import Task


@pytest.fixture
def one_core() -> Iterator[int]:
    """Keep this process on one core, which others share."""
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)


def test_latency_under_load_is_flagged(one_core: int) -> None:
    """Two programs that never rest share the core: the ratio may look sound, and is marked all the same."""
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    task = Task(model, [(torch.randn(64, 256), torch.zeros(64, dtype=torch.long))], name="loaded")
    code = f"import os; os.sched_setaffinity(0, {{{one_core}}})\nprint('runs', flush=True)\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in busy:
            assert process.stdout is not None
            process.stdout.readline()
        found = Latency(runtime="torch", seconds=0.5).measure(Subject(task.model, task, task.validation))
    finally:
        for process in busy:
            process.kill()
            process.communicate()
    assert found.detail["contended"] is True
    assert found.detail["wall_over_cpu"] > 2
