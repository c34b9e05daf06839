"""An executor by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from paretopress.search.executor import LocalExecutor
from paretopress.search.executors import start_executor
from paretopress.search.handover import Handover
from paretopress.search.resources import Resources
from paretopress.search.trial import Bench
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


def test_local_trials_need_no_ray(task: Task, space: Space, tmp_path: Path) -> None:
    """The name "local" stands for this process; Ray isn't even imported for it."""
    bench = Bench(task, space.sites, (), ())
    workers = start_executor("local", bench, Resources(), Handover(tmp_path))
    assert isinstance(workers, LocalExecutor)
    workers.close()
    code = "import sys, paretopress.search.executors; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
