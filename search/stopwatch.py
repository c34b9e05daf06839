"""Times small pieces of work as they are in the midst of a larger one.

Every piece runs in every turn, in random order, each after some other work of the same kind: so it finds caches as cold
as they are in a model's forward pass. Run again and again by itself, a small layer takes two thirds of what it takes
there. A turn begins with the larger work, so the machine's drift is the same for both, and what counts is the median of
the ratios.
"""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluators.pairing import alone

#: Turns, the fewest if a turn takes long, and the seconds for all.
TURNS, FEWEST, SECONDS = 60, 7, 1.0
#: Pieces that run in a turn at least, unless they take long: the larger work, too, leaves its traces in the caches.
PIECES = 60

#: Gets a piece of work ready, on fresh copies of its inputs.
Ready = Callable[[], Callable[[], Any]]


def processor() -> str:
    """Return the processor's name; "" where the system doesn't tell."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


def machine() -> list[str]:
    """Return what decides how long things take here, besides what else is running."""
    capability = torch.backends.cpu.get_cpu_capability()
    return [platform.machine(), processor(), str(os.cpu_count()), capability, str(torch.__version__), "1 thread"]


def once(ready: Ready, clock: Callable[[], float]) -> float:
    """Return the seconds that a piece of work takes."""
    work = ready()
    start = clock()
    work()
    return clock() - start


def beside(
    whole: Ready, works: Mapping[Hashable, Ready], context: Sequence[Ready], clock: Callable[[], float]
) -> tuple[float, dict[Hashable, float]]:
    """Time pieces of work in turns beside a larger one.

    Parameters
    ----------
    whole
        What times are relative to.
    works
        The pieces; one that can't run by itself is left out.
    context
        One of these runs before each piece, so that it finds caches as they are in the midst of such work.
    clock
        Tells seconds.

    Returns
    -------
    seconds
        Of ``whole``, the median.
    times
        Of each piece, as a share of the whole's in the same turn: the median over the turns.
    """
    with alone(), torch.no_grad():
        usable = {key: ready for key, ready in works.items() if _runs(ready)}
        around = [ready for ready in context if _runs(ready)]
        once(whole, clock)
        idle = float(np.median([once(lambda: lambda: None, clock) for _ in range(100)]))
        start = clock()
        turns = _turns(whole, usable, around, clock)
        first = next(turns)
        count = int(np.clip(SECONDS / max(clock() - start, 1e-9), FEWEST, TURNS))
        found = np.array([first, *islice(turns, count - 1)]) - idle
    ratios = np.median(found[:, 1:] / found[:, :1], axis=0)
    return float(np.median(found[:, 0])), dict(zip(usable, np.maximum(ratios, 0.0).tolist()))


def _runs(ready: Ready) -> bool:
    try:
        ready()()
    except Exception:  # such as a module that looks at the state of another
        return False
    return True


def _turns(
    whole: Ready, works: Mapping[Hashable, Ready], context: Sequence[Ready], clock: Callable[[], float]
) -> Iterator[list[float]]:
    """Yield the seconds of the whole and of each piece, again and again."""
    order, draw = list(works), random.Random(0)
    while True:
        seconds: dict[Hashable, list[float]] = {key: [] for key in works}
        start, ran = clock(), 0
        reference = once(whole, clock)
        while not ran or (ran < PIECES and clock() - start < SECONDS / TURNS):
            ran += max(1, len(order))
            draw.shuffle(order)
            for key in order:
                if context:
                    draw.choice(context)()()
                seconds[key].append(once(works[key], clock))
        yield [reference, *(float(np.median(found)) for found in seconds.values())]
