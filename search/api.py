"""The front door: `search`."""

from __future__ import annotations

import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ..spaces.errors import ModelError, SettingError
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.task import Task
from .constraint import Constraint, violations
from .engine import Budget, Engine
from .executor import Executor, LocalExecutor, Resources
from .final import conclude, save_front
from .folder import Existing, prepare
from .front import Front
from .journal import Journal, identity
from .progress import Progress
from .report.data import write_report
from .result import Objective, Result
from .sampler import Sampler, check_sampler
from .start import starting_recipes
from .store import Store
from .trial import Bench, Clock, Job, metrics_for

#: Measured in every trial whatever the objectives: they cost next to nothing.
ALWAYS = ("size", "macs", "bops", "parameters")


def search(
    task: Task,
    space: Space | None = None,
    objectives: Sequence[str] | None = None,
    *,
    budget: int | None = 50,
    minutes: float | None = None,
    constraints: Sequence[str] = (),
    sampler: str = "tpe",
    seed: int = 0,
    run: str | Path | None = None,
    existing: Existing = "refuse",
    executor: Literal["ray", "local"] = "ray",
    resources: Resources | None = None,
    progress: bool = True,
    about: dict[str, Any] | None = None,
    prepared: Callable[[], None] = lambda: None,
) -> Front:
    """Search the compressions of a task's model and return the Pareto front.

    Parameters
    ----------
    task
        The trained model and its data.
    space
        What may vary; by default everything (`Space.from_task`).
    objectives
        Two or more metric names; by default the task's metric and "size". See ``paretopress techniques``.
    budget
        Different recipes to try in all, the baseline among them; None for no limit.
    minutes
        Wall-clock limit of this session; trials that run at its end are abandoned.
    constraints
        Limits on front points, e.g. ``"accuracy drop <= 0.01"``, ``"size <= 300 kB"``, ``"latency <= 0.5x"``.
    sampler
        "tpe", "nsga2" or "random".
    seed
        For the sampler and everything random in trials.
    run
        The run folder, by default ``runs/<task name>``: journal, models, front and report.
    existing
        What to do if the folder holds a run: "refuse", "resume" (continue it) or "fresh" (discard it).
    executor
        "ray", or "local" for one trial at a time in this process.
    resources
        Ray's address, the number of workers, and the CPUs of a trial.
    progress
        Show progress on standard error.
    about
        Further facts for the report's section on how to repeat the run.
    prepared
        Called when the run folder is there and locked, before the first trial.

    Returns
    -------
    Front
        Its points are measured on test data (where the task has them) and saved under ``run/front``.

    Raises
    ------
    SettingError, RunError, ModelError, DataError
        For what a user can mend, before the first trial.
    """
    check_sampler(sampler)
    limits = _budget(budget, minutes)
    limited = tuple(Constraint.parse(c) for c in constraints)
    quality = Objective(task.metric.name, task.metric.direction)
    goals, metrics = _goals(task, objectives, limited)
    folder = Path(run) if run is not None else Path("runs") / task.name
    resources = resources or Resources()
    if executor not in ("ray", "local"):
        raise SettingError("executor", executor, "must be 'ray' or 'local'")
    prepare(folder, existing)
    space = space if space is not None else Space.from_task(task)
    bench = Bench(task, space.sites, metrics, goals, max(1, int(resources.cpus)))
    clock = Clock()
    with Journal(folder, identity(task, space, goals)) as journal:
        prepared()
        store = Store(folder)
        with clock("baseline"):
            baseline = _baseline(bench, journal, store, seed)
        sampling = Sampler(space, goals, sampler, seed, len(limited))
        with clock("start workers"):
            trials = _executor(executor, bench, resources)
        with Progress(limits, goals, baseline, progress) as watcher:
            try:
                engine = Engine(space, goals, quality, limited, sampling, trials, journal, store, limits, seed, watcher)
                with _interrupts(engine, watcher), clock("search"):
                    why = engine.run(starting_recipes(space))
            finally:
                trials.close()
            best = engine.front()
            watcher.concluding(why)
            with clock("measure the front"):
                base, points, split = conclude(bench, best, baseline, store, folder, watcher.measured)
        feasible = all(v <= 0 for r in best for v in violations(limited, r, baseline, quality))
        front = Front(goals, quality, base, points, tuple(r for r, _ in journal.results), split, feasible, (), folder)
        front = replace(front, notes=tuple(_notes(front, space, limited, why, engine)))
        facts = _facts(task, space, sampler, seed, limits, len(journal.results), trials.slots, clock)
        facts |= {**(about or {}), "sites": [replace(s, slices=()).to_json() for s in space.sites.values()]}
        save_front(front, folder, facts)
        write_report(front, facts, folder)
    return front


