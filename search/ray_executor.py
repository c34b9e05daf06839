"""Trials on Ray: one actor a slot, on this machine or on a cluster. The only file that imports Ray.

The driver owns everything; a worker gets the task once and then recipes. Weights and data travel as arrays in
Ray's object store, and every worker copies them before use: arrays from the store look writable to torch, and
training in place would silently change every other trial's model.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray import cloudpickle
from torch import nn

from ..evaluators import base as evaluators
from ..spaces import catalogue
from ..spaces.errors import RunError
from ..spaces.recipe import Step
from .effects import Effect, Request, Survey
from .executor import Resources
from .fisher import Fisher
from .result import Result
from .trial import Bench, Finished, Job

#: A trial is tried again this often when its worker dies; then it is a failed trial.
MAX_ATTEMPTS = 2

#: Workers import torch and unpack the data before their first trial; longer than this they are not coming.
_START_SECONDS = 300


class _Pickler(cloudpickle.CloudPickler):
    """Pickles an object without its tensors; these go into ``arrays``, each once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)  # type: ignore[no-untyped-call]  # ray.cloudpickle has no types
        self.arrays: list[npt.NDArray[Any]] = []
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._alive: list[torch.Tensor] = []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if type(obj) not in (torch.Tensor, nn.Parameter) or obj.is_sparse or obj.is_quantized or obj.is_meta:
            return None
        if id(obj) not in self._seen:
            flat = obj.detach().cpu().contiguous().reshape(-1)
            self.arrays.append(flat.view(torch.uint8).numpy())
            self._alive.append(obj)
            facts = (len(self.arrays) - 1, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))
            self._seen[id(obj)] = (*facts, isinstance(obj, nn.Parameter), obj.requires_grad)
        return self._seen[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: list[npt.NDArray[Any]]) -> None:
        super().__init__(file)
        self._arrays = arrays
        self._made: dict[int, torch.Tensor] = {}

    def persistent_load(self, pid: Any) -> torch.Tensor:
        index, dtype, shape, parameter, grad = pid
        if index not in self._made:
            flat = torch.from_numpy(np.array(self._arrays[index], copy=True)).view(getattr(torch, dtype))
            tensor = flat.reshape(shape)
            self._made[index] = nn.Parameter(tensor, requires_grad=grad) if parameter else tensor.requires_grad_(grad)
        return self._made[index]


def pack(value: Any) -> tuple[bytes, list[npt.NDArray[Any]]]:
    """Return a value as a pickle without tensors, and the tensors' bytes as arrays (shared ones once)."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)  # type: ignore[no-untyped-call]  # as above
    return file.getvalue(), pickler.arrays


def unpack(blob: bytes, arrays: list[npt.NDArray[Any]]) -> Any:
    """Return what `pack` was given, with copies of the tensors."""
    return _Unpickler(io.BytesIO(blob), arrays).load()


def _ship_by_value(bench: Bench) -> None:
    """Let classes and functions of the user's own modules travel with the task: workers may not have the files."""
    objects: list[Any] = [type(m) for m in bench.task.model.modules()]
    objects += [bench.task.loss, bench.task.metric.function]
    objects += [type(x) for x in (*catalogue.REGISTRY.own(), *evaluators.REGISTRY.own())]
    for split in (bench.task.train, bench.task.validation, bench.task.calibration):
        if split is not None:
            source = split.source
            objects += [
                source,
                type(source),
                type(getattr(source, "dataset", None)),
                getattr(source, "collate_fn", None),
            ]
    for item in objects:
        name = getattr(item, "__module__", None) or ""
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None) or ""
        if module is None or name == "__main__" or name.startswith("paretopress.") or not path:
            continue
        if f"{os.sep}site-packages{os.sep}" in path or path.startswith(os.path.dirname(os.__file__)):
            continue
        cloudpickle.register_pickle_by_value(importlib.import_module(name))


