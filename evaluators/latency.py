"""Latency next to the baseline's, on a machine that others use too."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

from ..spaces.errors import SettingError
from .base import Direction, Evaluator, Measurement, Subject, register
from .device import Command, Measure, timed_by
from .pairing import Pairing, alone, paired
from .runtimes import Runtime
from .runtimes import runtime as find


class Latency(Evaluator):
    """Time of a forward pass as a ratio to the original model's, both measured here and now.

    Of the deployed file, unless a runtime of torch is chosen. Processor time of this process on one thread (on more
    threads and on a GPU, elapsed time), so that other programs on the machine matter little. Candidate and baseline
    take turns; the figure is the median of the ratios of neighbours, which slow drift leaves alone. Repeats until the
    interval is narrow or the time is up.

    Parameters
    ----------
    batch
        Examples in a forward pass: the task's example, repeated.
    seconds
        To spend on one measurement; three times as much when its interval is still wider than 10 %, and for
        a slow model at least as much as six pairs take.
    runtime
        "onnxruntime"; "openvino", an extra; "torch", operator by operator, or "compiled", as `torch.compile` makes it.
    threads
        That may compute.
    device
        What times the two files elsewhere instead, such as on a phone: a command line (see `Command`), or in Python a
        function of a module, ``device(model, baseline, batch, threads)``: it is given the paths of two ONNX files and
        returns the seconds of passes of each, as two lists or as ``{"seconds": [...], "baseline_seconds": [...]}``.
    name
        In objectives, constraints and tables; by default "latency", with another batch than 1 ``latency_batch<n>``.

    Raises
    ------
    SettingError
        For a setting that can't be.
    """

    unit = "x baseline"
    anew = True
    direction: Direction = "minimize"
    cost: ClassVar[float] = 5.0
    summary: ClassVar[str] = "Processor time of the deployed file, one thread, as a ratio to the original's."

    def __init__(
        self,
        batch: int = 1,
        seconds: float = 1.0,
        *,
        runtime: str = "onnxruntime",
        threads: int = 1,
        device: str | Measure | None = None,
        name: str = "",
    ) -> None:
        for setting, value in (("batch", batch), ("threads", threads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(setting, value, "must be a whole number, at least 1")
        if not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
            raise SettingError("seconds", seconds, "must be positive")
        if name and not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise SettingError("name", name, "must be letters, digits and _, a letter first")
        if not (device is None or isinstance(device, str) or callable(device)):
            raise SettingError("device", device, "must be a command line or a function")
        if callable(device) and not _takes_four(device):
            raise SettingError("device", device, "must be a function of (model, baseline, batch, threads)")
        self.batch, self.seconds, self.threads = batch, seconds, threads
        self.runtime = runtime
        self._measure: Measure | None = Command(device) if isinstance(device, str) else device
        self.name = name or ("latency" if batch == 1 else f"latency_batch{batch}")
        self._where  # noqa: B018 - a runtime that isn't there is refused now

    @property
    def _where(self) -> Runtime:
        return find(self.runtime)

    @property
    def deployed(self) -> bool:
        """Whether it times the deployed file."""
        return self._measure is not None or self._where.deployed

    @property
    def here(self) -> bool:
        """Whether it is this machine that is timed."""
        return self._measure is None

    @property
    def conditions(self) -> str:
        """What runs it, e.g. "ONNX Runtime, batch 1, 1 thread"."""
        what = self._where.label if self.here else getattr(self._measure, "line", self.name)
        return f"{what}, batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def but(self, *, seconds: float | None = None, runtime: str | None = None) -> Latency:
        """Return the same metric with other settings."""
        return Latency(
            self.batch, seconds or self.seconds, runtime=runtime or self.runtime, threads=self.threads,
            device=self._measure, name=self.name,
        )  # fmt: skip

    def measure(self, subject: Subject) -> Measurement:
        """Return the median ratio with its 95 % interval; ``repeats`` is the number of pairs.

        ``detail`` holds the two medians in milliseconds, the batch, threads and runtime, whether deployed files were
        timed, ``wall_over_cpu`` (above 1: something else had the processor), ``contended`` (for a fifth of the time or
        more) and ``noisy`` (the interval is wider than 10 % of the ratio).
        """
        found = self._timed(subject)
        detail: dict[str, Any] = {
            "milliseconds": found.milliseconds,
            "baseline_milliseconds": found.baseline_milliseconds,
            "batch": self.batch,
            "threads": self.threads,
            "runtime": self._where.label if self.here else getattr(self._measure, "line", "device"),
            "wall_over_cpu": found.wall_over_cpu,
            "contended": found.contended,
            "noisy": found.noisy,
            "deployed": self.deployed,
        }
        return Measurement(found.ratio, self.unit, (found.low, found.high), found.pairs, detail)

    def _timed(self, subject: Subject) -> Pairing:
        if self._measure is not None:
            files = subject.deployed(), subject.deployed_baseline()
            return timed_by(self._measure, *files, self.batch, self.threads)
        # What takes long, exporting and loading, keeps nobody else from measuring.
        with self._where.programs(subject, self.batch, self.threads) as (mine, other), alone(self.threads):
            return paired(mine, other, self.seconds)


def _takes_four(function: Measure) -> bool:
    try:
        inspect.signature(function).bind(*range(4))
    except TypeError:
        return False
    except ValueError:  # a function of C doesn't tell
        pass
    return True


register(Latency())
