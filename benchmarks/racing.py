"""What racing saves, and what it costs.

On the ResNet-20 (the digits where its folder is absent), with channels, integers, masks, entropy coding and short
recovery training, for two objectives (accuracy and size) and for three (MACs too). Each run is a search with racing.
Every trial that it stopped is then run to its end, so that the same recipes are known without racing too.

Bars, for each sampler and set of objectives
--------------------------------------------
work saved
    Work without racing divided by work with it, for the same recipes, the median over seeds: at least 2. Work is the
    examples that went through a network: a validation or calibration example counts 1, a training example 4 (forward,
    backward and the teacher). The glances of racing itself are included.
final hypervolume
    With racing, as a share of that without, the median: at least 0.999. Error counts up to 1, size up to a quarter of
    the original's, MACs up to the original's.
wrongly stopped
    Of the recipes that are non-dominated in the end without racing, the share that it stopped, over all seeds: at most
    2 %.

Also printed, as medians and ranges over seeds: the work saved if it were known beforehand which recipes a front would
keep when they are tried, all others costing the first slice (with batch norm a pass for its statistics and the first
slice with each of three sets; no race of this kind saves more); and seconds of the trials, without racing divided by
with it.

A search without racing is told more, so its sampler goes another way. The full run searches for two objectives
without racing too, and prints the work after which that search has reached its last hypervolume, divided by what racing
takes to reach it ("to the same front"). Where racing hasn't when it has worked as much, it goes no further, and the
figure is below 1. That says how the two compare on their own ways; with samplers that listen to results it varies by
chance.

Run: ``python benchmarks/racing.py [--quick] [--json FILE]``; exits 1 when a bar is missed. Runs go side by side, one a
core; the full run takes hours. Each run is written to ``records/racing.jsonl``, so that all goes on where it was
stopped; what was recorded counts as long as the code and the machine are the same.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

from record import Record, made, source
from resnet20 import load
from rich.table import Table
from torch.nn.modules.batchnorm import _BatchNorm
from verdict import Bar, arguments, conclude, span, terminal

from paretopress.search import Space
from paretopress.search.engine import Engine
from paretopress.search.executor import LocalExecutor
from paretopress.search.handover import Handover
from paretopress.search.journal import Journal
from paretopress.search.pareto import hypervolume, nondominated
from paretopress.search.plan import Budget, Plan, make_plan
from paretopress.search.preparation import make_sampler
from paretopress.search.progress import Progress
from paretopress.search.record import identity
from paretopress.search.result import Result
from paretopress.search.start import starting_recipes
from paretopress.search.store import Store
from paretopress.search.trial import Bench, Job
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.task import Task

SAVED, KEPT, WRONG = 2.0, 0.999, 0.02
SAMPLERS = ("random", "nsga2", "profile")
TECHNIQUES = {
    "channels": {}, "integer": {}, "magnitude": {}, "entropy": {},
    "distillation": {"steps": [5, 10, 20], "learning_rate": [0.0003, 0.001, 0.003]},
}  # fmt: skip
COSTS = ("size", "macs")
#: Reference point: error, and shares of the baseline's costs.
BOX = (1.0, 0.25, 1.0)
#: Passes of a training example: forward, backward (two) and the teacher's.
TRAINING = 4
#: Trials that racing goes on by while it hasn't reached the other search's hypervolume.
FURTHER = 5
RECORD = Record("racing")
FIGURES = ("saved", "could be saved", "seconds saved", "to the same front", "kept")


@dataclass(frozen=True)
class Run:
    """One search with racing, and what becomes of it without."""

    sampler: str
    seed: int
    costs: int
    trials: int
    compared: bool
    """Whether a search without racing is run too."""

    @property
    def name(self) -> str:
        """The bars' name: all seeds share it."""
        return f"{self.sampler}, {1 + self.costs} objectives"


