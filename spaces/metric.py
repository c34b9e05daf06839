"""What "good" means for a task: a number computed from all outputs and targets of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import SettingError

#: The target that `torch.nn.functional.cross_entropy` ignores.
IGNORED = -100


def hits(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many arg-max predictions of each example are correct, and how many of its targets count.

    Parameters
    ----------
    outputs
        (batch, classes, ...), the layout of `torch.nn.functional.cross_entropy`.
    targets
        (batch, ...), class indices; -100 is left out, as in the cross-entropy.

    Returns
    -------
    tuple of Tensor
        Both (batch,), int64.

    Raises
    ------
    ValueError
        If the shapes are others: comparing them would broadcast to a number that means nothing.
    """
    wanted = (outputs.shape[0], *outputs.shape[2:]) if outputs.ndim >= 2 else None
    if tuple(targets.shape) != wanted or outputs.shape[1] < 2:
        raise ValueError("accuracy needs outputs (batch, classes, ...) and targets (batch, ...) of class indices")
    counted = targets != IGNORED
    right = (outputs.argmax(1) == targets) & counted
    return right.reshape(len(targets), -1).sum(1), counted.reshape(len(targets), -1).sum(1)


def _top1(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of correct arg-max predictions; see `hits`."""
    right, counted = hits(outputs, targets)
    return float(right.sum().double() / counted.sum())


@runtime_checkable
class Streaming(Protocol):
    """A metric that takes a split in batches, such as those of torchmetrics."""

    def reset(self) -> None:
        """Forget all batches."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take one batch."""

    def compute(self) -> Any:
        """Return the number for the batches since the reset."""


@dataclass(frozen=True)
class Metric:
    """The quality of a model on a split, larger is better unless ``direction`` says otherwise.

    Parameters
    ----------
    name
        How objectives, tables and files call it, e.g. "f1".
    function
        ``f(outputs, targets) -> number`` over a whole split (tensors concatenated along the batch), or an
        object with ``update``, ``compute`` and ``reset`` (see `Streaming`).
    direction
        "maximize" or "minimize".
    unit
        Printed behind the value.

    Raises
    ------
    SettingError
        If the direction is unknown or the function can't be called that way.
    """

    name: str
    function: Callable[..., Any] | Streaming
    direction: Literal["maximize", "minimize"] = "maximize"
    unit: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise SettingError("metric.direction", self.direction, "must be 'maximize' or 'minimize'")
        if not self.streams and not callable(self.function):
            rule = "must be a function f(outputs, targets) or have update, compute and reset"
            raise SettingError(f"metric {self.name!r}", self.function, rule)

    @property
    def streams(self) -> bool:
        """Whether the function is an object with update, compute and reset."""
        return isinstance(self.function, Streaming)

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric of a whole split as a float."""
        if isinstance(self.function, Streaming):
            self.function.reset()
            self.function.update(outputs, targets)
            return float(self.function.compute())
        return float(torch.as_tensor(self.function(outputs, targets)))


ACCURACY = Metric("accuracy", _top1)
