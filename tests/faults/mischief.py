"""What the tests of faults share: a technique that does to its worker what it is told to, and a real Ray cluster."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster
from torch import nn

from paretopress.compressors.base import Compressor, Params
from paretopress.compressors.draft import Context, Draft
from paretopress.search.engine import Engine
from paretopress.search.handover import Handover
from paretopress.search.journal import Journal
from paretopress.search.optuna_samplers import OptunaSampler
from paretopress.search.plan import make_plan
from paretopress.search.ray_executor import RayExecutor
from paretopress.search.record import identity
from paretopress.search.resources import Resources
from paretopress.search.result import Result
from paretopress.search.store import Store
from paretopress.search.training_saves import FileSaves
from paretopress.search.trial import Bench, Job
from paretopress.spaces.knob import Knob
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task


class Locked(Exception):  # noqa: N818 - what is tested is that it won't pickle
    """An exception that can't be pickled."""

    def __init__(self) -> None:
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


def fail(error: Exception) -> None:
    """Raise an error."""
    raise error


def leak() -> None:
    """Take more and more memory."""
    held = []
    while True:
        held.append(mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE))
        held[-1].write(b"x" * 50_000_000)
        time.sleep(0.05)


def fill() -> None:
    """Write a file that is larger than any disk."""
    with tempfile.NamedTemporaryFile(delete=False) as big:
        os.posix_fallocate(big.fileno(), 0, 1 << 50)


def hurry() -> None:
    """Let training keep its state after every step."""
    FileSaves.due = lambda self: True  # type: ignore[method-assign]  # in this worker


DOINGS: dict[str, Callable[[], object]] = {
    "raise": lambda: fail(RuntimeError("as it was told to")),
    "unpicklable": lambda: fail(Locked()),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "sleep": lambda: time.sleep(10_000),
    "hold": lambda: ctypes.PyDLL(None).sleep(10_000),  # and hold the interpreter's lock
    "slow": lambda: time.sleep(12),
    "leak": leak,
    "fill": fill,
    "hurry": hurry,
}
DEEDS = ("none", "nan", "wait", *DOINGS)


class Mischief(Compressor):
    """Does a deed in the worker, and nothing in the process that made it.

    Parameters
    ----------
    folder
        Notes each time that a trial began, and holds back those that ``wait`` until a file ``go`` is there.
    """

    name = "mischief"
    stage = Stage.OPERATOR
    kinds = frozenset({"model"})
    summary = "a test's"

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, os.getpid()

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return which deed, and a number that makes trials differ."""
        return (Knob("deed", DEEDS), Knob("number", tuple(range(100))))

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Do it."""
        deed, number = str(params["deed"]), int(params["number"])
        with torch.no_grad():
            next(draft.model.parameters()).mul_(1 - number / 1000)
        if os.getpid() == self.home:
            return
        with (self.folder / "began").open("a") as file:
            file.write(f"{deed} {number} {os.getpid()}\n")
        if deed == "nan":
            with torch.no_grad():
                next(draft.model.parameters()).fill_(float("nan"))
        while deed == "wait" and not (self.folder / "go").exists():
            time.sleep(0.05)
        DOINGS.get(deed, lambda: None)()


def deed(name: str, number: int = 0) -> Recipe:
    """Return the recipe of a trial that does something."""
    return Recipe.of([Step.of(MODEL, "mischief", deed=name, number=number)])