class Track:
    """Where one search is run.

    Parameters
    ----------
    run
        What to run.
    task
        The model and its data.
    """

    def __init__(self, run: Run, task: Task) -> None:
        self.run, self.task = run, task
        self.space = Space.from_task(task, TECHNIQUES)
        self.goals = (task.metric.name, *COSTS[: run.costs])
        self.examples = sum(len(target) for _, target in task.validation)
        self.calibration = sum(len(target) for _, target in task.calibration)
        self.slice = sum(len(target) for _, target in next(iter(task.validation.slices())))
        norms = any(isinstance(m, _BatchNorm) for m in task.model.modules())
        self.look = self.calibration + 3 * self.slice if norms else self.slice

    def plan(self, racing: bool, folder: Path) -> Plan:
        """Return the settings of a search; the baseline is one of its trials."""
        return make_plan(
            self.task, self.goals, budget=1 + self.run.trials, sampler=self.run.sampler, seed=self.run.seed,
            run=folder, executor="local", racing=racing,
        )  # fmt: skip

    @contextmanager
    def search(self, racing: bool) -> Iterator[tuple[Engine, Bench]]:
        """Give a search that has spent its budget."""
        with tempfile.TemporaryDirectory() as place:
            plan = self.plan(racing, Path(place) / "run")
            bench = Bench(self.task, self.space.sites, plan.metrics, plan.objectives)
            baseline = bench.run(Job(0, Recipe(), plan.seed, "baseline")).result
            local, silent = LocalExecutor(bench), Progress(plan.budget, plan.objectives, False)
            with Journal(plan.folder, identity(self.task, self.space, plan.objectives)) as journal:
                journal.finish([(baseline, {})])
                sampler = make_sampler(plan, self.task, self.space, baseline, local, silent)
                store, handover = Store(plan.folder), Handover(plan.folder)
                engine = Engine(plan, self.space, local, journal, store, handover, sampler)
                engine.run(starting_recipes(self.space) if plan.sampler != "profile" else ())
                yield engine, bench

    def play(self) -> dict[str, float]:
        """Return what racing saves and loses."""
        slow: list[Result] = []
        if self.run.compared:
            with self.search(racing=False) as (engine, _):
                slow = list(engine.standing.results.values())
        with self.search(racing=True) as (engine, bench):
            raced = list(engine.standing.results.values())
            known = {r.recipe.digest: r for r in slow}
            full = [known.get(r.recipe.digest) or self.unraced(r, bench) for r in raced]
            found = self.figures(raced, full)
            if slow:
                found["to the same front"] = self.to_the_same_front(slow, engine)
        return found

    def unraced(self, result: Result, bench: Bench) -> Result:
        """Return a trial without racing. One that wasn't stopped is known: nobody would have judged it."""
        if result.status == "stopped":
            return bench.run(Job(result.number, result.recipe, result.seed)).result
        judged = result.timings.get("judge", 0.0)
        work = {**result.work, "examples": min(result.work["examples"], self.examples)}
        return replace(result, work=work, seconds=result.seconds - judged)

    def figures(self, raced: Sequence[Result], full: Sequence[Result]) -> dict[str, float]:
        """Return the figures of the same trials with racing and without, the baseline first."""
        best = nondominated([self.losses(r) for r in full])
        spent = sum(map(work, full))
        return {
            "trials": len(full) - 1,
            "stopped": sum(r.status == "stopped" for r in raced),
            "before or in training": sum(r.foretold for r in raced),
            "saved": spent / sum(map(work, raced)),
            "could be saved": spent / self.least(full),
            "seconds saved": sum(r.seconds for r in full) / sum(r.seconds for r in raced),
            "kept": self.reached(raced) / self.reached(full),
            "non-dominated": len(best),
            "wrong": sum(raced[i].status == "stopped" for i in best),
        }

    def to_the_same_front(self, slow: Sequence[Result], engine: Engine) -> float:
        """Return the work after which a search has reached its last hypervolume, divided by that of an engine that
        races; the engine goes on until it has, too, or has worked as much.
        """
        wanted = self.reached(slow)
        spent = self.work_until(slow, wanted)
        while (done := self.work_until(list(engine.standing.results.values()), wanted)) == math.inf:
            worked = sum(map(work, engine.standing.results.values()))
            if worked >= spent:
                return spent / worked
            engine.plan = replace(engine.plan, budget=Budget(len(engine.standing.results) + FURTHER))
            if engine.run(()) == "exhausted":
                return 0.0
        return spent / done

    def work_until(self, results: Sequence[Result], wanted: float) -> float:
        """Return the work up to the first trial with which a hypervolume is reached, infinity if it isn't."""
        done = accumulate(map(work, results))
        return next((w for i, w in enumerate(done, 1) if self.reached(results[:i]) >= wanted), math.inf)

    def least(self, full: Sequence[Result]) -> int:
        """Return the work of a race that knows beforehand which trials a front would keep at their time."""
        spent, known = 0, list[Result]()
        for result in full:
            known.append(result)
            best = nondominated([self.losses(r) for r in known])
            kept = len(known) - 1 in best
            spent += work(result) if kept else min(work(result), self.look)
            known = [known[i] for i in best]
        return spent

    def losses(self, result: Result) -> list[float]:
        """Return a trial's objectives, smaller is better; a failed one has the worst."""
        if result.status != "ok":
            return [math.inf] * len(self.goals)
        quality, *costs = (result.value(name) for name in self.goals)
        return [-quality, *costs]

    def reached(self, results: Sequence[Result]) -> float:
        """Return the hypervolume of the measured trials, the baseline first."""
        base = results[0]
        rows = [
            [1 - r.value(self.goals[0]), *(r.value(name) / base.value(name) for name in self.goals[1:])]
            for r in results
            if r.status == "ok"
        ]
        return hypervolume(rows, BOX[: len(self.goals)])


