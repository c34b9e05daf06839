"""The front door: `search`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..evaluators.base import Evaluator
from ..spaces.errors import ModelError, SettingError
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.task import Task
from .constraint import Constraint, check_constraints, violations
from .engine import Budget, Engine
from .executor import Executor, LocalExecutor, Resources
from .facts import facts_of, notes
from .final import conclude
from .folder import Existing, check
from .front import Front
from .journal import Journal, identity
from .progress import Progress
from .report.data import write_report
from .result import Objective
from .sampler import Sampler, check_sampler
from .saved import save_front
from .start import starting_recipes
from .store import Store
from .trial import Bench, Clock, Finished, Job, metrics_for

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
    quality = Objective(task.metric.name, task.metric.direction, True)
    check_constraints(limited, quality)
    goals, metrics = _goals(task, objectives, limited)
    folder = Path(run) if run is not None else Path("runs") / task.name
    resources = resources or Resources()
    if executor not in ("ray", "local"):
        raise SettingError("executor", executor, "must be 'ray' or 'local'")
    check(folder, existing)
    space = space if space is not None else Space.from_task(task)
    bench = Bench(task, space.sites, metrics, goals, max(1, int(resources.cpus)))
    header = identity(task, space, goals)
    clock = Clock()
    with ExitStack() as stack:
        # Whatever can go wrong before the first trial goes wrong before the folder is touched.
        journal = stack.enter_context(Journal(folder, header)) if existing == "resume" else None
        _check_measured(journal, metrics, folder)
        with clock("baseline"):
            first = _baseline(bench, journal, seed)
        with clock("start workers"):
            trials = _executor(executor, bench, resources)
        stack.callback(trials.close)
        if journal is None:
            journal = stack.enter_context(Journal(folder, header, fresh=existing == "fresh"))
        prepared()
        store, baseline = Store(folder), first.result
        if first.data is not None:
            store.save(baseline.recipe.digest, first.data)
            journal.append(baseline)
        watcher = stack.enter_context(Progress(limits, goals, baseline, progress))
        sampling = Sampler(space, goals, sampler, seed, len(limited))
        engine = Engine(space, goals, quality, limited, sampling, trials, journal, store, limits, seed, watcher)
        with _interrupts(engine, watcher), clock("search"):
            why = engine.run(starting_recipes(space))
        trials.close()  # before the final latencies: they need a quiet machine
        best = engine.front()
        watcher.concluding(why)
        with clock("measure the front"):
            base, points, split = conclude(bench, best, baseline, store, folder, watcher.measured)
        feasible = all(v <= 0 for r in best for v in violations(limited, r, baseline, quality))
        front = Front(goals, quality, base, points, tuple(r for r, _ in journal.results), split, feasible, (), folder)
        front = replace(front, notes=tuple(notes(front, space, limited, why, engine.repeats, bench.needs_class)))
        facts = facts_of(task, space, sampler, seed, limits, len(journal.results), trials.slots, clock)
        facts |= about or {}
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
) -> tuple[tuple[Objective, ...], list[Evaluator]]:
    """Return the objectives, and the evaluators that every trial runs."""
    if isinstance(objectives, str):
        raise SettingError("objectives", objectives, "must be a list of names", "Write ['accuracy', 'size'].")
    names = list(objectives) if objectives is not None else [task.metric.name, "size"]
    if len(names) < 2 or len(set(names)) != len(names):
        raise SettingError("objectives", names, "must name at least two different metrics", "E.g. accuracy and size.")
    metrics = metrics_for(task, [*names, *(c.metric for c in limited), task.metric.name, *ALWAYS])
    by_name = {m.name: m for m in metrics}
    return tuple(Objective(n, by_name[n].direction, n == task.metric.name) for n in names), metrics


def _check_measured(journal: Journal | None, metrics: Sequence[Evaluator], folder: Path) -> None:
    """Refuse a constraint on something that earlier trials didn't measure."""
    for result, _ in journal.results if journal is not None else ():
        for metric in metrics:
            if result.status == "ok" and metric.name not in result.measurements:
                raise SettingError(
                    "constraints", metric.name, f"the trials in {folder} did not measure it",
                    "Resume without this limit, or start over with it.",
                )  # fmt: skip


def _baseline(bench: Bench, journal: Journal | None, seed: int) -> Finished:
    """Return the unmodified model's result, measured here and at once: whatever is wrong with it shows now.

    If the journal has it, it comes without a file.
    """
    for result, _ in journal.results if journal is not None else ():
        if result.recipe.is_baseline and result.status == "ok":
            return Finished(result)
    finished = bench.run(Job(0, Recipe(), seed, "baseline"))
    if finished.result.status == "failed":
        raise ModelError(f"the unmodified model can't be saved and measured: {finished.result.error}.")
    return finished


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