class Linear(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Counted(Linear):
    """Notes each step of training, and takes its time."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = str(file)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with open(self.file, "ab") as file:
                file.write(b".")
            time.sleep(0.01)
        return self.fc(x)


@dataclass
class Run:
    """A run of given recipes on a cluster, and nothing else.

    Attributes
    ----------
    task
        Of the run.
    folder
        The run's.
    resources
        Of its trials.
    more
        Techniques beside the test's.
    """

    task: Task
    folder: Path
    resources: Resources

    more: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, recipes: list[Recipe], budget: int | None = None) -> dict[Recipe, Result]:
        """Run them, or go on with what an earlier call left; return all results by recipe."""
        has_run = (self.folder / "journal.jsonl").exists()
        trials = budget or 1 + len(recipes)
        space = Space.from_task(self.task, {"mischief": {}, **self.more})
        plan = make_plan(
            self.task, sampler="random", budget=trials, run=self.folder, existing="resume" if has_run else "refuse"
        )
        bench = Bench(self.task, space.sites, plan.metrics, plan.objectives)
        handover = Handover(self.folder)
        with Journal(self.folder, identity(self.task, space, plan.objectives)) as journal:
            handover.open()
            if not journal.results:
                journal.finish([(bench.run(Job(0, Recipe(), 0, "baseline")).result, {})])
            executor = RayExecutor(bench, self.resources, handover)
            try:
                sampler = OptunaSampler(space, plan.objectives, "random", 0)
                Engine(plan, space, executor, journal, Store(self.folder), handover, sampler).run(recipes)
            finally:
                executor.close()
            return {r.recipe: r for r, _ in journal.results}


def node_options(**more: Any) -> dict[str, Any]:
    """Return what a node of a small cluster is started with."""
    return {"object_store_memory": 80 * 1024 * 1024, "include_dashboard": False, **more}


class Nodes:
    """A cluster whose head takes no trials, and its nodes, which take one at a time each unless told otherwise."""

    def __init__(self, nodes: int, at_once: int = 1, **head: Any) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node_options(**head)})
        self.added: list[Any] = []
        self.wanted, self.at_once = nodes, at_once
        self.restore()

    def restore(self) -> None:
        """Have as many nodes as at the start, all in order."""
        self.added += [self.add() for _ in range(self.wanted - len(self.added))]

    def lose(self, node: Any) -> None:
        """Take a node away that was killed or frozen, or isn't wanted any more."""
        self.cluster.remove_node(node, allow_graceful=False)
        if node in self.added:
            self.added.remove(node)

    def add(self, **more: Any) -> Any:
        """Add a node."""
        options = node_options(**{"num_cpus": self.at_once, **more})
        options.pop("include_dashboard")
        return self.cluster.add_node(**options)

    @property
    def address(self) -> str:
        """Where the cluster is."""
        return str(self.cluster.address)

    def close(self) -> None:
        """Stop it."""
        ray.shutdown()
        self.cluster.shutdown()


DRIVER = """
    import sys, pathlib
    sys.path.insert(0, {helpers!r})
    import torch
    from mischief import Linear, Mischief, Run, deed
    from paretopress.compressors.base import register
    from paretopress.search import Resources, Task
    from paretopress.spaces.errors import RunError

    folder = pathlib.Path({folder!r})
    register(Mischief(folder))
    torch.manual_seed(0)
    data = [(torch.randn(64, 4), torch.randint(0, 3, (64,)))]
    task = Task(Linear(), validation=data, name="faults")
    try:
        results = Run(task, folder / "run", Resources(address={address!r}, workers=2))({recipes})
        print("trials", len(results), *sorted(f"{{r.number}}:{{r.status}}" for r in results.values()))
    except RunError as error:
        if {caught}:
            print("refused:", error)
        else:
            raise
"""


class Drivers:
    """Processes that run recipes, each on a cluster or on a Ray of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def __call__(
        self, recipes: str, address: str | None = None, caught: bool = True, **environment: str
    ) -> subprocess.Popen[str]:
        """Start one."""
        helpers, script = str(Path(__file__).parent), self.folder / "driver.py"
        text = DRIVER.format(helpers=helpers, folder=str(self.folder), address=address, recipes=recipes, caught=caught)
        script.write_text(textwrap.dedent(text))
        process = subprocess.Popen(
            [sys.executable, str(script)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )  # fmt: skip
        self.started.append(process)
        return process


def until(done: Callable[[], bool], seconds: float = 200) -> None:
    """Wait until something is done."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def began(mischief: Mischief) -> list[str]:
    """Return the processes of the trials that have begun."""
    file = mischief.folder / "began"
    return [line.split()[2] for line in file.read_text().splitlines()] if file.exists() else []