def work(result: Result) -> int:
    """Return how many examples went through a network, in forward passes."""
    return result.work["examples"] + result.work["calibrated"] + TRAINING * result.work["trained"]


def play(run: Run) -> dict[str, float]:
    """Return the figures of a run, in a process of its own."""
    task = load()
    of = {"run": asdict(run), "task": task.digest, "source": source(__file__), **made()}
    found = RECORD.find(of)
    if found is None:
        found = Track(run, task).play()
        RECORD.add(of, found)
    return found


def main() -> int:
    options = arguments(__doc__, quick="one seed, two samplers, fewer trials, accuracy and size only").parse_args()
    if options.quick:
        runs = [Run(m, 0, 1, 30, False) for m in ("random", "profile")]
    else:
        runs = [Run(m, s, c, 50, c == 1) for c in (1, 2) for s in range(5) for m in SAMPLERS]
    console, found = terminal(), dict[str, list[dict[str, float]]]()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(play, run): run for run in runs}
        for done in as_completed(waiting):
            run, figures = waiting[done], done.result()
            found.setdefault(run.name, []).append({"seed": run.seed, **figures})
            console.print(run.name, run.seed, {k: round(v, 4) for k, v in figures.items()}, highlight=False)
    found = {run.name: found[run.name] for run in runs}
    console.print(table(found))
    bars = [bar for name, figures in found.items() for bar in bars_of(name, figures)]
    return conclude(bars, options, {"runs": found})


def table(found: dict[str, list[dict[str, float]]]) -> Table:
    """Return medians and ranges over seeds."""
    shown = Table("run", *FIGURES, "wrongly stopped", title="median and range over seeds")
    for name, runs in found.items():
        columns = [[run[figure] for run in runs if figure in run] for figure in FIGURES]
        wrong, best = (sum(run[figure] for run in runs) for figure in ("wrong", "non-dominated"))
        cells = (f"{statistics.median(c):.3g}\n{span(c, '.3g')}" if c else "" for c in columns)
        shown.add_row(name, *cells, f"{wrong:.0f} of {best:.0f}")
    return shown


def bars_of(name: str, runs: list[dict[str, float]]) -> list[Bar]:
    """Return the bars of one sampler and set of objectives."""
    saved, kept, could = ([run[figure] for run in runs] for figure in ("saved", "kept", "could be saved"))
    wrong, best = (sum(run[figure] for run in runs) for figure in ("wrong", "non-dominated"))
    most = statistics.median(could)
    why = f"so many of its recipes reach the front that knowing them beforehand would save {most:.2f} times the work"
    return [
        Bar(f"{name}: work saved", statistics.median(saved), SAVED, over=saved, why=why if most < SAVED else ""),
        Bar(f"{name}: final hypervolume", statistics.median(kept), KEPT, over=kept),
        Bar(f"{name}: wrongly stopped", wrong / best, most=WRONG, form=".2%"),
    ]


if __name__ == "__main__":
    sys.exit(main())
