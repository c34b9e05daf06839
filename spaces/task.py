"""The fixed part of a search: the trained model, its data, and what counts as good."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import convert_attention
from .data import Batches, Source
from .errors import DataError, ModelError, SettingError
from .metric import ACCURACY, Metric

Loss = Callable[[Tensor, Tensor], Tensor]


def _sample(args: Any) -> tuple[Tensor, ...]:
    return tuple(args) if isinstance(args, tuple | list) else (args,)


class Task:
    """A trained model and its data. Construction checks both, so that a search fails in its first second or not.

    Parameters
    ----------
    model
        A trained `torch.nn.Module`, or a function of no arguments that returns one. It is copied, never changed.
        Its forward pass takes the batch's input(s) and returns one tensor.
    validation
        Batches ``(input, target)`` that the search looks at: a DataLoader, a list, or a function returning one.
    test
        Batches for the final figures only. Without it they are measured on validation, and the report says so.
    train
        Batches for recovery training; without it no recipe trains.
    calibration
        Batches for statistics (batch norm, activation ranges). By default the first 512 training examples,
        or of validation where there is no training data.
    metric
        The quality to keep; top-1 accuracy by default.
    loss
        ``loss(output, target) -> scalar tensor`` for recovery training; cross-entropy by default.
    example
        An input the model is traced with, with the batch dimension; by default from validation.
    name
        For folders and reports.
    source
        ``module:function`` that builds the task anywhere; recorded in saved models whose structure needs the
        user's class.

    Raises
    ------
    DataError, ModelError
        If the data isn't (input, target) or the model can't run on it, gives NaN, or isn't deterministic.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        validation: Source,
        test: Source | None = None,
        train: Source | None = None,
        *,
        calibration: Source | None = None,
        metric: Metric = ACCURACY,
        loss: Loss = F.cross_entropy,
        example: Tensor | tuple[Tensor, ...] | None = None,
        name: str = "task",
        source: str | None = None,
    ) -> None:
        if not name or any(c in name for c in "/\\\0") or name.startswith("."):
            raise SettingError("name", name, "must be usable as a folder's name")
        self.name, self.metric, self.loss, self.source = name, metric, loss, source
        self.validation = Batches(validation, "validation", keep=True)
        self.test = Batches(test, "test", keep=True) if test is not None else None
        self.train = Batches(train, "train", keep=False) if train is not None else None
        args, target = self.validation.first()
        for split in (self.test, self.train):
            if split is not None:
                split.first()
        self.example = _sample(example) if example is not None else tuple(a[:1].clone() for a in args)
        if calibration is not None:
            self.calibration = Batches(calibration, "calibration", keep=True)
            self.calibration.first()
        else:
            self.calibration = (self.train or self.validation).head(512)
        self.model = self._checked_model(model, args, target)

    def _checked_model(self, model: Any, args: tuple[Tensor, ...], target: Tensor) -> nn.Module:
        if not isinstance(model, nn.Module):
            if not callable(model):
                raise ModelError(f"model: a {type(model).__name__} is not a torch.nn.Module or a function returning one.")
            model = model()
            if not isinstance(model, nn.Module):
                raise ModelError(f"model: the function returned a {type(model).__name__}, not a torch.nn.Module.")
        ours = convert_attention(copy.deepcopy(model)).eval()
        first = _run(ours, args)
        if not torch.isfinite(first).all():
            raise ModelError(
                "model: its output on the first validation batch holds NaN or infinity. "
                "Check that the trained weights were loaded and that the input is normalised as in training."
            )
        if not torch.equal(first, _run(ours, args)):
            raise ModelError(
                "model: two forward passes in eval mode on the same batch differ. "
                "Compression can't be measured on a random model: remove randomness that eval() doesn't switch off "
                "(functional dropout without training=self.training, torch.rand in forward)."
            )
        if len(first) != len(target):
            raise ModelError(
                f"model: its output has {len(first)} rows for a batch of {len(target)}. "
                "The first dimension of the output must be the batch."
            )
        try:
            value = self.metric(first, target)
        except Exception as error:
            raise DataError(
                f"metric {self.metric.name!r} fails on output {tuple(first.shape)} and target {tuple(target.shape)} "
                f"({error}). Give Task a metric that fits, e.g. metric=Metric('mse', f, direction='minimize')."
            ) from error
        if value != value:
            raise DataError(f"metric {self.metric.name!r} is NaN on the first validation batch.")
        return ours

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over weights, example, validation data and metric: what makes a task the same."""
        state = hashlib.sha256(f"{self.metric.name}/{self.metric.direction}".encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            state.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
            state.update(_bytes(tensor))
        for args, target in self.validation:
            for tensor in (*args, target):
                state.update(_bytes(tensor))
        return state.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _run(model: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    try:
        with torch.no_grad():
            output = model(*(a.clone() for a in args))
    except Exception as error:
        shapes = ", ".join(f"{tuple(a.shape)} {a.dtype}".replace("torch.", "") for a in args)
        raise ModelError(
            f"model: the forward pass fails on the first validation batch ({shapes}): "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}. "
            "Check that the loader yields what the model takes."
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(
            f"model: the forward pass returns a {type(output).__name__}, not a tensor. "
            "Wrap the model in a module whose forward returns the logits only."
        )
    return output
