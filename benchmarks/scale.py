"""How far one driver goes: its rate of trials, its memory, and how long it takes to resume.

Four parts:

workers
    Real Ray workers on trials that sleep for a second: the share of the workers' time that is not a trial's own.
driver
    The real engine, sampler and journal, with trials that take no time: trials per second.
cluster
    The real engine in simulated time (`SimulatedExecutor`): 1,000 and 10,000 workers on trials of 20 seconds. What the
    driver takes passes in simulated time, too, so the share of the workers' time that is busy says whether it keeps up.
long
    A journal of 50,000 trials in 60 dimensions: the seconds until a new process asks for the next one, and its memory.

The dimensions are a residual network's decisions, as many as are just above 60 and 200; its profile is a real one, and
what trials tell is made up (see `ask.py`).

Bars
----
workers
    Efficiency with 1, 2, 4 and 8 workers at least 95 %.
driver
    At least 100 trials per second after 5,000 trials, in 60 and in 200 dimensions.
cluster
    1,000 workers are busy for at least 90 % of the time between the first start and the last; 10,000 are reported.
long
    At most 1 GB of memory, and at most 30 seconds.

Run: ``python benchmarks/scale.py [--quick] [--parts workers,...] [--json FILE]``; exits 1 when a bar is missed.
``--quick`` runs fewer trials, and says how many.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ask import ACCURACY, FEW, SIZE, Trials, profile_of
from torch import nn
from verdict import Bar, arguments, conclude, terminal

from paretopress.compressors.base import Compressor, Params, register
from paretopress.compressors.draft import Context, Draft
from paretopress.evaluators.base import Measurement
from paretopress.search import Resources, Space, Task
from paretopress.search.engine import Engine
from paretopress.search.executor import Executor
from paretopress.search.handover import Handover
from paretopress.search.journal import Journal
from paretopress.search.optuna_samplers import OptunaSampler
from paretopress.search.plan import Budget, Plan
from paretopress.search.profile_sampler import ProfileSampler
from paretopress.search.ray_executor import RayExecutor
from paretopress.search.record import SCHEMA
from paretopress.search.result import Result
from paretopress.search.sampler import Sampler
from paretopress.search.simulation import SimulatedExecutor
from paretopress.search.store import Store
from paretopress.search.trial import Bench, Finished, Job, metrics_for
from paretopress.spaces.knob import Knob
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.site import Site
from paretopress.spaces.stage import Stage

PARTS = ("workers", "driver", "cluster", "long")
EFFICIENCY, RATE, BUSY, MEMORY, RESUME = 0.95, 100.0, 0.90, 1.0, 30.0
#: Blocks of a stage of the network, for so many dimensions at least.
BLOCKS = {60: 2, 200: 8}
EXAMPLES = 360


@dataclass(frozen=True)
class Scale:
    """How much is run: trials of each worker, of the driver, of each worker of a cluster, and of a journal."""

    each: int
    driver: int
    rounds: int
    journal: int


FULL, QUICK = Scale(20, 5_000, 6, 50_000), Scale(8, 800, 3, 5_000)


class Sleep(Compressor):
    """Sleeps."""

    name, stage, kinds, summary = "sleep", Stage.OPERATOR, frozenset({"model"}), "a benchmark's"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        """Return a number that makes trials differ."""
        return (Knob("number", tuple(range(1000))),)

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Sleep for a second."""
        time.sleep(1.0)


def session(
    space: Space, folder: Path, executor: Executor, sampler: Sampler, base: Result, trials: int, **more: Any
) -> Engine:
    """Return an engine in a folder, which may hold a journal."""
    plan = Plan(
        (ACCURACY, SIZE), ACCURACY, (), (), Budget(trials), "profile", 0, folder, "resume", "unfinished", "ray",
        Resources(),
    )  # fmt: skip
    handover = Handover(folder)
    journal = Journal(folder, {"schema": SCHEMA})
    handover.open()
    if not journal.results:
        journal.finish([(base, {})])
    return Engine(plan, space, executor, journal, Store(folder), handover, sampler, **more)


