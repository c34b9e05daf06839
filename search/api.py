"""The front door: `search`."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..evaluators.base import Evaluator
from ..evaluators.latency import Latency
from ..spaces.automatic import DEPLOYED
from ..spaces.data import Batches, nan_in
from ..spaces.errors import ArtifactError, DataError, ModelError, PressError, RunError, SettingError
from ..spaces.recipe import Recipe
from ..spaces.seeding import seeded
from ..spaces.space import Space
from ..spaces.task import Task
from .cache_place import cache_problem
from .deployment import undeployable
from .engine import Engine
from .executors import check_executor, start_executor, starting_ray
from .facts import facts_of, notes
from .final import conclude
from .fitting import check_fits
from .folder import NO_RUN, Existing, Retry
from .front import Front
from .handover import Handover
from .journal import Journal, Storage
from .latency_choice import integers_missing, wants_integers
from .plan import Plan, make_plan
from .preparation import make_sampler
from .progress import Progress
from .record import Book, identity
from .report.data import write_report
from .resources import Resources
from .result import Result
from .resuming import ALL_DONE, finished_front
from .saved import save_front
from .start import starting_recipes
from .store import Store
from .trial import Bench, Clock, Finished, Job

#: The original's quality may be so much another one on another machine, as a share of itself.
_SAME = 0.01
#: What is said where models can't be traced.
CLASS = "saved models will need the original's class to load (pass model=): {}"


def search(
    task: Task,
    space: Space | None = None,
    objectives: Sequence[str] | None = None,
    *,
    metrics: Sequence[Evaluator] = (),
    budget: int | None = None,
    minutes: float | None = None,
    evaluations: float | None = None,
    constraints: Sequence[str] = (),
    sampler: str = "profile",
    seed: int = 0,
    run: str | Path | None = None,
    existing: Existing = "refuse",
    retry: Retry = "unfinished",
    executor: Literal["ray", "local"] = "ray",
    resources: Resources | None = None,
    racing: bool = True,
    storage: str | None = None,
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
        What may vary; by default everything that the objectives gain from (`Space.from_task`).
    objectives
        Two or more metric names; by default the task's metric and "size". See ``paretopress techniques``.
    metrics
        Beside those that everybody has, e.g. ``[Latency(batch=32), Latency(name="phone", device="./phone.sh ...")]``.
        Their names may be objectives and stand in constraints; others are measured of the front's models at the end.
        One of the same name replaces everybody's: ``[Latency(runtime="torch")]``.
    budget
        Different recipes to try in all, the baseline among them. Where neither this nor ``minutes`` nor ``evaluations``
        is given, 50.
    minutes
        Wall-clock limit of the trials in this session; those that run at its end are given up, but for one in this
        process. The start and the final measurement come on top.
    evaluations
        Limit of work in all, in validation examples that trials look at as a multiple of the split: 1 for a trial that
        is measured in full, with every look before that (while it trains, and at three sets of batch-norm statistics)
        on top where ``racing`` takes them; what it saw, at least 0.01, for one that is stopped. Training, and
        calibration data for batch norm, count nothing.
    constraints
        Limits on front points, e.g. ``"accuracy drop <= 0.01"`` (``rise`` for a metric of which less is better),
        ``"size <= 300 kB"``, ``"latency <= 0.5x"``. If nothing keeps them all, ``front.feasible`` is False and
        ``front.notes`` begins with what the nearest model misses.
    sampler
        "profile" starts from a sensitivity profile of the layers; also "tpe", "nsga2", "nsga3", "gp", "random".
    seed
        For the sampler and everything random in trials.
    run
        The run folder, by default ``runs/<task name>``: journal, models, front and report.
    existing
        What to do if the folder holds a run: "refuse", "resume" (continue it; where nothing is left to do, its front is
        returned as it is) or "fresh" (discard it).
    retry
        Which trials of a run that is resumed are run again: "unfinished", those that were running when it was killed;
        "errored", those that failed as well, going on with training that was interrupted; "restart-errored", the same
        from their start.
    executor
        "ray", or "local" for one trial at a time in this process.
    resources
        Ray's address, the number of workers, and the CPUs of a trial.
    racing
        Whether a trial ends as soon as it is clear that it can't reach the front. Those that reach it are measured
        in full, and are the same models as without.
    storage
        The address of a PostgreSQL database, ``postgresql://user@host/database``, which keeps the record of the run (a
        study of Optuna, named after the run folder) instead of the folder's journal: it can then be resumed on a
        machine that doesn't have the folder. A password is better given by ``PGPASSWORD`` or ``~/.pgpass``.
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
    plan = make_plan(
        task, objectives, metrics=metrics, budget=budget, minutes=minutes, evaluations=evaluations,
        constraints=constraints, sampler=sampler, seed=seed, run=run, existing=existing, retry=retry,
        executor=executor, resources=resources, racing=racing, storage=storage,
    )  # fmt: skip
    if space is None:
        space = Space.from_task(task, DEPLOYED if wants_integers(plan.metrics) else None)
    check_fits(task, space)
    bench = Bench(task, space.sites, plan.metrics, plan.objectives, max(1, int(plan.resources.cpus)))
    folder, header = plan.folder, identity(task, space, plan.objectives, plan.metrics)
    clock, handover = Clock(), Handover(folder)
    with ExitStack() as stack:
        # Whatever can go wrong before the first trial goes wrong before the folder is touched.
        shared = _storage(plan, space, stack)
        journal = stack.enter_context(Journal(folder, header, storage=shared)) if existing == "resume" else None
        watcher = stack.enter_context(Progress(plan.budget, plan.objectives, progress))
        _check_measured(journal, plan)
        done = finished_front(plan, journal, task.test is not None) if journal is not None else None
        if done is not None:
            watcher.say(ALL_DONE.format(len(done.results), plan.budget.trials))
            return done
        _begin(plan, task, space, watcher)
        with clock("baseline"):
            _check_deployed(bench, plan)
            first = _baseline(bench, journal, seed)
        with clock("start workers"):
            trials = start_executor(plan.executor, bench, plan.resources, handover)
        stack.callback(trials.close)
        if journal is None:
            journal = stack.enter_context(Journal(folder, header, existing == "fresh", shared))
        prepared()
        store, baseline = Store(folder), first.result
        handover.open()
        _record_baseline(first, store, journal)
        watcher.say(CLASS.format(bench.needs_class) if bench.needs_class else "")
        with clock("profile"), bench.threaded():
            chosen = make_sampler(plan, task, space, baseline, trials, watcher)
        engine = Engine(plan, space, trials, journal, store, handover, chosen, watcher)
        watcher.searching(baseline, [r for r, _ in journal.results])
        with _interrupts(engine, watcher), clock("search"):
            why = engine.run(starting_recipes(space) if plan.sampler != "profile" else ())
        slots, best = trials.slots, engine.front()
        watcher.concluding(why)
        with clock("measure the front"):
            end = conclude(
                bench, trials, best, baseline, store, folder, watcher.measured, plan.columns, plan.constraints
            )
        trials.close()
        results = tuple(r for r, _ in journal.results)
        front = Front(
            plan.objectives,
            plan.quality,
            end.base,
            end.points,
            results,
            end.split,
            engine.standing.feasible,
            (),
            folder,
            tuple(m.name for m in (*plan.metrics, *plan.columns) if m.direction == "maximize"),
        )
        said = notes(front, space, plan, why, engine.repeats, bench.needs_class)
        front = replace(front, notes=(*said, *end.notes))
        watcher.say("" if front.feasible else front.notes[0])
        facts = facts_of(task, space, plan, len(results), slots, clock) | (about or {})
        save_front(front, folder, facts)
        handover.close()
        write_report(front, facts, folder)
    return front


def _storage(plan: Plan, space: Space, stack: ExitStack) -> Storage | None:
    """Return the database that the run is recorded in, locked, if there is one.

    Raises
    ------
    RunError
        If it holds a run and none is wanted, or the other way round.
    """
    if plan.storage is None:
        return None
    from .study_record import StudyRecord  # noqa: PLC0415 - Optuna and its databases take a second to import

    record = StudyRecord(plan.storage, plan.folder.name, space)
    stack.callback(record.close)
    if plan.existing == "refuse" and record.header is not None:
        raise RunError(
            f"{record.place}: holds a run already. Continue it (paretopress resume, or existing='resume'), start over "
            "(--fresh, or existing='fresh'; its results are discarded), or give the run folder another name."
        )
    if plan.existing == "resume" and record.header is None:
        raise RunError(f"{record.place}: {NO_RUN}")
    return record


def _doubted(test: Batches | None) -> str:
    """Return a sentence where test data may not be what the final figures can be taken on, or "".

    None of it is kept: what a task keeps in memory travels to every worker.

    Raises
    ------
    DataError
        If the data can't be read to its end.
    """
    if test is None:
        return ""
    number = 0
    try:
        with seeded(0):  # a loader that shuffles must not draw from what comes after
            for number, (args, target) in enumerate(Batches(test.source, test.split, keep=False), 1):
                if held := nan_in(args, target):
                    return (
                        f"test data: the {held} of batch {number} holds NaN. Where model or metric can't take it, "
                        "there will be no figures on test data."
                    )
    except PressError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"test data: batch {number + 1} can't be read ({reason}). Mend the loader.") from error
    return ""


def _begin(plan: Plan, task: Task, space: Space, watcher: Progress) -> None:
    """Say what happens first, which takes a while, unless it is known to fail: raises as `check_executor` and
    `_doubted` do.
    """
    check_executor(plan.executor, plan.resources)
    if plan.executor == "local":
        watcher.say("measuring the original model; trials run in this process, one at a time (executor: local)")
    else:
        watcher.say(f"measuring the original model, then {starting_ray(plan.resources)}")
    watcher.say(cache_problem())
    watcher.say(integers_missing(space, plan.metrics))
    watcher.say(_doubted(task.test))


def _check_measured(journal: Book | None, plan: Plan) -> None:
    """Refuse a constraint on something that earlier trials didn't measure."""
    for result, _ in journal.results if journal is not None else ():
        for metric in plan.metrics:
            if result.status == "ok" and metric.name not in result.measurements:
                raise SettingError(
                    "constraints", metric.name, f"the trials in {plan.folder} did not measure it",
                    "Resume without this limit, or start over with it.",
                )  # fmt: skip


