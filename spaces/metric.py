"""What "good" means for a task: a number computed from all outputs and targets of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import SettingError


def _top1(outputs: Tensor, targets: Tensor) -> float:
    """Share of correct arg-max predictions; classes on dimension 1 when there are more than two dimensions."""
    axis = 1 if outputs.ndim > 2 else -1
    return float((outputs.argmax(axis) == targets).double().mean())


@dataclass(frozen=True)
class Metric:
    """The quality of a model on a split, larger is better unless ``direction`` says otherwise.

    Parameters
    ----------
    name
        How objectives, tables and files call it, e.g. "f1".
    function
        ``f(outputs, targets) -> number`` over a whole split (tensors concatenated along the batch), or an object
        with ``update(outputs, targets)``, ``compute()`` and ``reset()``, such as a torchmetrics metric.
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
    function: Callable[..., Any]
    direction: Literal["maximize", "minimize"] = "maximize"
    unit: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise SettingError("metric.direction", self.direction, "must be 'maximize' or 'minimize'")
        if not self.streams and not callable(self.function):
            raise SettingError("metric", self.function, "must be a function f(outputs, targets) or a torchmetrics object")

    @property
    def streams(self) -> bool:
        """Whether the function is an object with update, compute and reset."""
        return all(callable(getattr(self.function, name, None)) for name in ("update", "compute", "reset"))

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric of a whole split as a float."""
        if self.streams:
            target: Any = self.function
            target.reset()
            target.update(outputs, targets)
            return float(target.compute())
        return float(torch.as_tensor(self.function(outputs, targets)))


ACCURACY = Metric("accuracy", _top1)