def efficiency(workers: int, each: int, folder: Path) -> float:
    """Return the share of Ray workers' time, between the first start and the last end, that trials slept for."""
    data = [(torch.randn(16, 4), torch.randint(0, 3, (16,)))]
    task = Task(nn.Linear(4, 3), validation=data, name="sleep")
    space = Space.from_task(task, {"sleep": {}})
    bench = Bench(task, space.sites, metrics_for(task, ["accuracy", "size"]), (ACCURACY, SIZE))
    base = bench.run(Job(0, Recipe(), 0, "baseline")).result
    resources = Resources(workers=workers, cpus=(os.cpu_count() or 1) / max(workers, os.cpu_count() or 1))
    executor = RayExecutor(bench, resources, Handover(folder))
    try:
        while executor.slots < workers:
            executor.wait(1.0)
        sampler = OptunaSampler(space, (ACCURACY, SIZE), "random", 0)
        engine = session(space, folder, executor, sampler, base, 1 + workers * each)
        start = time.perf_counter()
        engine.run(())
        seconds = time.perf_counter() - start
    finally:
        executor.close()
    return each / seconds


@dataclass
class Play:
    """Made-up trials of a real profile."""

    dimensions: int
    seconds: float

    def __post_init__(self) -> None:
        self.profile = profile_of(FEW, BLOCKS[self.dimensions])
        self.trials, self.choices = Trials(self.profile), self.profile.choices
        assert len(self.choices) >= self.dimensions
        self.base = self.result(Job(0, Recipe()))

    def result(self, job: Job) -> Result:
        """Return what a job comes to."""
        made = self.trials.result(job.number, self.choices.genome(job.recipe), job.recipe)
        figures = {**made.measurements, "accuracy": Measurement(made.value("accuracy"), repeats=EXAMPLES)}
        return replace(made, measurements=figures, seed=job.seed, origin=job.origin, work={"examples": EXAMPLES})

    def outcome(self, job: Job, front: list[list[float]]) -> tuple[float, Finished]:
        """Return what a simulated worker does; about a third more or less than ``seconds``, by the recipe."""
        share = 1.0 + (int(job.recipe.digest[:4], 16) / 0xFFFF - 0.5) * 2 / 3
        return self.seconds * share, Finished(self.result(job), None, job.attempt)

    def engine(self, workers: int, trials: int, folder: Path) -> tuple[Engine, SimulatedExecutor]:
        """Return an engine on simulated workers, whose driver's own time counts."""
        executor = SimulatedExecutor(workers, self.outcome, time.perf_counter)
        sampler = ProfileSampler(self.profile, (ACCURACY, SIZE), ACCURACY, self.base, (), 0)
        engine = session(self.choices.space, folder, executor, sampler, self.base, trials, clock=executor.time)
        return engine, executor


