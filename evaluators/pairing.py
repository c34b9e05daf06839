"""Two programs timed in turns: how long one takes as a share of the other, whatever else the machine does."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..spaces.pulse import beat
from ..spaces.threads import threaded

#: One sample lasts at least this many seconds, far above the clock's resolution.
SAMPLE = 0.002
#: Pairs between two looks at the interval, and the fewest when a pair takes long.
ROUND, FEWEST = 20, 6
#: Width of the interval, relative to the ratio: stop at once below FINE, call the figure noisy above NOISY.
FINE, NOISY = 0.02, 0.10
#: Seconds that go by for each of the processor's: above it, another program had the processor for a fifth of the time.
#: The pairing keeps a figure narrow then, but caches and clock rates are shared, and shift it.
CONTENDED = 1.25
#: A figure that is still noisy when its time is used up gets this many times as much.
PATIENCE = 3
RESAMPLES = 1000
#: Seconds after which one that waits for its turn counts a step.
WAIT = 1.0
#: Where all processes of this machine find each other; a worker sets another folder for its own temporary files later.
_SHARED = Path(tempfile.gettempdir())

Clock = Callable[[], float]


def median_interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval (percentiles; the same for the same ratios)."""
    values = np.asarray(ratios)
    median = float(np.median(values))
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return median, min(median, float(low)), max(median, float(high))


def clock_of(threads: int = 1, device: torch.device | None = None) -> Clock:
    """Return what tells the seconds of a program: on one thread those of this process's processor time, which other
    programs leave alone; on several, and on a GPU, which is synchronised first, those that go by.
    """
    if device is not None and device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return synchronised
    return time.process_time if threads == 1 else time.perf_counter


@contextmanager
def alone(threads: int = 1) -> Iterator[None]:
    """One measuring process of this user at a time on the machine, so many threads, no garbage collection."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    collecting = gc.isenabled()
    with _turn(FileLock(_SHARED / f"paretopress-latency-{user}.lock")), threaded(threads):
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


@contextmanager
def _turn(lock: FileLock) -> Iterator[None]:
    """Hold a lock. Waiting for it is no sign of being stuck: who holds it is watched as well."""
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=WAIT)
            break
        beat()
    try:
        yield
    finally:
        lock.release()


@dataclass
class Program:
    """What is timed.

    Attributes
    ----------
    start
        Called before each sample, and not timed; what it returns is one pass.
    clock
        Tells the seconds, e.g. `time.process_time`.
    passes
        In one sample.
    seconds
        Of one pass, in each sample.
    spent, wall
        Seconds of all samples, by ``clock`` and by the wall.
    """

    start: Callable[[], Callable[[], object]]
    clock: Clock = time.process_time
    passes: int = 1
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0
    wall: float = 0.0

    def sample(self) -> float:
        """Run and time ``passes`` passes; return the seconds of all of them."""
        run = self.start()
        wall, begun = time.perf_counter(), self.clock()
        for _ in range(self.passes):
            run()
        taken = self.clock() - begun
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


@dataclass(frozen=True)
class Pairing:
    """How long a candidate takes beside a baseline.

    Attributes
    ----------
    ratio, low, high
        The median of the ratios of neighbouring samples, and its 95 % interval.
    pairs
        How many there are.
    milliseconds, baseline_milliseconds
        Medians of one pass.
    wall_over_cpu
        Above 1, something else had the processor.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    milliseconds: float
    baseline_milliseconds: float
    wall_over_cpu: float

    @property
    def noisy(self) -> bool:
        """Whether the interval is wider than 10 % of the ratio."""
        return self.high - self.low > NOISY * self.ratio

    @property
    def contended(self) -> bool:
        """Whether something else had the processor for a fifth of the time or more."""
        return self.wall_over_cpu > CONTENDED

    @property
    def doubts(self) -> str:
        """What speaks against the figure, in words for a table."""
        marks = {"noisy": self.noisy, "busy machine": self.contended}
        return ", ".join(word for word, holds in marks.items() if holds)

    @classmethod
    def of(cls, candidate: Sequence[float], baseline: Sequence[float], wall_over_cpu: float = 1.0) -> Pairing:
        """Return the figures of seconds of passes, (pairs,) each, those of a pair beside each other."""
        median, low, high = median_interval([c / b for c, b in zip(candidate, baseline)])
        mine, theirs = (1e3 * float(np.median(seconds)) for seconds in (candidate, baseline))
        return cls(median, low, high, len(candidate), mine, theirs, wall_over_cpu)


def paired(candidate: Program, baseline: Program, seconds: float) -> Pairing:
    """Return the ratio of two programs that take turns, so that slow drift leaves it alone.

    Repeats until the interval is narrow or the time is up; three times as long while it is wider than 10 %.
    """
    pair = candidate.warm() + baseline.warm()
    turns = max(FEWEST, min(ROUND, int(seconds / pair)))
    while True:
        for turn in range(turns):
            for program in (candidate, baseline) if turn % 2 else (baseline, candidate):
                program.sample()
        spent = candidate.spent + baseline.spent
        found = Pairing.of(candidate.seconds, baseline.seconds, (candidate.wall + baseline.wall) / spent)
        if found.high - found.low <= FINE * found.ratio or spent >= (PATIENCE if found.noisy else 1) * seconds:
            return found
