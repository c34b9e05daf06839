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
#: The share of the new statistics in those that are halfway.
_HALF = 0.5
_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def reestimate(model: nn.Module, batches: Iterable[Batch], loss: Loss, judge: Judge | None = None) -> bool:
    """Measure running means and variances anew, and keep them, or those halfway to them, if that lowers the loss on the
    same batches.

    The statistics are cumulative averages over the batches (Ioffe & Szegedy, 2015, algorithm 2, steps 8-11);
    only the batch-norm layers run in training mode meanwhile, so dropout stays off. They are of a few examples, and a
    network's weights were trained with others: a mildly compressed model does best halfway between old and new ones
    (Schneider et al., 2020, arXiv:2006.16971), or keeps its old ones, bit for bit.

    Parameters
    ----------
    model
        In eval mode; its batch-norm buffers may change, nothing else does.
    batches
        Calibration data, iterated four times. Batches of one example are left out of the statistics: they have no
        variance.
    loss
        ``loss(output, target) -> scalar tensor``.
    judge
        ``judge(model, more)`` is asked about the model with its new statistics, before it is known which ones are
        kept: that takes three passes more. If it answers that the model is hopeless, it is asked again with those
        halfway, and with the old ones; ``more`` tells whether there are any to come. It must change nothing; what it
        raises passes, and the old statistics stay. A model without batch norm is judged as it is.

    Returns
    -------
    bool
        Whether the statistics changed; False, without running the model, if it has no batch norm.
    """
    layers = [m for m in model.modules() if isinstance(m, _KINDS) and m.track_running_stats]
    judge = judge or _hopeful
    if not layers:
        judge(model, False)
        return False
    device = layers[0].get_buffer("running_mean").device
    old = kept = _state(layers)
    try:
        if not _measure(model, layers, batches, device):
            _put(layers, old)
            judge(model, False)
            return False
        new = _state(layers)
        sets = (new, _halfway(old, new), old)
        for left, state in zip((True, True, False), sets):
            _put(layers, state)
            if not judge(model, left):
                break
        best, least = old, math.inf
        for state in reversed(sets):  # of equals the oldest; and no loss is below NaN
            _put(layers, state)
            if (found := _mean_loss(model, batches, loss, device)) < least:
                best, least = state, found
        kept = best
    finally:
        _put(layers, kept)
    return kept is not old


def _hopeful(model: nn.Module, more: bool) -> bool:  # noqa: ARG001 - no model is hopeless
    return False


def _state(layers: Sequence[_BatchNorm]) -> State:
    return [{k: b.clone() for k, b in layer.named_buffers(recurse=False)} for layer in layers]


def _halfway(old: State, new: State) -> State:
    return [
        {k: torch.lerp(a[k], v, _HALF) if v.is_floating_point() else v for k, v in b.items()} for a, b in zip(old, new)
    ]


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
