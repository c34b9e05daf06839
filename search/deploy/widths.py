"""The numbers of channels that a runtime's convolutions like: others are padded to them, and take as long or longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from ...evaluators.onnx_session import Session
from ...evaluators.pairing import alone
from .one_node import one_node

#: Widths that are timed, the height and width of the images, and the turns.
WIDTHS, SIDE, TURNS = range(33, 65), 12, 15
#: Multiples that kernels may like, and how much longer the next one up may take than a width that isn't one.
MULTIPLES, AS_FAST = (32, 16, 8, 4, 2), 1.02


@dataclass(frozen=True)
class Widths:
    """What was found.

    Attributes
    ----------
    multiple
        The largest one that it costs nothing to round up to; 1 if there is none.
    seconds
        Width -> of a 3x3 convolution from so many channels to as many.
    """

    multiple: int
    seconds: dict[int, float]

    @property
    def waste(self) -> float:
        """How much longer a width that is no multiple takes than its share of the next one's work; the median."""
        found = []
        for width, taken in self.seconds.items():
            above = -(-width // self.multiple) * self.multiple
            if above != width and above in self.seconds:
                found.append(taken / (self.seconds[above] * (width / above) ** 2))
        return float(np.median(found)) if found else 1.0


def liked_widths() -> Widths:
    """Time convolutions in ONNX Runtime on one thread of this machine."""
    with alone():
        runs = {width: _convolution(width) for width in WIDTHS}
        taken: dict[int, list[float]] = {width: [] for width in WIDTHS}
        for turn in range(TURNS + 1):
            for width in runs if turn % 2 else reversed(runs):
                start = time.process_time()
                runs[width]()
                taken[width].append(time.process_time() - start)
    seconds = {width: float(np.median(times[1:])) for width, times in taken.items()}
    return Widths(multiple_of(seconds), seconds)


def multiple_of(seconds: dict[int, float]) -> int:
    """Return the largest multiple to which rounding up costs nothing, for nearly all widths."""
    for multiple in MULTIPLES:
        pairs = [(width, -(-width // multiple) * multiple) for width in seconds if width % multiple]
        ratios = [seconds[above] / seconds[width] for width, above in pairs if above in seconds]
        if ratios and np.median(ratios) <= AS_FAST:
            return multiple
    return 1


def _convolution(width: int) -> Callable[[], Any]:
    """Return a run of a convolution."""
    rng = np.random.default_rng(width)
    weight = rng.standard_normal((width, width, 3, 3)).astype(np.float32)
    shape = [1, width, SIDE, SIDE]
    data = one_node(helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), shape, shape, {"w": weight})
    return Session(data).ready(rng.standard_normal(shape).astype(np.float32))
