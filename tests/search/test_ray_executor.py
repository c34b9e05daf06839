"""Trials on a real Ray: equal to local ones, shipped without files, surviving their workers' deaths."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn

from paretopress.search import Resources, Space, Task, open_front, search
from paretopress.search.executor import Lost
from paretopress.search.handover import Handover
from paretopress.search.racing import Race
from paretopress.search.ray_executor import RayExecutor
from paretopress.search.ray_shipping import pack, unpack
from paretopress.search.result import Objective
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.errors import RunError, SettingError
from paretopress.spaces.recipe import Recipe

GOALS = (Objective("accuracy", "maximize"), Objective("size", "minimize"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for this file; the executor leaves a Ray alone that it didn't start."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def bench_for(task: Task, space: Space) -> Bench:
    """Return a bench with the default metrics."""
    return Bench(task, space.sites, metrics_for(task, ["accuracy", "size", "macs"]), GOALS, threads=1)


def collect(executor: RayExecutor, count: int) -> list[Any]:
    """Return the next ``count`` trials that ended: as a rule `Finished`."""
    found: list[Any] = []
    end = time.monotonic() + 120
    while len(found) < count and time.monotonic() < end:
        found += executor.wait(1.0)
    return found


def test_tensors_travel_apart_and_arrive_as_copies() -> None:
    """Shared tensors stay shared, values are equal, and writing into the copy leaves the original's arrays alone."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    before = copy.deepcopy(model.state_dict())
    blob, arrays = pack((model, torch.arange(4)))
    assert sum(a.nbytes for a in arrays) == (9 + 3 + 3) * 4 + 4 * 8
    assert len(blob) < 3000
    again, numbers = unpack(blob, arrays)
    assert again[0].weight is again[1].weight
    assert torch.equal(numbers, torch.arange(4))
    with torch.no_grad():
        again[0].weight.zero_()
    assert all(torch.equal(before[k], v) for k, v in unpack(blob, arrays)[0].state_dict().items())


@pytest.mark.usefixtures("cluster")
def test_a_worker_gives_what_this_process_gives(task: Task, space: Space, tmp_path: Path) -> None:
    """The same recipe and seed have the same figures and the same file on a worker and here."""
    bench = bench_for(task, space)
    executor = RayExecutor(bench, Resources(workers=2), Handover(tmp_path))
    try:
        jobs = [Job(i, space.uniform(level), seed=5) for i, level in enumerate((0.0, 1.0))]
        for job in jobs:
            executor.submit(job, [])
        remote = {f.result.number: f for f in collect(executor, 2)}
    finally:
        executor.close()
    for job in jobs:
        local = bench.run(job)
        assert remote[job.number].result.status == "ok"
        assert remote[job.number].result.measurements == local.result.measurements
        assert remote[job.number].data == local.data


@pytest.mark.usefixtures("cluster")
def test_a_worker_stops_what_this_process_stops(task: Task, space: Space, tmp_path: Path) -> None:
    """In a race, too, a trial's outcome doesn't depend on where it runs: the same estimate from the same examples."""
    bench = bench_for(task, space)
    bench.run(Job(0, Recipe()))  # so that what the baseline does on each example travels along
    goals = {o.name: o for o in GOALS}
    front = [[goals["accuracy"].loss(0.9), goals["size"].loss(1.0)]]
    job = Job(1, space.uniform(1.0, {"integer": 1.0, "magnitude": 1.0}), race=Race())
    executor = RayExecutor(bench, Resources(workers=1), Handover(tmp_path))
    try:
        executor.submit(job, front)
        [remote] = collect(executor, 1)
    finally:
        executor.close()
    local = bench.run(job, front)
    assert remote.result.status == local.result.status == "stopped"
    assert remote.result.measurements == local.result.measurements
    assert remote.result.work == local.result.work
    assert remote.data is None


@pytest.mark.usefixtures("cluster")
def test_trials_that_train_leave_the_next_ones_unchanged(task: Task, space: Space, tmp_path: Path) -> None:
    """After training trials, the baseline on the same worker is byte-identical to the one before."""
    executor = RayExecutor(bench_for(task, space), Resources(workers=1), Handover(tmp_path))
    try:
        files = []
        for number, recipe in enumerate((Recipe(), space.uniform(1.0), space.uniform(0.5), Recipe())):
            executor.submit(Job(number, recipe), [])
            files.append(collect(executor, 1)[0].data)
    finally:
        executor.close()
    assert files[0] is not None
    assert files[0] == files[3]


