"""A session of a run in simulated time, and every end that an attempt in it can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from paretopress.evaluators.base import Measurement
from paretopress.search.engine import Engine
from paretopress.search.executor import Lost
from paretopress.search.handover import Handover
from paretopress.search.journal import Journal, read
from paretopress.search.optuna_samplers import OptunaSampler
from paretopress.search.plan import Plan, make_plan
from paretopress.search.record import identity
from paretopress.search.result import Result
from paretopress.search.simulation import SimulatedExecutor
from paretopress.search.store import Store
from paretopress.search.trial import Finished, Job
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

End = tuple[float, Finished | Lost]
Outcome = Callable[[Job, list[list[float]]], End]


def made_up(job: Job, status: Any = "ok") -> Finished:
    """Return a result that depends on the recipe alone."""
    draw = int(job.recipe.digest, 16)
    values = {"accuracy": 0.9 - (draw % 89) / 100, "size": 1000.0 - draw % 977}
    values |= {"macs": 10.0, "bops": 10.0, "parameters": 10.0}
    figures = {name: Measurement(value, repeats=200) for name, value in values.items()}
    result = Result(job.number, job.recipe, figures, status, "", 1.0, job.seed, job.origin, work={"examples": 200})
    return Finished(result, job.recipe.digest.encode(), job.attempt)


def ok(job: Job, front: list[list[float]]) -> End:
    """Every trial ends after one to three seconds."""
    return 1.0 + job.number % 3, made_up(job)


class Session:
    """One session of a run in a folder, under a made-up sampler and executor."""

    def __init__(self, task: Task, space: Space, folder: Path, outcome: Outcome = ok, slots: int = 3, **settings: Any):
        has_run = (folder / "journal.jsonl").exists()
        options = {"sampler": "random", "run": folder, "existing": "resume" if has_run else "refuse", **settings}
        self.plan: Plan = make_plan(task, **options)
        self.journal = Journal(folder, identity(task, space, self.plan.objectives))
        self.executor = SimulatedExecutor(slots, outcome)
        self.handover = Handover(folder)
        self.handover.open()
        if not self.journal.results:
            self.journal.finish([(made_up(Job(0, Recipe(), 0, "baseline")).result, {})])
        sampler = OptunaSampler(space, self.plan.objectives, "random", self.plan.seed)
        self.engine = Engine(
            self.plan, space, self.executor, self.journal, Store(folder), self.handover, sampler,
            clock=self.executor.time,
        )  # fmt: skip

    def run(self) -> str:
        """Run until the end."""
        try:
            return self.engine.run(())
        finally:
            self.journal.close()

    @property
    def results(self) -> Sequence[Result]:
        """What the journal holds."""
        return [result for result, _ in self.journal.results]


class Fate:
    """Outcomes that differ for one trial: its first ends are given, then it is like the others.

    Parameters
    ----------
    number
        Of the trial.
    ends
        What becomes of its attempts.
    """

    def __init__(self, number: int, *ends: Callable[[Job], Finished | Lost]) -> None:
        self.number, self.ends = number, list(ends)
        self.jobs: list[Job] = []

    def __call__(self, job: Job, front: list[list[float]]) -> End:
        """Return what becomes of a job."""
        if job.number != self.number:
            return ok(job, front)
        self.jobs.append(job)
        return (5.0, self.ends.pop(0)(job)) if self.ends else ok(job, front)


def losing(reason: str, fate: Literal["again", "moved", "alone", "failed"]) -> Callable[[Job], Lost]:
    """Return an end without a result."""
    return lambda job: Lost(job, reason, fate)


died, moved = losing("its worker died", "again"), losing("its node died", "moved")
starved, killed = losing("its machine ran out of memory", "alone"), losing("it took 9 GB", "failed")


def fatal(number: int) -> Outcome:
    """Return outcomes of which one trial's brings the process down."""

    def outcome(job: Job, front: list[list[float]]) -> End:
        if job.number == number:
            raise KeyboardInterrupt
        return ok(job, front)

    return outcome


def complete(session: Session, trials: int) -> None:
    """Check that a run has exactly its trials: none lost, none told twice, none left running."""
    assert sorted(r.number for r in session.results) == list(range(trials))
    assert len({r.recipe.digest for r in session.results}) == trials
    assert not read(session.plan.folder)[1].unfinished


def kill_after(calls: int, session: Session) -> None:
    """Let a session die, as by kill -9, when it has waited so often: nothing is written any more."""
    wait, left = session.executor.wait, [calls]

    def dying(timeout: float) -> list[Finished | Lost]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return wait(timeout)

    session.executor.wait = dying  # type: ignore[method-assign]  # dies in it
    session.engine._abandon = lambda: None  # type: ignore[method-assign]  # a killed process says no good-bye
