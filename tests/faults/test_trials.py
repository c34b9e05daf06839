"""Whatever a trial does, it costs that trial and nothing else."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from mischief import Mischief, Nodes, Run, deed

from paretopress.search import ray_pool
from paretopress.search.engine import MAX_LOSSES
from paretopress.search.resources import Resources
from paretopress.spaces.task import Task

#: What is said of each; the others end well.
REASONS = {
    "raise": "as it was told to",
    "unpicklable": "it holds a lock",
    "nan": "not finite",
    "exit": f"its worker died .* .{MAX_LOSSES} times.$",
    "kill": f"its worker died .* .{MAX_LOSSES} times.$",
    "segfault": f"its worker died .* .{MAX_LOSSES} times.$",
    "sleep": "it got no further for 6 s",
    "hold": f"its worker answered nothing for 6 s .{MAX_LOSSES} times.$",
    "leak": "more than the 0.60 GB allowed",
    "fill": "File too large",
}


def test_each_misdeed_costs_its_own_trial(
    task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, deaths, hangs with and without the interpreter's lock, leaks and floods fail one trial each, with the
    reason; every other trial of the run has its result, once.
    """
    monkeypatch.setattr(ray_pool, "STUCK", 6.0)
    monkeypatch.setattr(ray_pool, "MUTE", 6.0)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    recipes = [deed(name) for name in REASONS] + [deed("none", n) for n in range(1, 7)]
    results = Run(task, tmp_path / "run", Resources(address=nodes.address, memory="600 MB"))(recipes)
    assert len(results) == 1 + len(recipes)
    for name, reason in REASONS.items():
        result = results[deed(name)]
        assert result.status == "failed", name
        assert re.search(reason, result.error), result.error
    assert {results[r].status for r in recipes[len(REASONS) :]} == {"ok"}
    assert all(before[k].equal(v) for k, v in task.model.state_dict().items())
    began = [line.split()[0] for line in (mischief.folder / "began").read_text().splitlines()]
    assert {name: began.count(name) for name in ("raise", "leak", "sleep", "fill", "none")} == {
        "raise": 1, "leak": 1, "sleep": 1, "fill": 1, "none": 6,
    }  # fmt: skip
    [session] = [path.name.partition("-")[2] for path in (tmp_path / "run" / "pending").glob("driver-*")]
    assert not list(Path(tempfile.gettempdir()).glob(f"paretopress-{session}-*/*"))


def test_a_deadline_is_kept(task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path) -> None:
    """A trial that takes longer than it may is killed; the next one has a worker again."""
    resources = Resources(address=nodes.address, minutes=0.1)
    results = Run(task, tmp_path / "run", resources)([deed("slow"), deed("none", 1)])
    assert results[deed("slow")].error == "it ran for more than 0.1 min (minutes of a trial)"
    assert results[deed("none", 1)].status == "ok"