class _Worker:
    """Runs in a Ray actor: unpacks the bench once, then runs jobs."""

    def __init__(self, blob: bytes, *arrays: npt.NDArray[Any]) -> None:
        bench, techniques, metrics = unpack(blob, list(arrays))
        for technique in techniques:
            catalogue.register(technique)
        for metric in metrics:
            evaluators.register(metric)
        self._bench: Bench = bench
        self._survey: tuple[Survey, Fisher] | None = None

    def ready(self) -> int:
        return os.getpid()

    def run(self, job: Job, front: list[list[float]]) -> Finished:
        return self._bench.run(job, front)

    def survey(self, request: Request, coder: Step | None, blob: bytes, *arrays: npt.NDArray[Any]) -> list[Effect]:
        if self._survey is None:
            self._survey = Survey(self._bench.task, self._bench.sites, coder), unpack(blob, list(arrays))
        survey, fisher = self._survey
        with self._bench.threaded():
            return survey.effects(request, fisher)


@dataclass
class _Slot:
    actor: Any
    job: Job | None = None
    front: list[list[float]] | None = None
    since: float = 0.0


class RayExecutor:
    """Trials on Ray actors.

    Parameters
    ----------
    bench
        Shipped to every worker once.
    resources
        What may be used.

    Raises
    ------
    RunError
        If the cluster can't be reached, or has not the resources for one trial.
    """

    def __init__(self, bench: Bench, resources: Resources) -> None:
        self._resources = resources
        self._started = _connect(resources)
        available = ray.cluster_resources()
        fits = int(available.get("CPU", 0) / resources.cpus)
        if fits < 1:
            self._stop_ray()
            raise RunError(
                f"cpus = {resources.cpus:g}: one trial asks for more than the {available.get('CPU', 0):g} CPUs "
                "that Ray has. Ask for less, or add nodes."
            )
        self.slots = min(fits, resources.workers or fits)
        _ship_by_value(bench)
        try:
            blob, arrays = pack((bench, catalogue.REGISTRY.own(), evaluators.REGISTRY.own()))
        except Exception as error:
            self._stop_ray()
            raise RunError(
                f"the task can't be sent to Ray workers: {type(error).__name__}: {error}. Give data as DataLoaders "
                "over plain datasets (no open files, locks or lambdas over them), or use --executor local."
            ) from error
        # Put once; every actor gets references, and the store's one copy.
        self._payload = [ray.put(blob), *(ray.put(a) for a in arrays)]
        self._slots = [_Slot(self._actor()) for _ in range(self.slots)]
        self._running: dict[Any, _Slot] = {}
        self._wait_ready()

    def _actor(self) -> Any:
        threads = str(max(1, int(self._resources.cpus)))
        remote = ray.remote(_Worker).options(
            num_cpus=self._resources.cpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        )
        return remote.remote(*self._payload)

    def _wait_ready(self) -> None:
        """Wait until every worker has unpacked the task, so that a task that can't travel fails here, not in trials."""
        try:
            ray.get([slot.actor.ready.remote() for slot in self._slots], timeout=_START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            self.close()
            raise RunError(
                f"Ray's workers did not start within {_START_SECONDS} s. Is the cluster busy with other jobs? "
                "Ask for fewer workers, or use --executor local."
            ) from error
        except ray.exceptions.RayError as error:
            self.close()
            lines = [x for x in str(error).splitlines() if x.strip()]
            raise RunError(
                f"Ray's workers can't take the task: {lines[-1].strip() if lines else type(error).__name__}. They need "
                "the same packages as this process, and data and model that can be pickled; "
                "--executor local needs neither."
            ) from error

    def submit(self, job: Job, front: list[list[float]]) -> None:
        """Start a job on a free slot."""
        slot = next(s for s in self._slots if s.job is None)
        self._start(slot, job, front)

    def _start(self, slot: _Slot, job: Job, front: list[list[float]]) -> None:
        slot.job, slot.front, slot.since = job, front, time.monotonic()
        self._running[slot.actor.run.remote(job, front)] = slot

    def wait(self, timeout: float) -> list[Finished]:
        """Return finished trials; a trial whose worker died is tried again on a new one, then it is a failure."""
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        more, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        finished: list[Finished] = []
        for reference in dict.fromkeys([*ready, *more]):
            slot = self._running.pop(reference)
            job, front = slot.job, slot.front
            assert job is not None
            assert front is not None
            slot.job = slot.front = None
            try:
                finished.append(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                # The worker catches a trial's own errors; this is one that could not even be sent back.
                finished.append(_lost(job, str(error.cause or error), time.monotonic() - slot.since))
            except ray.exceptions.RayError as error:
                ray.kill(slot.actor)
                slot.actor = self._actor()
                if job.attempt < MAX_ATTEMPTS:
                    self._start(slot, replace(job, attempt=job.attempt + 1), front)
                else:
                    reason = f"its worker died {MAX_ATTEMPTS} times ({type(error).__name__})"
                    finished.append(_lost(job, reason, time.monotonic() - slot.since))
        return finished

    def survey(
        self, requests: Sequence[Request], coder: Step | None, fisher: Fisher
    ) -> Iterator[tuple[int, list[Effect]]]:
        """Measure on all workers; what a worker that died had in hand is measured again on a new one, once."""
        blob, arrays = pack(fisher)
        shared = [ray.put(blob), *(ray.put(a) for a in arrays)]
        queue = deque((i, MAX_ATTEMPTS) for i in range(len(requests)))
        free = list(self._slots)
        running: dict[Any, tuple[int, int, _Slot]] = {}
        while queue or running:
            while queue and free:
                (index, attempts), slot = queue.popleft(), free.pop()
                running[slot.actor.survey.remote(requests[index], coder, *shared)] = (index, attempts, slot)
            [reference], _ = ray.wait(list(running), num_returns=1)
            index, attempts, slot = running.pop(reference)
            free.append(slot)
            try:
                effects = ray.get(reference)
            except ray.exceptions.RayError as error:
                ray.kill(slot.actor)
                slot.actor = self._actor()
                if attempts > 1:
                    queue.append((index, attempts - 1))
                    continue
                reason = f"its worker died {MAX_ATTEMPTS} times ({type(error).__name__})"
                effects = [Effect(error=reason)] * len(requests[index].settings)
            yield index, effects

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots, self._running = [], {}
        self._stop_ray()

    def _stop_ray(self) -> None:
        if self._started:
            ray.shutdown()
            self._started = False


def _lost(job: Job, reason: str, seconds: float) -> Finished:
    line = reason.strip().splitlines()[0] if reason.strip() else "unknown"
    return Finished(Result(job.number, job.recipe, {}, "failed", line[:500], seconds, job.seed, job.origin))


def _check_reachable(address: str) -> None:
    """Raise RunError within seconds if nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto", or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise RunError(
            f"Ray at {address!r} can't be reached: nothing answers there ({error.strerror or error}). "
            "Check the address; `ray start --head` prints it. Leave it out to start Ray on this machine."
        ) from error


def _connect(resources: Resources) -> bool:
    """Connect to Ray, or start it; return whether it was started here (and must be stopped here)."""
    if ray.is_initialized():
        return False
    address = resources.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        _check_reachable(address)
    try:
        if address:
            ray.init(address=address, **options)
        else:
            cores = os.cpu_count() or 1
            wanted = int(np.ceil((resources.workers or 0) * resources.cpus))
            ray.init(
                address="local",
                num_cpus=max(cores, wanted),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **options,
            )
    except Exception as error:
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        where = f"at {address!r} " if address else ""
        raise RunError(
            f"Ray {where}can't be reached: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
            f"Check the address and that the cluster runs the same Ray and Python (RAY_AUTH_MODE is {mode}; it must be "
            "the same here and where the cluster was started)."
        ) from error
    return True
