"""Latency next to the baseline's, on a machine that others use too."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from ..spaces.errors import SettingError
from .base import Direction, Evaluator, Measurement, Subject, register
from .inference import at_batch, device_of, inference

#: One sample lasts at least this many seconds, far above the clock's resolution.
SAMPLE = 0.002
#: Pairs between two looks at the interval, and the fewest when a pair takes long.
ROUND, FEWEST = 20, 6
#: Width of the interval, relative to the ratio: stop at once below FINE, call the figure noisy above NOISY.
FINE, NOISY = 0.02, 0.10
#: A figure that is still noisy when its time is used up gets this many times as much.
PATIENCE = 3
RESAMPLES = 1000


def median_interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval (percentiles; the same for the same ratios)."""
    values = np.asarray(ratios)
    median = float(np.median(values))
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return median, min(median, float(low)), max(median, float(high))


@contextmanager
def alone() -> Iterator[None]:
    """One measuring process of this user at a time on the machine, one thread, no garbage collection."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    with FileLock(Path(tempfile.gettempdir()) / f"paretopress-latency-{user}.lock"):
        gc.disable()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if collecting:
                gc.enable()


@dataclass
class _Runner:
    """One of the two models, and the seconds for one forward pass in each of its samples."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    clock: Callable[[], float]
    passes: int = 1
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0
    wall: float = 0.0

    def sample(self) -> float:
        """Run and time ``passes`` forward passes; return the seconds of all of them."""
        inputs = tuple(part.clone() for part in self.inputs)  # a model may write into its input
        model = self.model
        wall, start = time.perf_counter(), self.clock()
        for _ in range(self.passes):
            model(*inputs)
        taken = self.clock() - start
        self.wall += time.perf_counter() - wall
        self.spent += taken
        self.seconds.append(taken / self.passes)
        return taken

    def warm(self) -> float:
        """Warm caches and allocator, find how many passes make one sample, and return the seconds of one."""
        self.sample()
        while (taken := self.sample()) < SAMPLE:
            self.passes *= 2
        self.seconds, self.wall, self.spent = [], 0.0, 0.0
        return taken


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return what tells the seconds: of this process's processor time, or on a GPU of the synchronised clock."""
    if device.type != "cuda":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


class Latency(Evaluator):
    """Time of a forward pass as a ratio to the original model's, both measured here and now.

    Processor time of this process on one thread (on a GPU, elapsed time between synchronisations), so that
    other programs on the machine matter little. Candidate and baseline take turns; the figure is the median
    of the ratios of neighbours, which slow drift leaves alone. Repeats until the interval is narrow or the
    time is up.

    Parameters
    ----------
    batch
        Examples in a forward pass: the task's example, repeated. With another batch than 1 the metric's name
        is ``latency_batch<n>``.
    seconds
        To spend on one measurement; three times as much when its interval is still wider than 10 %, and for
        a slow model at least as much as six pairs take.

    Raises
    ------
    SettingError
        If ``batch`` is below 1 or ``seconds`` isn't positive.
    """

    unit = "x baseline"
    direction: Direction = "minimize"
    cost: ClassVar[float] = 1.0
    summary: ClassVar[str] = "Processor time of a forward pass, one thread, as a ratio to the original model's."

    def __init__(self, batch: int = 1, seconds: float = 1.0) -> None:
        if batch < 1:
            raise SettingError("batch", batch, "must be at least 1")
        if not seconds > 0:
            raise SettingError("seconds", seconds, "must be positive")
        self.batch, self.seconds = batch, seconds
        self.name = "latency" if batch == 1 else f"latency_batch{batch}"

    def measure(self, subject: Subject) -> Measurement:
        """Return the median ratio with its 95 % interval; ``repeats`` is the number of pairs.

        ``detail`` holds the two medians in milliseconds, the batch, threads and runtime, ``wall_over_cpu``
        (above 1: something else had the processor) and ``noisy`` (the interval is wider than 10 % of the
        ratio).
        """
        example = subject.task.example
        device = device_of(subject.model)
        original = subject.baseline if subject.baseline is not None else subject.task.model
        with alone(), inference(subject.model), inference(original):
            candidate, baseline = (
                _Runner(model, at_batch(example, self.batch, device_of(model)), clock_of(device))
                for model in (subject.model, original)
            )
            pair = candidate.warm() + baseline.warm()
            turns = max(FEWEST, min(ROUND, int(self.seconds / pair)))
            median, low, high = self._paired(candidate, baseline, turns)
        spent = candidate.spent + baseline.spent
        detail = {
            "milliseconds": 1e3 * float(np.median(candidate.seconds)),
            "baseline_milliseconds": 1e3 * float(np.median(baseline.seconds)),
            "batch": self.batch,
            "threads": 1,
            "runtime": "torch eager",
            "wall_over_cpu": (candidate.wall + baseline.wall) / spent,
            "noisy": high - low > NOISY * median,
        }
        return Measurement(median, self.unit, (low, high), len(candidate.seconds), detail)

    def _paired(self, candidate: _Runner, baseline: _Runner, turns: int) -> tuple[float, float, float]:
        while True:
            for turn in range(turns):
                for runner in (candidate, baseline) if turn % 2 else (baseline, candidate):
                    runner.sample()
            ratios = [c / b for c, b in zip(candidate.seconds, baseline.seconds)]
            median, low, high = median_interval(ratios)
            width = (high - low) / median
            spent = candidate.spent + baseline.spent
            patience = self.seconds if width <= NOISY else PATIENCE * self.seconds
            if width <= FINE or spent >= patience:
                return median, low, high


register(Latency())