class Counter:
    """Notes what the driver has taken when so many trials have finished."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.at: list[float] = []

    def finished(self, result: Result, front: Any, running: int, feasible: bool) -> None:
        """Note it."""
        self.at.append(self._seconds())


def rate(dimensions: int, trials: int, folder: Path) -> tuple[float, float]:
    """Return trials per second of the driver, of the last tenth and of all."""
    engine, executor = Play(dimensions, 1e-3).engine(16, trials + trials // 10, folder)
    watcher = engine.watcher = Counter(lambda: executor.time() - executor.waited)
    engine.run(())
    last = trials // 10
    return last / (watcher.at[-1] - watcher.at[-1 - last]), len(watcher.at) / watcher.at[-1]


def busy(workers: int, rounds: int, folder: Path) -> tuple[float, float]:
    """Return the share of simulated workers' time, until the last trial starts, that is busy, and the trials started
    in a second.
    """
    play = Play(60, 20.0)
    engine, executor = play.engine(workers, 1 + workers * rounds, folder)
    spans: list[tuple[float, float]] = []

    def outcome(job: Job, front: list[list[float]]) -> tuple[float, Finished]:
        seconds, finished = play.outcome(job, front)
        spans.append((executor.now, seconds))
        return seconds, finished

    executor.outcome = outcome
    engine.run(())
    last = spans[-1][0]
    worked = sum(min(seconds, last - begin) for begin, seconds in spans)
    return worked / (last * workers), len(spans) / last


def write_journal(trials: int, folder: Path) -> None:
    """Write the journal of a run of random recipes."""
    play = Play(60, 1.0)
    random = np.random.default_rng(0)
    journal = Journal(folder, {"schema": SCHEMA})
    journal.finish([(play.base, {})])
    known: set[str] = {Recipe().digest}
    while len(known) < trials:
        drawn = play.choices.legal(random.integers(play.choices.counts, size=(500, len(play.choices))))
        jobs = []
        for recipe in map(play.choices.recipe, drawn):
            if recipe.digest not in known and len(known) < trials:
                jobs.append(Job(len(known), recipe, 1, "profile", None, 1, "d"))
                known.add(recipe.digest)
        if jobs:
            journal.start(jobs)
            journal.finish([(play.result(job), {}) for job in jobs])
    journal.close()


def resume(folder: Path) -> dict[str, float]:
    """Return the seconds until a run's next trial is asked for, and the memory then; in a process of its own."""
    play = Play(60, 1.0)
    start = time.perf_counter()
    engine, _ = play.engine(16, 10**9, folder)
    engine.sampler.ask()
    seconds = time.perf_counter() - start
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "memory": int(held.split()[1]) / 1e6, "most": most}


def main() -> int:
    """Run, print, judge."""
    parser = arguments(__doc__, quick="fewer trials", parts=PARTS)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.resume:
        print(json.dumps(resume(options.resume)))
        return 0
    scale, parts = QUICK if options.quick else FULL, options.parts
    console, bars, found = terminal(), [], {}
    register(Sleep())
    with tempfile.TemporaryDirectory(prefix="paretopress-") as name:
        folder = Path(name)
        if "workers" in parts:
            for workers in (1, 2, 4, 8):
                share = efficiency(workers, scale.each, folder / f"workers{workers}")
                found[f"{workers} workers"] = share
                bars.append(Bar(f"efficiency of {workers} workers, trials of 1 s", share, least=EFFICIENCY, form=".1%"))
        if "driver" in parts:
            for dimensions in BLOCKS:
                last, whole = rate(dimensions, scale.driver, folder / f"driver{dimensions}")
                found[f"{dimensions} dimensions"] = {"last tenth": last, "all": whole}
                label = f"trials per second after {scale.driver:,}, {dimensions} dimensions"
                bars.append(Bar(label, last, least=RATE))
        if "cluster" in parts:
            for workers in (1_000,) if options.quick else (1_000, 10_000):
                share, per_second = busy(workers, scale.rounds, folder / f"cluster{workers}")
                found[f"{workers} simulated workers"] = {"busy": share, "trials per second": per_second}
                console.print(f"{workers:,} simulated workers, 20 s: {share:.1%} busy, {per_second:.0f} trials/s")
                if workers == 1_000:
                    bars.append(
                        Bar("share of 1,000 simulated workers' time that is busy", share, least=BUSY, form=".1%")
                    )
        if "long" in parts:
            write_journal(scale.journal, folder / "long")
            command = [sys.executable, __file__, "--resume", str(folder / "long")]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            found["long"] = told | {"bytes": (folder / "long" / "journal.jsonl").stat().st_size}
            bars.append(Bar(f"seconds to resume {scale.journal:,} trials", told["seconds"], most=RESUME))
            bars.append(Bar(f"GB of memory at {scale.journal:,} trials", told["memory"], most=MEMORY))
    return conclude(bars, options, found)


if __name__ == "__main__":
    sys.exit(main())
