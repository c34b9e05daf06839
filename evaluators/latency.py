"""Latency next to the baseline's, on a machine that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..spaces.errors import SettingError
from .base import Direction, Evaluator, Measurement, Subject, register
from .inference import at_batch, device_of, inference
from .pairing import Program, alone, paired


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return what tells the seconds: of this process's processor time, or on a GPU of the synchronised clock."""
    if device.type != "cuda":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def _program(model: nn.Module, example: tuple[Tensor, ...], batch: int, device: torch.device) -> Program:
    """Return a model's forward pass on a batch."""
    inputs = at_batch(example, batch, device_of(model))

    def start() -> Callable[[], object]:
        own = tuple(part.clone() for part in inputs)  # a model may write into its input
        return lambda: model(*own)

    return Program(start, clock_of(device))


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
        example, device = subject.task.example, device_of(subject.model)
        original = subject.baseline if subject.baseline is not None else subject.task.model
        with alone(), inference(subject.model), inference(original):
            found = paired(
                _program(subject.model, example, self.batch, device),
                _program(original, example, self.batch, device),
                self.seconds,
            )
        detail = {
            "milliseconds": found.milliseconds,
            "baseline_milliseconds": found.baseline_milliseconds,
            "batch": self.batch,
            "threads": 1,
            "runtime": "torch eager",
            "wall_over_cpu": found.wall_over_cpu,
            "noisy": found.noisy,
        }
        return Measurement(found.ratio, self.unit, (found.low, found.high), found.pairs, detail)


register(Latency())
