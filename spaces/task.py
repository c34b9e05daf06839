"""The fixed part of a search: the trained model, its data, and what counts as good."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .data import Batches, Source, nan_in
from .errors import DataError, ModelError, SettingError
from .metric import ACCURACY, Metric
from .plain import plain
from .seeding import seeded

#: The name of a task that was given none.
UNNAMED = "task"

Loss = Callable[[Tensor, Tensor], Tensor]


class Task:
    """A trained model and its data. Construction checks both, so that a search fails in its first second or
    not at all.

    Parameters
    ----------
    model
        A trained `torch.nn.Module`, or a function of no arguments that returns one. It is copied, never
        changed. Its forward pass takes the batch's input(s) and returns one tensor.
    validation
        Batches ``(input, target)`` that the search looks at: a DataLoader, a list, or a function returning
        one.
    test
        Batches for the final figures only. Without it they are measured on validation, and the report says
        so.
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
    SettingError
        If the name, the metric or the loss is of the wrong kind.
    DataError
        If the data isn't (input, target), or metric or loss don't fit it.
    ModelError
        If the model can't be copied or run on the data, gives NaN, or isn't deterministic.
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
        name: str = UNNAMED,
        source: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name or any(c in name for c in "/\\\0") or name.startswith("."):
            raise SettingError("name", name, "must be usable as a folder's name")
        if not isinstance(metric, Metric):
            raise SettingError("metric", metric, "must be a Metric", "Wrap your function: Metric('f1', f).")
        if not callable(loss):
            raise SettingError("loss", loss, "must be a function loss(output, target) -> scalar tensor")
        self.name, self.metric, self.loss, self.source = name, metric, loss, source
        self.validation = Batches(validation, "validation", keep=True)
        self.test = Batches(test, "test", keep=True) if test is not None else None
        self.train = Batches(train, "train", keep=False) if train is not None else None
        if calibration is not None:
            self.calibration = Batches(calibration, "calibration", keep=True)
        else:
            with seeded(0):  # a loader that shuffles gives the same examples to every run
                self.calibration = (self.train or self.validation).head(512)
        args, target = self.validation.first()
        if example is None:
            # An input without a batch dimension is the same for every example.
            self.example = tuple(a[:1].clone() if a.ndim and len(a) == len(target) else a.clone() for a in args)
        else:
            self.example = tuple(example) if isinstance(example, tuple | list) else (example,)
        if not all(isinstance(part, Tensor) for part in self.example):
            kinds = [type(part).__name__ for part in self.example]
            advice = "Give one input, as the model takes it."
            raise SettingError("example", kinds, "must be a tensor or a tuple of tensors", advice)
        self.model = _own_copy(model, args)
        self._check_model()
        self._check_fit()

    def _check_model(self) -> None:
        args, target = self.validation.first()
        first = _run(self.model, args, "the first validation batch")
        held = nan_in(args, target)
        if held and not torch.isfinite(first).all():
            raise DataError(f"validation data: the {held} of the first batch holds NaN. Clean the data.")
        if not torch.isfinite(first).all():
            raise ModelError(
                "model: its output on the first validation batch holds NaN or infinity. "
                "Check that the trained weights were loaded and that the input is normalised as in training."
            )
        if not torch.equal(first, _run(self.model, args, "the first validation batch")):
            raise ModelError(
                "model: two forward passes in eval mode on the same batch differ. "
                "Compression can't be measured on a random model: remove randomness that eval() doesn't "
                "switch off (functional dropout without training=self.training, torch.rand in forward)."
            )
        _run(self.model, self.example, "the example input")

    def _check_fit(self) -> None:
        """Run every split's first batch through model, metric and loss."""
        for split in (self.validation, self.test, self.calibration, self.train):
            if split is None:
                continue
            args, target = split.first()
            output = _run(self.model, args, f"the first {split.split} batch")
            if output.ndim == 0 or len(output) != len(target):
                raise ModelError(
                    f"model: its output has shape {tuple(output.shape)} for a batch of {len(target)} in the "
                    f"{split.split} data. The first dimension of the output must be the batch."
                )
            if split in (self.validation, self.test):
                _check_metric(self.metric, self.model, split)
            if split is self.train or (split is self.calibration and self._keeps_statistics):
                _check_loss(self.loss, output, target, split.split, nan_in(args, target))

    @property
    def _keeps_statistics(self) -> bool:
        """Whether the model has batch-norm statistics: the loss decides which ones a compressed model takes."""
        return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in self.model.modules())

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over model, example, validation data and metric.

        Of the model: the types of its modules and what they print of their settings, and its weights.
        """
        state = hashlib.sha256(f"{self.metric.name}/{self.metric.direction}".encode())
        for path, module in self.model.named_modules():
            settings = re.sub(r"\b0x[0-9a-f]+", "", module.extra_repr())  # an address differs in every process
            state.update(f"{path}:{type(module).__qualname__}({settings})".encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            state.update(key.encode() + _content(tensor))
        for tensor in self.example:
            state.update(_content(tensor))
        for args, target in self.validation:
            for tensor in (*args, target):
                state.update(_content(tensor))
        return state.hexdigest()[:16]

    @cached_property
    def behaviour(self) -> str:
        """How large the model's outputs are for its example, to three digits: models of one digest may compute in other
        ways. Not more, because sums may be rounded otherwise with other threads.
        """
        with torch.no_grad(), seeded(0):
            output = self.model(*(x.clone() for x in self.example)).double()
        return f"{float(output.abs().mean()):.2e} {float(output.square().mean().sqrt()):.2e}"


def _content(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tuple(tensor.shape)}{tensor.dtype}".encode() + plain.numpy().tobytes()


def _own_copy(model: object, args: tuple[Tensor, ...]) -> nn.Module:
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise ModelError(
                f"model: a {type(model).__name__} is not a torch.nn.Module or a function returning one. "
                "Build the model and load its weights first."
            )
        model = model()
        if not isinstance(model, nn.Module):
            raise ModelError(f"model: the function returned a {type(model).__name__}, not a torch.nn.Module.")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(
                f"model: the parameter {name!r} is {kind}; compression starts from float32. Call model.float(), "
                "and let the data be float32 too."
            )
    try:
        ours = copy.deepcopy(model).cpu().eval()
    except Exception as error:
        raise ModelError(
            f"model: it can't be copied: {_first_line(error)}. Every trial works on a copy: remove from the "
            "model what deepcopy refuses (open files, locks, tensors that are part of a graph)."
        ) from error
    _run(ours, args, "the first validation batch")
    return plain(ours, args)


def _run(model: nn.Module, args: tuple[Tensor, ...], what: str) -> Tensor:
    try:
        with torch.no_grad():
            output = model(*(a.clone() for a in args))
    except Exception as error:
        shapes = ", ".join(f"{tuple(a.shape)} {a.dtype}".replace("torch.", "") for a in args)
        raise ModelError(
            f"model: the forward pass fails on {what} ({shapes}): {_first_line(error)}. "
            "Check that the loader yields what the model takes."
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(
            f"model: the forward pass returns a {type(output).__name__}, not a tensor. "
            "Wrap the model in a module whose forward returns the logits only."
        )
    return output


def _check_metric(metric: Metric, model: nn.Module, split: Batches) -> None:
    args, target = split.first()
    output = _run(model, args, f"the first {split.split} batch")
    try:
        finite = math.isfinite(metric(output, target))
    except Exception:
        finite = False
    if finite:
        return
    # A metric may need more than a batch, as the area under a curve needs both classes: ask the whole split.
    pairs = [(_run(model, args, f"a {split.split} batch"), target) for args, target in split]
    if len({(o.shape[1:], t.shape[1:]) for o, t in pairs}) == 1:  # else the first batch must do
        output, target = torch.cat([o for o, _ in pairs]), torch.cat([t for _, t in pairs])
    advice = "Give Task a metric that fits, e.g. metric=Metric('mse', f, direction='minimize')."
    where = f"on output {tuple(output.shape)} and target {tuple(target.shape)} of the {split.split} data"
    try:
        value = metric(output, target)
    except Exception as error:
        raise DataError(f"metric {metric.name!r} fails {where}: {_first_line(error)}. {advice}") from error
    if not math.isfinite(value):
        raise DataError(f"metric {metric.name!r} is {value} {where}. {advice}")


def _check_loss(loss: Loss, output: Tensor, target: Tensor, split: str, held: str) -> None:
    advice = "Give Task a loss that fits, e.g. loss=torch.nn.functional.mse_loss"
    advice += (
        ", or leave out the training data."
        if split == "train"
        else ": it decides which batch-norm statistics a compressed model takes."
    )
    shapes = f"output {tuple(output.shape)} {output.dtype} and target {tuple(target.shape)} {target.dtype}"
    try:
        with torch.enable_grad():
            value = loss(output.detach().requires_grad_(), target)
    except Exception as error:
        raise DataError(f"loss fails on {shapes} of the {split} data: {_first_line(error)}. {advice}") from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise DataError(f"loss: on {shapes} it gives no scalar tensor with a gradient. {advice}")
    if held and not torch.isfinite(value):
        raise DataError(f"{split} data: the {held} of the first batch holds NaN. Clean the data.")
    if not torch.isfinite(value):
        raise DataError(f"loss: on {shapes} it is {float(value.detach())}. {advice}")
    if loss is F.cross_entropy and output.ndim > 1 and output.shape[1] == 1:
        raise DataError(f"loss: the cross-entropy of one class is always 0 ({shapes}). {advice}")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
