"""Where trials run. An executor takes jobs and gives back results, in any order; it never raises for a trial."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..spaces.errors import SettingError
from ..spaces.recipe import Step
from .effects import Effect, Request, Survey
from .fisher import Fisher
from .trial import Bench, Finished, Job


@dataclass(frozen=True)
class Resources:
    """What trials may use.

    Attributes
    ----------
    address
        Of a running Ray cluster ("auto", "host:port"); None starts Ray on this machine.
    workers
        Trials at a time; None fills the machine or cluster.
    cpus
        For each trial: what Ray reserves, and how many threads torch uses (at least one). In-process trials use
        as many, so that a recipe is the same model wherever it runs.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0

    def __post_init__(self) -> None:
        if self.workers is not None and (not isinstance(self.workers, int) or self.workers < 1):
            rule = "must be a whole number, at least 1"
            raise SettingError("workers", self.workers, rule, "Leave it out to use all cores.")
        if not isinstance(self.cpus, int | float) or self.cpus <= 0:
            raise SettingError("cpus", self.cpus, "must be a number above 0")


class Executor(Protocol):
    """Runs jobs.

    Attributes
    ----------
    slots
        How many jobs run at a time.
    """

    slots: int

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Start a job. ``front`` are the losses known to be non-dominated; see `Bench.run`."""
        ...

    def wait(self, timeout: float) -> list[Finished]:
        """Return what has finished, after at most ``timeout`` seconds if nothing has."""
        ...

    def survey(
        self, requests: Sequence[Request], coder: Step | None, fisher: Fisher
    ) -> Iterator[tuple[int, list[Effect]]]:
        """Measure the effects of single steps, before any job is submitted: yield places and effects, in any order."""
        ...

    def close(self) -> None:
        """Stop; running jobs are lost. Closing again does nothing."""
        ...


class LocalExecutor:
    """One job at a time in this process."""

    slots = 1

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._jobs: deque[tuple[Job, list[list[float]]]] = deque()

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Queue a job."""
        self._jobs.append((job, front))

    def wait(self, timeout: float) -> list[Finished]:  # noqa: ARG002 - a job in this process can't be left early
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

    def close(self) -> None:
        """Drop what is queued."""
        self._jobs.clear()
