"""Any number of workers without one: an executor in simulated time, which drives the real engine.

It says how a run would go on a cluster, and where its driver would be the bottleneck: what the engine, the sampler and
the journal take is real, and passes in simulated time as well. (Syne Tune's simulator back end does the same for
single objectives: Salinas et al., "Syne Tune: A Library for Large Scale Hyperparameter Tuning and Reproducible
Research", 2022.)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .executor import Lost
from .trial import Finished, Job

#: Gives the seconds that a job takes, and what it comes to.
Outcome = Callable[[Job, list[list[float]]], tuple[float, Finished | Lost]]


class SimulatedExecutor:
    """Workers in simulated time; see `Executor`.

    Parameters
    ----------
    slots
        How many.
    outcome
        What becomes of a job.
    clock
        Gives real seconds: what passes between two calls is the driver's own time. By default, none does.

    Attributes
    ----------
    outcome
        What becomes of the next jobs.
    now
        Simulated seconds since the beginning.
    worked, waited
        Simulated seconds that workers spent on jobs that have ended, and that the driver spent waiting for them.
    """

    inside = True

    def __init__(self, slots: int, outcome: Outcome, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._slots, self.outcome, self._clock = slots, outcome, clock
        self._ends: list[tuple[float, int, float, Finished | Lost]] = []
        self._submitted = 0
        self.now = self.worked = self.waited = 0.0
        self._left = clock()

    @property
    def slots(self) -> int:
        """How many workers there are."""
        return self._slots

    def time(self) -> float:
        """Return the simulated seconds, the driver's own so far among them."""
        self._pass()
        return self.now

    def _pass(self) -> None:
        """Let the driver's own time pass."""
        real = self._clock()
        self.now += real - self._left
        self._left = real

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Start a job."""
        self._pass()
        seconds, end = self.outcome(job, front)
        self._left = self._clock()  # making an outcome up is no work of a driver
        self._submitted += 1
        heapq.heappush(self._ends, (self.now + seconds, self._submitted, seconds, end))

    def wait(self, timeout: float) -> list[Finished | Lost]:
        """Return what has ended; if nothing has, time passes until something does, or for ``timeout`` seconds."""
        self._pass()
        if self._ends and self._ends[0][0] > self.now:
            until = min(self._ends[0][0], self.now + timeout)
            self.waited += until - self.now
            self.now = until
        ended = []
        while self._ends and self._ends[0][0] <= self.now:
            _, _, seconds, end = heapq.heappop(self._ends)
            self.worked += seconds
            ended.append(end)
        return ended

    def close(self) -> None:
        """Forget what runs."""
        self._ends.clear()
