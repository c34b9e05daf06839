"""Batch-norm statistics after compression: a changed layer shifts what follows, so running means go stale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..spaces.data import Batch, to_device
from ..spaces.task import Loss

State = list[dict[str, Tensor]]
#: ``judge(model, more) -> whether it is hopeless``.
Judge = Callable[[nn.Module, bool], bool]
_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def reestimate(model: nn.Module, batches: Iterable[Batch], loss: Loss, judge: Judge | None = None) -> bool:
    """Measure running means and variances anew, and keep them if they lower the loss on the same batches.

    The statistics are cumulative averages over the batches (Ioffe & Szegedy, 2015, algorithm 2, steps 8-11);
    only the batch-norm layers run in training mode meanwhile, so dropout stays off. A mildly compressed model
    whose old statistics serve it better keeps them, bit for bit.

    Parameters
    ----------
    model
        In eval mode; its batch-norm buffers may change, nothing else does.
    batches
        Calibration data, iterated three times. Batches of one example are left out of the statistics: they have no
        variance.
    loss
        ``loss(output, target) -> scalar tensor``.
    judge
        ``judge(model, more)`` is asked about the model with its new statistics, before it is known which ones are
        kept: that takes two passes more. If it answers that the model is hopeless, it is asked again with the old
        ones; ``more`` tells whether they are still to come. It must change nothing; what it raises passes, and the
        old statistics stay. A model without batch norm is judged as it is.

    Returns
    -------
    bool
        Whether the new statistics were kept; False, without running the model, if it has no batch norm.
    """
    layers = [m for m in model.modules() if isinstance(m, _KINDS) and m.track_running_stats]
    judge = judge or _hopeful
    if not layers:
        judge(model, False)
        return False
    device = layers[0].get_buffer("running_mean").device
    old = _state(layers)
    keep = False
    try:
        if not _measure(model, layers, batches, device):
            _put(layers, old)
            judge(model, False)
            return False
        new = _state(layers)
        if judge(model, True):
            _put(layers, old)
            judge(model, False)
            _put(layers, new)
        new_loss = _mean_loss(model, batches, loss, device)
        _put(layers, old)
        old_loss = _mean_loss(model, batches, loss, device)
        # Written so that a finite new loss beats an old one that is NaN.
        keep = math.isfinite(new_loss) and not old_loss <= new_loss
    finally:
        _put(layers, new if keep else old)
    return keep


def _hopeful(model: nn.Module, more: bool) -> bool:  # noqa: ARG001 - no model is hopeless
    return False


def _state(layers: Sequence[_BatchNorm]) -> State:
    return [{k: b.clone() for k, b in layer.named_buffers(recurse=False)} for layer in layers]


def _put(layers: Sequence[_BatchNorm], state: State) -> None:
    for layer, buffers in zip(layers, state):
        for key, value in buffers.items():
            layer.get_buffer(key).copy_(value)


@torch.no_grad()
def _measure(model: nn.Module, layers: Sequence[_BatchNorm], batches: Iterable[Batch], device: torch.device) -> bool:
    momenta = [layer.momentum for layer in layers]
    measured = False
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the cumulative average
            layer.train()
        for batch in batches:
            args, target = to_device(batch, device)
            if len(target) > 1:
                model(*args)
                measured = True
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
            layer.eval()
    return measured


@torch.no_grad()
def _mean_loss(model: nn.Module, batches: Iterable[Batch], loss: Loss, device: torch.device) -> float:
    total, count = 0.0, 0
    for batch in batches:
        args, target = to_device(batch, device)
        total += float(loss(model(*args), target)) * len(target)
        count += len(target)
    return total / count
