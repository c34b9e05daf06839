"""An executor by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from paretopress.search.executor import LocalExecutor
from paretopress.search.executors import start_executor, starting_ray
from paretopress.search.handover import Handover
from paretopress.search.resources import Resources
from paretopress.search.trial import Bench
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


def test_what_is_said_of_ray_names_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is named in the environment, too: who waits should know for what."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "on this machine" in starting_ray(Resources())
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert "Ray at head:6379" in starting_ray(Resources())
    assert "Ray at other:1" in starting_ray(Resources(address="other:1"))
    assert "on this machine" in starting_ray(Resources(address="local"))


def test_local_trials_need_no_ray(task: Task, space: Space, tmp_path: Path) -> None:
    """The name "local" stands for this process; Ray isn't even imported for it."""
    bench = Bench(task, space.sites, (), ())
    workers = start_executor("local", bench, Resources(), Handover(tmp_path))
    assert isinstance(workers, LocalExecutor)
    workers.close()
    code = "import sys, paretopress.search.executors; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
