"""A machine that runs out of memory: Ray kills whoever took the most, and what becomes of that trial."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mischief import Mischief, Nodes, Run, deed

from paretopress.search import Resources, Task
from paretopress.search.journal import FILE

#: What a test may take beyond what the machine uses already, in bytes: several times what the nodes and all workers
#: of tests beside this one come to (2.5e9 was not enough: a worker was killed before its trial began).
ROOM = 6e9


@pytest.fixture
def small() -> Iterator[Nodes]:
    """A node for two trials on which Ray finds the memory full soon. One, as a machine has: of two nodes each would
    kill one of its own for the same memory, and the second trial for what the first one held.
    """
    memory = psutil.virtual_memory()
    share = (memory.total - memory.available + min(ROOM, memory.available / 2)) / memory.total
    found = Nodes(1, at_once=2, _system_config={"memory_usage_threshold": share, "memory_monitor_refresh_ms": 100})
    yield found
    found.close()


def test_a_trial_that_always_takes_all_memory_fails_alone(
    task: Task, mischief: Mischief, small: Nodes, tmp_path: Path
) -> None:
    """Killed for it beside others it runs once more with nothing beside it, and has failed when that isn't enough; all
    others have their results.
    """
    recipes = [deed("leak"), *(deed("none", n) for n in range(1, 5))]
    results = Run(task, tmp_path / "run", Resources(address=small.address))(recipes)
    assert results[deed("leak")].status == "failed"
    assert results[deed("leak")].error == "its machine ran out of memory (2 times)"
    assert {results[r].status for r in recipes[1:]} == {"ok"}
    began = [line.split()[0] for line in (mischief.folder / "began").read_text().splitlines()]
    assert began.count("leak") == 2
    assert began[-1] == "leak"  # at the end, alone
    lines = (tmp_path / "run" / FILE).read_text().splitlines()
    assert sum("its machine ran out of memory" in line and '"lost"' in line for line in lines) == 2
