"""Where trials run. An executor takes jobs and gives back results, in any order; it never raises for a trial."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..evaluators.base import Evaluator, Measurement
from ..spaces.recipe import Step
from .appraisal import Appraisal, Unmeasured
from .effects import Effect, Request, Survey
from .fisher import Fisher
from .trial import Bench, Finished, Job

Fate = Literal["again", "moved", "alone", "failed"]


@dataclass(frozen=True)
class Lost:
    """An attempt that ended without a result.

    Attributes
    ----------
    job
        What was tried.
    reason
        One line.
    fate
        What becomes of the trial: it is run "again" (its worker was lost), "moved" (so was its whole machine: it is run
        again, and that isn't held against it), run again "alone" (the machine had not the memory for it beside others),
        or it has "failed" (it was killed for what it did).
    """

    job: Job
    reason: str
    fate: Fate


class Executor(Protocol):
    """Runs jobs.

    Attributes
    ----------
    inside
        Whether jobs run in this process, so that one that crashes takes it along.
    """

    inside: bool

    @property
    def slots(self) -> int:
        """How many jobs can run at a time now; workers may come and go."""
        ...

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Start a job. ``front`` are the losses known to be non-dominated; see `Bench.run`."""
        ...

    def wait(self, timeout: float) -> list[Finished | Lost]:
        """Return what has ended, after at most ``timeout`` seconds if nothing has.

        Raises
        ------
        RunError
            If no job can run any more.
        """
        ...

    def close(self) -> None:
        """Stop; running jobs are lost. Closing again does nothing."""
        ...


class Workers(Executor, Protocol):
    """Runs jobs, and measures what there is to be measured before and after them."""

    def survey(
        self, requests: Sequence[Request], coder: Step | None, fisher: Fisher
    ) -> Iterator[tuple[int, list[Effect]]]:
        """Measure the effects of single steps, before any job is submitted: yield places and effects, in any order."""
        ...

    def quiet(self) -> None:
        """End what runs, and have one worker from now on: what it measures has the machine to itself."""
        ...

    def measure(self, data: bytes, metric: Evaluator) -> Measurement | Unmeasured:
        """Measure the model that a file holds, within the limits of a trial; see `Appraisal.measure`.

        Raises
        ------
        RunError
            If nothing can be measured any more.
        """
        ...


class LocalExecutor:
    """One job at a time in this process."""

    slots, inside = 1, True

    def __init__(self, bench: Bench) -> None:
        self._bench, self._appraisal = bench, Appraisal(bench)
        self._jobs: deque[tuple[Job, list[list[float]]]] = deque()

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Queue a job."""
        self._jobs.append((job, front))

    def wait(self, timeout: float) -> list[Finished | Lost]:  # noqa: ARG002 - a job in this process can't be left early
        """Run the next job."""
        if not self._jobs:
            return []
        job, front = self._jobs.popleft()
        return [self._bench.run(job, front)]

    def survey(
        self, requests: Sequence[Request], coder: Step | None, fisher: Fisher
    ) -> Iterator[tuple[int, list[Effect]]]:
        """Measure one after the other."""
        survey = Survey(self._bench.task, self._bench.sites, coder)
        for index, request in enumerate(requests):
            with self._bench.threaded():
                effects = survey.effects(request, fisher)
            yield index, effects

    def quiet(self) -> None:
        """Drop what is queued."""
        self._jobs.clear()

    def measure(self, data: bytes, metric: Evaluator) -> Measurement | Unmeasured:
        """Measure in this process, which knows no limits."""
        return self._appraisal.measure(data, metric)

    def close(self) -> None:
        """Drop what is queued."""
        self._jobs.clear()