@pytest.mark.usefixtures("cluster")
def test_dominated_files_are_not_sent(task: Task, space: Space, tmp_path: Path) -> None:
    """A result that the known front dominates comes back without its file."""
    executor = RayExecutor(bench_for(task, space), Resources(workers=1), Handover(tmp_path))
    try:
        executor.submit(Job(0, Recipe()), [[-1.0, 1.0]])
        [finished] = collect(executor, 1)
    finally:
        executor.close()
    assert finished.result.status == "ok"
    assert finished.data is None


class Killer(nn.Module):
    """Kills its own process in forward when a marker file exists, then (or always) works."""

    def __init__(self, marker: str, once: bool, pid: int) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.marker, self.once, self.pid = marker, once, pid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.marker, str) and os.getpid() != self.pid and os.path.exists(self.marker):
            if self.once:
                os.unlink(self.marker)
            os.kill(os.getpid(), 9)
        return self.fc(x)


@pytest.mark.usefixtures("cluster")
def test_a_dead_worker_costs_at_most_its_trial(tmp_path: Path) -> None:
    """A trial whose worker is killed is given back as lost, to be run again, and the next one has a new worker."""
    marker = tmp_path / "kill"
    data = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    task = Task(Killer(str(marker), True, os.getpid()), validation=data, name="killer")
    bench = bench_for(task, Space.from_task(task, {"integer": {}}))
    executor = RayExecutor(bench, Resources(workers=1), Handover(tmp_path))
    try:
        marker.touch()
        executor.submit(Job(0, Recipe()), [])
        [first] = collect(executor, 1)
        executor.submit(Job(1, Recipe()), [])
        [second] = collect(executor, 1)
    finally:
        executor.close()
    assert isinstance(first, Lost)
    assert first.fate == "again"
    assert "died" in first.reason
    assert second.result.status == "ok"


@pytest.mark.usefixtures("cluster")
def test_more_than_the_cluster_has_is_refused(task: Task, space: Space, tmp_path: Path) -> None:
    """Infeasible resources are an error at once, not a wait for ever."""
    with pytest.raises(RunError, match="Ask for less"):
        RayExecutor(bench_for(task, space), Resources(cpus=64), Handover(tmp_path))
    with pytest.raises(SettingError, match="workers"):
        Resources(workers=0)


SCRIPT = """
    import pathlib, shutil
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from helper_module import Double
    from kit import Half
    from paretopress.search import Metric, Resources, Space, Task, search

    pathlib.Path("helper_module.py").unlink()  # as on a machine that has none of it
    shutil.rmtree("kit")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), Double(), Half(), nn.Linear(16, 3))
        def forward(self, x):
            return self.net(x)

    def error(outputs, targets):
        return float((outputs.argmax(1) != targets).float().mean())

    torch.manual_seed(0)
    x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    task = Task(Net(), loader, loader, loader, metric=Metric("error", error, "minimize"), name="script")
    front = search(task, Space.from_task(task, "quantize"), ["error", "size"], budget=6, resources=Resources(workers=2))
    model = front.pick(max_accuracy_drop=1.0, minimise="size").load()
    print("loaded", tuple(model(x).shape), "failed", len(front.errors))
"""


def test_a_model_and_metric_of_the_script_itself_work_on_workers(tmp_path: Path) -> None:
    """Classes and functions of ``__main__``, of a module beside the script and of a package with relative imports
    travel to Ray's workers, which can't import them.
    """
    (tmp_path / "helper_module.py").write_text(
        "from torch import nn\nclass Double(nn.Module):\n    def forward(self, x):\n        return 2 * x\n"
    )
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").write_text("from .layers import Half\n")
    (tmp_path / "kit" / "amounts.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "kit" / "layers.py").write_text(
        "from torch import nn\nfrom .amounts import half\n"
        "class Half(nn.Module):\n    def forward(self, x):\n        return half(x)\n"
    )
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "loaded (64, 3) failed 0" in done.stdout
    assert len(open_front(tmp_path / "runs/script").results) == 6


@pytest.mark.usefixtures("cluster")
def test_search_on_two_workers_fills_its_budget(task: Task, space: Space, tmp_path: Path) -> None:
    """A run on Ray ends with its budget of different recipes, none lost, none twice."""
    front = search(
        task, space, budget=9, run=tmp_path / "r", resources=Resources(workers=2), progress=False, sampler="nsga2"
    )
    assert len(front.results) == 9 == len({r.recipe for r in front.results})
    assert sorted(r.number for r in front.results) == list(range(9))
