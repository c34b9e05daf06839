"""How evaluators run a model: in eval mode, without gradients, on their own inputs, leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's first tensor lives; the CPU if it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return first.device if first is not None else torch.device("cpu")


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode without gradients, and every module back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def at_batch(example: tuple[Tensor, ...], batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return copies of the example inputs with ``batch`` examples, on a device.

    Parameters
    ----------
    example
        Inputs whose first dimension is the batch. An input with another first dimension than the first
        input's has no batch and is copied as it is.
    batch
        How many examples to take; they start over when the example has fewer.
    device
        Where the model is.
    """
    rows = len(example[0])
    order = torch.arange(batch) % rows
    out = []
    for part in example:
        batched = part.ndim > 0 and len(part) == rows
        # Indexing with a tensor copies; the other branch copies because a model may write into its input.
        out.append((part[order.to(part.device)] if batched else part.clone()).to(device))
    return tuple(out)
