"""What real workers must not do to a run: change its model, tell it nonsense, or go on with another one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mischief import Counted, Mischief, Nodes, Run, deed, until

from paretopress.evaluators.base import Evaluator, Measurement, Subject
from paretopress.search import Resources, Space, Task, search
from paretopress.search.result import Objective
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.errors import RunError
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import MODEL

ACCURACY, SIZE = Objective("accuracy", "maximize", True), Objective("size", "minimize")
MODULE = """
import torch
from torch import nn

class Side(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.relu(self.norm(self.one(x))))
"""


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """A task whose model's class is in a module that no worker can find."""
    (tmp_path / "side_of_the_script.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("side_of_the_script")
    torch.manual_seed(0)
    data = [(torch.randn(64, 4), torch.randint(0, 3, (64,))) for _ in range(2)]
    yield Task(module.Side(), validation=data, train=data, name="side")
    del sys.modules["side_of_the_script"]


class Odd(Evaluator):
    """A metric that has no value for some models: it is infinite, or raises."""

    name, unit, direction, cost = "odd", "", "minimize", 0.1
    summary = "a test's"

    def measure(self, subject: Subject) -> Measurement:
        """Return what the share of zeros says."""
        weights = torch.cat([p.detach().flatten() for p in subject.model.parameters() if p.ndim > 1])
        zeros = float((weights == 0).float().mean())
        if zeros > 0.7:
            raise ValueError("it has no value here")
        return Measurement(float("inf") if zeros > 0.4 else zeros, self.unit)


def test_fine_tuning_on_workers_leaves_the_model_as_it_was(side: Task, nodes: Nodes, tmp_path: Path) -> None:
    """Trials that train share the weights without a copy; the original stays byte-identical, and this process
    makes the same models of it afterwards. Its class is in a side module, which goes with the task.
    """
    before = {k: v.clone() for k, v in side.model.state_dict().items()}
    space = Space.from_task(
        side, {"integer": {"bits": [8, 4]}, "distillation": {"steps": [3, 6], "learning_rate": [0.1]}}
    )
    resources = Resources(address=nodes.address)
    first = search(side, space, run=tmp_path / "a", budget=10, sampler="random", resources=resources, progress=False)
    assert all(r.status != "failed" for r in first.results)
    assert sum(any(s.technique == "distillation" for s in r.recipe.steps) for r in first.results) >= 3
    assert all(before[k].equal(v) for k, v in side.model.state_dict().items())
    bench = Bench(side, space.sites, metrics_for(side, ["accuracy", "size"]), (ACCURACY, SIZE))
    done = [r for r in first.results if r.status == "ok"]
    assert len(done) >= 5
    assert all(bench.run(Job(r.number, r.recipe, r.seed)).result.checksum == r.checksum for r in done)


def test_training_goes_on_with_another_worker(mischief: Mischief, nodes: Nodes, tmp_path: Path) -> None:
    """Its worker is killed in the midst of it: the next one repeats a few steps at most, and ends with the very model
    that training without a fault ends with.
    """
    steps = 600
    torch.manual_seed(0)
    data = [(torch.randn(64, 4), torch.randint(0, 3, (64,))) for _ in range(7)]
    task = Task(Counted(tmp_path / "steps"), validation=data, train=data, name="long")
    training = Step.of(MODEL, "distillation", steps=steps, learning_rate=0.01, temperature=1.0, weight=0.5)
    recipe = Recipe.of([*deed("hurry").steps, training])

    def trained() -> int:
        return (tmp_path / "steps").stat().st_size if (tmp_path / "steps").exists() else 0

    def kill() -> None:
        until(lambda: trained() > steps // 3)
        os.kill(int((mischief.folder / "began").read_text().split()[-1]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    grids = {"distillation": {"steps": [steps], "learning_rate": [0.01], "temperature": [1.0], "weight": [0.5]}}
    found = Run(task, tmp_path / "run", Resources(address=nodes.address), grids)([recipe])[recipe]
    thread.join()
    assert found.status == "ok"
    assert len((mischief.folder / "began").read_text().splitlines()) == 2
    assert steps <= trained() < steps + 20  # none is repeated if it was killed between two steps
    space = Space.from_task(task, {"mischief": {}, **grids})
    bench = Bench(task, space.sites, metrics_for(task, ["accuracy", "size"]), (ACCURACY, SIZE))
    assert bench.run(Job(1, recipe, found.seed)).result.checksum == found.checksum


def test_a_metric_without_a_value_costs_its_trials(side: Task, nodes: Nodes, tmp_path: Path) -> None:
    """Infinite or missing, the trial has failed with the reason; each recipe is tried once, and there is a front."""
    space = Space.from_task(side, {"magnitude": {"density": [0.9, 0.5, 0.2]}})
    front = search(
        side, space, ["accuracy", "odd"], metrics=[Odd()], run=tmp_path / "r", budget=16, sampler="random", seed=1,
        resources=Resources(address=nodes.address), progress=False, racing=False,
    )  # fmt: skip
    errors = {r.error for r in front.results if r.status == "failed"}
    assert "ValueError: odd is inf" in errors
    assert "ValueError: it has no value here" in errors
    assert len({r.recipe.digest for r in front.results}) == len(front.results) == 16
    assert len(front) >= 1


def test_another_space_is_refused(task: Task, mischief: Mischief, nodes: Nodes, tmp_path: Path) -> None:
    """A run that was started on the cluster doesn't go on with other choices, and says what differs."""
    run = Run(task, tmp_path / "run", Resources(address=nodes.address))
    run([deed("none", 1)])
    other = Space.from_task(task, {"integer": {"bits": [8, 4]}})
    with pytest.raises(RunError, match="search space"):
        search(
            task, other, run=tmp_path / "run", existing="resume", budget=4, progress=False,
            resources=Resources(address=nodes.address),
        )  # fmt: skip
