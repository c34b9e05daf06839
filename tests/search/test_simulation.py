"""Workers in simulated time: it passes as it would, and the driver's own time counts where it is asked for."""

from __future__ import annotations

from paretopress.search.executor import Lost
from paretopress.search.result import Result
from paretopress.search.simulation import SimulatedExecutor
from paretopress.search.trial import Finished, Job
from paretopress.spaces.recipe import Recipe


def outcome(job: Job, front: list[list[float]]) -> tuple[float, Finished | Lost]:
    """Return an end after as many seconds as the job's number."""
    return float(job.number), Finished(Result(job.number, job.recipe))


def test_jobs_end_in_the_order_of_their_times() -> None:
    """Waiting jumps to the next end, and no further than the timeout."""
    executor = SimulatedExecutor(3, outcome)
    for number in (5, 2, 9):
        executor.submit(Job(number, Recipe()), [])
    assert executor.wait(1.0) == []
    assert executor.time() == 1.0
    numbers = []
    while len(numbers) < 3:
        numbers += [end.result.number for end in executor.wait(100.0) if isinstance(end, Finished)]
    assert numbers == [2, 5, 9]
    assert executor.time() == 9.0
    assert executor.worked == 16.0
    assert executor.waited == 9.0


def test_the_drivers_own_time_passes_too() -> None:
    """What it takes between two calls delays the next start, and ends jobs meanwhile."""
    now = [0.0]
    executor = SimulatedExecutor(1, outcome, lambda: now[0])
    executor.submit(Job(2, Recipe()), [])
    now[0] += 3.0  # the driver is busy
    [end] = executor.wait(10.0)
    assert isinstance(end, Finished)
    assert executor.now == 3.0
    assert executor.waited == 0.0
