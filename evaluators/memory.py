"""Peak memory of one forward pass."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .base import Direction, Evaluator, Measurement, Subject, register
from .inference import at_batch, device_of, inference


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive while operators run; views and in-place results add nothing."""

    def __init__(self, present: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has no types here
        self._sizes: dict[int, int] = {}
        self.now = 0
        for tensor in present:
            self._hold(tensor)
        self.peak = self.now

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        self.peak = max(self.peak, self.now)
        return out


def _bytes(tensors: Iterable[Tensor]) -> int:
    return _Live(tensors).now


def _peak_eager(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    collecting = gc.isenabled()
    gc.disable()  # when the collector happens to run must not decide what counts as alive
    try:
        live = _Live(chain(model.parameters(), model.buffers(), inputs))
        with live:
            model(*inputs)
        return live.peak
    finally:
        if collecting:
            gc.enable()


def _peak_cuda(model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> int:
    model(*(part.clone() for part in inputs))  # the libraries allocate their workspaces once
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model(*inputs)
    torch.cuda.synchronize(device)
    used: int = torch.cuda.max_memory_allocated(device) - before
    return _bytes(chain(model.parameters(), model.buffers(), inputs)) + used


class Memory(Evaluator):
    """Weights, buffers, the input, and the most that activations take at any moment, for one example.

    On the CPU it is the exact sum of the tensors alive after each operator of the eager forward pass; what an
    operator needs inside itself isn't seen. On a GPU it is the allocator's peak. The weights are the ones
    that run, dense and in their own type, however few bits they have in the file.
    """

    name = "memory"
    unit = "B"
    direction: Direction = "minimize"
    anew = True
    cost: ClassVar[float] = 0.02
    summary: ClassVar[str] = "Peak memory of one forward pass at batch 1: weights, buffers and live activations."

    def measure(self, subject: Subject) -> Measurement:
        """Return the peak; ``detail`` splits it into weights and buffers, and input and activations."""
        model = subject.model
        device = device_of(model)
        inputs = at_batch(subject.task.example, 1, device)
        with inference(model):
            peak = _peak_cuda(model, inputs, device) if device.type == "cuda" else _peak_eager(model, inputs)
        weights = _bytes(chain(model.parameters(), model.buffers()))
        return Measurement(float(peak), self.unit, detail={"weights": weights, "activations": peak - weights})


register(Memory())
