"""Trials on Ray: one actor a slot, on this machine or on a cluster.

The driver owns everything; a worker gets the task once and then recipes. Nothing that Ray could do again by itself is
left to it: whether a trial whose worker was lost runs again is the engine's to say, which keeps count of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from ..evaluators import base as evaluators
from ..evaluators.base import Evaluator, Measurement
from ..spaces import catalogue
from ..spaces.errors import RunError
from ..spaces.recipe import Step
from .appraisal import Unmeasured
from .effects import Effect, Request
from .executor import Lost
from .fisher import Fisher
from .handover import Handover
from .ray_cluster import check_fits, connect, let_go, needs
from .ray_pool import START, Failure, Pool
from .ray_shipping import pack, ship_own_code
from .ray_worker import Worker, remove_folders
from .resources import Resources
from .trial import Bench, Finished, Job

#: Attempts at what a worker that died had in hand: an effect of the profile, and a figure at the end.
_ATTEMPTS, _AGAIN = 3, 2
#: The tag of a figure that is being taken, which no place of a survey has.
_MEASURING = -1


class RayExecutor:
    """Trials on Ray actors, which are processes of their own.

    Parameters
    ----------
    bench
        Shipped to every worker once.
    resources
        What may be used.
    handover
        Where workers leave results.

    Raises
    ------
    RunError
        If the cluster can't be reached, has not the resources for one trial, or its workers can't take the task.
    """

    inside = False

    def __init__(self, bench: Bench, resources: Resources, handover: Handover) -> None:
        self._resources, self._handover = resources, handover
        self._started = connect(resources)
        self._pool: Pool[Job | int] | None = None
        try:
            check_fits(resources)
            ship_own_code()
            try:
                blob, arrays = pack((bench, catalogue.REGISTRY.own(), evaluators.REGISTRY.own()))
            except Exception as error:
                raise RunError(
                    f"the task can't be sent to Ray workers: {type(error).__name__}: {error}. Give data as DataLoaders "
                    "over plain datasets (no open files, locks or lambdas over them), or use --executor local."
                ) from error
            # Put once; every actor gets references, and the store's one copy.
            self._payload = [ray.put(blob), *(ray.put(a) for a in arrays)]
            self._pool = Pool(resources, self._actor)
            self._pool.come()  # a task that can't travel fails here, not in trials
        except BaseException:
            self.close()
            raise

    def _actor(self) -> Any:
        threads = str(max(1, int(self._resources.cpus)))
        asked = needs(self._resources)
        actor = ray.remote(concurrency_groups={"pulse": 1, "life": 1})(Worker)  # type: ignore[call-overload]  # not in Ray's types
        remote = actor.options(
            num_cpus=asked.pop("CPU"),
            num_gpus=asked.pop("GPU", 0),
            resources=asked,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        )
        return remote.remote(self._handover, *self._payload)

    @property
    def pool(self) -> Pool[Job | int]:
        """The workers."""
        assert self._pool is not None
        return self._pool

    @property
    def slots(self) -> int:
        """How many workers are up."""
        return self.pool.ready

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Start a job on the next worker that is free."""
        self.pool.call(job, "run", job, front)

    def wait(self, timeout: float) -> list[Finished | Lost]:
        """Return what has ended.

        Raises
        ------
        RunError
            If the cluster is gone.
        """
        ended: list[Finished | Lost] = []
        for job, outcome in self.pool.wait(timeout):
            assert isinstance(job, Job)
            ended.append(Lost(job, outcome.reason, outcome.fate) if isinstance(outcome, Failure) else outcome)
        return ended

    def survey(
        self, requests: Sequence[Request], coder: Step | None, fisher: Fisher
    ) -> Iterator[tuple[int, list[Effect]]]:
        """Measure on all workers; what a worker that died had in hand is measured again on another."""
        blob, arrays = pack(fisher)
        shared = [ray.put(blob), *(ray.put(a) for a in arrays)]
        queue, lost = deque(range(len(requests))), dict.fromkeys(range(len(requests)), 0)
        running = 0
        while queue or running:
            while queue and running < max(1, self.slots):
                index = queue.popleft()
                self.pool.call(index, "survey", requests[index], coder, *shared)
                running += 1
            for place, outcome in self.pool.wait(START):
                assert isinstance(place, int)
                running -= 1
                if isinstance(outcome, Failure):
                    lost[place] += 1
                    if outcome.fate != "failed" and lost[place] < _ATTEMPTS:
                        queue.append(place)
                    else:
                        yield place, [Effect(error=outcome.reason, passing=True)] * len(requests[place].settings)
                else:
                    yield place, outcome

    def quiet(self) -> None:
        """End what runs, and keep one worker."""
        self.pool.shrink()

    def measure(self, data: bytes, metric: Evaluator) -> Measurement | Unmeasured:
        """Measure on the next worker that is free; on another one, if that was lost for no reason of the model's.

        Raises
        ------
        RunError
            If the cluster is gone.
        """
        try:
            blob, arrays = pack(metric)
        except Exception as error:
            return Unmeasured(f"it can't be sent to Ray workers: {type(error).__name__}: {error}")
        for _ in range(_AGAIN):
            self.pool.call(_MEASURING, "measure", data, blob, *arrays)
            outcome: Any = None
            while outcome is None:
                outcome = next((found for _, found in self.pool.wait(START)), None)
            if not isinstance(outcome, Failure):
                return outcome  # type: ignore[no-any-return]  # what the worker's method returns
            if outcome.fate == "failed":
                break
        return Unmeasured(outcome.reason, lost=True)

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        pool, self._pool, started, self._started = self._pool, None, self._started, False
        if pool is not None:
            pool.close()
        if pool is not None and pool.headless:
            let_go()
        elif started:
            ray.shutdown()
        remove_folders(self._handover.driver)
