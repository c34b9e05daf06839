"""What runs in a Ray actor: it unpacks the bench once, and then runs jobs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray

from ..evaluators import base as evaluators
from ..evaluators.base import Measurement
from ..spaces import catalogue
from ..spaces.pulse import beats
from ..spaces.recipe import Step
from .appraisal import Appraisal, Unmeasured
from .effects import Effect, Request, Survey
from .fisher import Fisher
from .handover import Handover
from .ray_shipping import Array, unpack
from .trial import Bench, Finished, Job

#: A trial may write files up to this share of what is free on the disk.
_DISK_SHARE = 0.5
_PREFIX = "paretopress-"
#: A worker's folder: its session, and its process.
_FOLDER = re.compile(_PREFIX + r"([0-9a-f]{8})-(\d+)-\w+")
#: Folders of other sessions are left alone for so many seconds: in a container, live processes may look dead.
_OLD = 86_400.0


@dataclass(frozen=True)
class Pulse:
    """How a worker is: the steps of work that it has counted, and the bytes of memory that are its own."""

    beats: int
    memory: int


def own_folder(driver: str) -> Path:
    """Return a folder for this process's temporary files, which it can't fill the disk with: files may get so large
    only. Those of workers that died on this machine are removed.
    """
    remove_folders(driver)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{driver}-{os.getpid()}-"))
    tempfile.tempdir = str(folder)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(_DISK_SHARE * shutil.disk_usage(folder).free), hard))
    return folder


def remove_folders(driver: str) -> None:
    """Remove what dead workers of a session left on this machine, and what those of others left long ago."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        found = _FOLDER.fullmatch(path.name)
        try:
            if found is not None and (found[1] == driver or time.time() - path.stat().st_mtime > _OLD):
                os.kill(int(found[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (OSError, OverflowError):
            continue


class Worker:
    """Runs in an actor whose ``pulse`` and ``live`` have threads of their own.

    Parameters
    ----------
    handover
        Where results are left.
    blob, arrays
        The packed bench, techniques and metrics.
    """

    def __init__(self, handover: Handover, blob: bytes, *arrays: Array) -> None:
        self._folder = own_folder(handover.driver)
        bench, techniques, metrics = unpack(blob, list(arrays))
        for technique in techniques:
            catalogue.register(technique)
        for metric in metrics:
            evaluators.register(metric)
        self._bench: Bench = bench
        self._handover = handover
        self._survey: tuple[Survey, Fisher] | None = None
        self._appraisal = Appraisal(bench)

    def ready(self) -> str:
        """Return where this is."""
        return f"process {os.getpid()} on {socket.gethostname()}"

    @ray.method(concurrency_group="life")
    def live(self) -> None:
        """Never return: this call ends when the worker dies, whether or not it has anything else to do."""
        threading.Event().wait()

    @ray.method(concurrency_group="pulse")
    def pulse(self) -> Pulse:
        """Return how the worker is."""
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            held = int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])
        except (OSError, StopIteration):  # no Linux: the most that it ever held
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Pulse(beats(), 1024 * held)

    def run(self, job: Job, front: list[list[float]]) -> Finished:
        """Return a trial's result; it is left on disk, too, where the driver would look for it."""
        try:
            finished = self._bench.run(job, front, self._handover.saves(job.recipe.digest))
        finally:
            self._tidy()
        self._handover.leave(finished)
        return finished

    def measure(self, model: bytes, blob: bytes, *arrays: Array) -> Measurement | Unmeasured:
        """Return a figure of the model that a file holds, by a packed metric."""
        try:
            return self._appraisal.measure(model, unpack(blob, list(arrays)))
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Remove what a trial left in its folder for temporary files."""
        for path in self._folder.iterdir():
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def survey(self, request: Request, coder: Step | None, blob: bytes, *arrays: Array) -> list[Effect]:
        """Return the effects of a request's settings."""
        if self._survey is None:
            self._survey = Survey(self._bench.task, self._bench.sites, coder), unpack(blob, list(arrays))
        survey, fisher = self._survey
        with self._bench.threaded():
            return survey.effects(request, fisher)
