"""What trials may use."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..spaces.errors import SettingError

_ADDRESS = re.compile(r"auto|local|(ray://)?\S+:\d+")
#: No worker holds less: it has torch and the task in its memory.
_LEAST_MEMORY = 100 * 10**6
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Resources:
    """What trials may use.

    Attributes
    ----------
    address
        Of a running Ray cluster ("auto", "host:port"); "local" starts Ray on this machine; None takes the address of
        the environment's RAY_ADDRESS, or starts Ray on this machine.
    workers
        Trials at a time; None fills the machine or cluster, as nodes come and go.
    cpus
        For each trial: what Ray reserves, and how many threads torch uses (at least one). In-process trials use
        as many, so that a recipe is the same model wherever it runs.
    gpus
        Reserved for each trial, e.g. 0.5 where two share one, for techniques, metrics and data of your own that use
        them: models are compressed, trained and measured on the CPU.
    custom
        For each trial, by the names that the cluster's nodes were started with, e.g. {"phone": 1}: trials run only
        where they are.
    memory
        Of its own that a worker may hold, in bytes or as "4 GB": a trial that takes it above has failed. None for no
        limit but the machine's.
    minutes
        That a trial may take: one that takes longer has failed. None for no limit: a trial is given up only if it gets
        no further for ten minutes.

    ``address``, ``workers``, ``gpus``, ``custom``, ``memory`` and ``minutes`` are for trials on Ray.

    Raises
    ------
    SettingError
        For the first that can't be.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    memory: int | str | None = None
    minutes: float | None = None

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster that is to be used, None for one on this machine."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        return address if address and address != "local" else None

    def __post_init__(self) -> None:
        if self.address is not None and not (isinstance(self.address, str) and _ADDRESS.fullmatch(self.address)):
            raise SettingError(
                "address", self.address, "must be 'auto', 'local' or like 'host:6379'", "Ray prints its own."
            )
        if self.workers is not None and (not isinstance(self.workers, int) or self.workers < 1):
            rule = "must be a whole number, at least 1"
            raise SettingError("workers", self.workers, rule, "Leave it out to use all cores.")
        if not _is_number(self.cpus) or self.cpus <= 0:
            raise SettingError("cpus", self.cpus, "must be a number above 0")
        if not _is_number(self.gpus) or self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise SettingError("gpus", self.gpus, "must be a share of one GPU, or a whole number of them")
        if not isinstance(self.custom, Mapping) or not all(
            isinstance(name, str) and _is_number(amount) and amount > 0 for name, amount in self.custom.items()
        ):
            raise SettingError("custom", self.custom, "must be amounts above 0 by name", "E.g. {phone: 1}.")
        for name in self.custom:
            if name.upper() in ("CPU", "GPU", "MEMORY"):
                raise SettingError("custom", name, "is none of the cluster's own", "Use cpus, gpus or memory.")
        object.__setattr__(self, "memory", _bytes(self.memory))
        if self.minutes is not None and (not _is_number(self.minutes) or self.minutes <= 0):
            raise SettingError("minutes", self.minutes, "must be the minutes of a trial, above 0")

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` as a number."""
        return self.memory if not isinstance(self.memory, str) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bytes(value: Any) -> int | None:
    if value is None:
        return None
    if _is_number(value) and value > 0:
        return _enough(int(value), value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?B)\s*", value) if isinstance(value, str) else None
    if found is None or not float(found[1]):
        rule = "must be the bytes of a trial, above 0, with a unit such as '4 GB' or as a number"
        raise SettingError("memory", value, rule)
    return _enough(int(float(found[1]) * _UNITS[found[2]]), value)


def _enough(found: int, value: Any) -> int:
    if found < _LEAST_MEMORY:
        rule = f"is {found:,} bytes, and every worker holds more than {_LEAST_MEMORY // 10**6} MB"
        raise SettingError("memory", value, rule, "Write '4 GB'.")
    return found