def _check_deployed(bench: Bench, plan: Plan) -> None:
    """Refuse to measure the deployed file of a model that can't be deployed, and a device that can't be asked: it is
    found now, not after hours of trials. What workers of a cluster could ask isn't known here.
    """
    needs = next((m for m in bench.metrics if m.deployed), None)
    if needs is not None:
        try:
            with bench.threaded():
                bench.deployed_original()
        except ArtifactError as error:
            raise undeployable(needs, error) from None  # torch's own account is pages long
    asked = [m for m in (*plan.metrics, *plan.columns) if isinstance(m, Latency) and not m.here]
    for metric in asked if plan.resources.cluster is None else ():
        try:
            metric.measure(bench.subject(bench.original, {}))
        except Exception as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise SettingError("metrics", metric.name, f"can't be taken of the original model: {reason}") from error


def _baseline(bench: Bench, journal: Book | None, seed: int) -> Finished:
    """Return the unmodified model's result, measured here and at once: whatever is wrong with it shows now.

    If the journal has it, it comes without a file.
    """
    for result, _ in journal.results if journal is not None else ():
        if result.recipe.is_baseline and result.status == "ok":
            _check_quality(bench, result)
            return Finished(result)
    finished = bench.run(Job(0, Recipe(), seed, "baseline"))
    if finished.result.status == "failed":
        raise ModelError(
            f"the unmodified model can't be saved and measured: {finished.result.error}. "
            "Every validation batch must run and give finite outputs, and the same batch the same ones each time."
        )
    return finished


def _check_quality(bench: Bench, known: Result) -> None:
    """Refuse to go on with a metric of the same name that says something else of the original."""
    name = bench.quality.name
    with bench.threaded():
        now, then = bench.reference.measurement.value, known.value(name)
    if not math.isclose(now, then, rel_tol=_SAME, abs_tol=_SAME * abs(known.value(name) or 1.0)):
        raise RunError(
            f"{name} of the original model is {now:.4g} now, and was {then:.4g} when the run was begun: the metric or "
            "the model computes something else. Resume with what it was started with, or search anew, in another "
            "folder or with --fresh."
        )


def _record_baseline(first: Finished, store: Store, journal: Journal) -> None:
    if first.data is not None:  # else it is recorded
        store.save(first.result.recipe.digest, first.data)
        journal.finish([(first.result, {})])
        journal.flush()


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

    caught = (signal.SIGINT, signal.SIGTERM)  # SIGTERM is what schedulers send
    before = [signal.signal(which, stop) for which in caught]
    try:
        yield
    finally:
        for which, handler in zip(caught, before):
            signal.signal(which, handler)