def _budget(trials: int | None, minutes: float | None) -> Budget:
    if trials is not None and (not isinstance(trials, int) or isinstance(trials, bool) or trials < 1):
        raise SettingError("budget", trials, "must be a whole number of trials, at least 1", "Use minutes= for time.")
    if minutes is not None and (not isinstance(minutes, int | float) or not 0 < minutes < float("inf")):
        raise SettingError("minutes", minutes, "must be a number above 0")
    if trials is None and minutes is None:
        raise SettingError("budget", None, "no limit of trials or minutes is given", "Give budget= or minutes=.")
    return Budget(trials, minutes)


def _goals(
    task: Task, objectives: Sequence[str] | None, limited: Sequence[Constraint]
) -> tuple[tuple[Objective, ...], list[Any]]:
    """Return the objectives, and the evaluators that every trial runs."""
    if isinstance(objectives, str):
        raise SettingError("objectives", objectives, "must be a list of names", "Write ['accuracy', 'size'].")
    names = list(objectives) if objectives is not None else [task.metric.name, "size"]
    if len(names) < 2 or len(set(names)) != len(names):
        raise SettingError("objectives", names, "must name at least two different metrics", "E.g. accuracy and size.")
    metrics = metrics_for(task, [*names, *(c.metric for c in limited), task.metric.name, *ALWAYS])
    by_name = {m.name: m for m in metrics}
    return tuple(Objective(n, by_name[n].direction) for n in names), metrics


def _baseline(bench: Bench, journal: Journal, store: Store, seed: int) -> Result:
    """Return the unmodified model's result, measured here and at once: whatever is wrong with it shows now."""
    for result, _ in journal.results:
        if result.recipe.is_baseline and result.status == "ok":
            return result
    finished = bench.run(Job(len(journal.results), Recipe(), seed, "baseline"))
    if finished.result.status == "failed" or finished.data is None:
        raise ModelError(f"the unmodified model can't be saved and measured: {finished.result.error}.")
    store.save(finished.result.recipe.digest, finished.data)
    journal.append(finished.result)
    return finished.result


def _executor(kind: str, bench: Bench, resources: Resources) -> Executor:
    if kind == "local":
        return LocalExecutor(bench)
    from .ray_executor import RayExecutor  # noqa: PLC0415 - importing Ray takes a second that local runs don't owe

    return RayExecutor(bench, resources)


@contextmanager
def _interrupts(engine: Engine, watcher: Progress) -> Iterator[None]:
    """Let the first Ctrl-C finish the running trials, and the second one stop at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:  # noqa: ARG001 - the signal module's signature
        if engine.stopping:
            raise KeyboardInterrupt
        engine.stopping = True
        watcher.say("stopping: the running trials finish, then the front is written (Ctrl-C again stops now)")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _notes(front: Front, space: Space, limited: Sequence[Constraint], why: str, engine: Engine) -> Iterator[str]:
    ends = {
        "trials": "The run ended because its budget of trials was spent.",
        "minutes": "The run ended because its time was up.",
        "exhausted": "The run ended because every recipe of the space was tried.",
        "interrupted": "The run was interrupted; the front is what was found until then. It can be resumed.",
    }
    yield ends[why]
    if limited and not front.feasible:
        wanted = "; ".join(c.text for c in limited)
        yield f"No trial keeps all constraints ({wanted}): the points shown are the nearest ones."
    if front.split == "validation":
        yield "The task has no test split: the final figures are on validation data, which the search optimised."
    if len(front) == 1 and front[0].recipe.is_baseline:
        yield "No compressed model was better than the original in any objective."
    if front.errors:
        yield f"{len(front.errors)} of {len(front.results)} trials failed; their reasons are in the journal."
    if engine.repeats:
        yield f"{engine.repeats} proposals repeated a known recipe and were answered from the journal."
    if any("macs" in p.final and p.final["macs"].detail.get("uncounted") for p in (front.baseline,)):
        names = ", ".join(sorted(front.baseline.final["macs"].detail["uncounted"]))
        yield f"MACs leave out operators that are not counted: {names}."
    yield from space.notes


def _facts(
    task: Task, space: Space, sampler: str, seed: int, limits: Budget, trials: int, slots: int, clock: Clock
) -> dict[str, Any]:
    budget = " or ".join(
        part
        for part in (
            f"{limits.trials} trials" if limits.trials is not None else "",
            f"{limits.minutes:g} minutes" if limits.minutes is not None else "",
        )
        if part
    )
    return {
        "name": task.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "seed": seed,
        "sampler": sampler,
        "budget": budget,
        "trials": trials,
        "slots": slots,
        "seconds": {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
        "space": repr(space),
        "task": task.source or "a script",
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("paretopress", "torch", "optuna", "ray")},
    }
