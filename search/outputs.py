"""How far the outputs of a changed model are from the original's, on a small batch."""

from __future__ import annotations

import copy
import math
from functools import cached_property

import torch
from torch import Tensor, nn

from ..compressors.batchnorm import reestimate
from ..compressors.distillation.losses import scores_classes
from ..spaces.data import Batches
from ..spaces.task import Task
from .fisher import counted, temperature

#: Examples on which outputs are compared.
EXAMPLES = 128


class Outputs:
    """The outputs of a task's original model on calibration examples, and what others give there."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @cached_property
    def _softness(self) -> float:
        return temperature(self._task)

    @cached_property
    def sample(self) -> Batches:
        """The examples."""
        return self._task.calibration.head(EXAMPLES)

    @cached_property
    def _outputs(self) -> list[Tensor]:
        return _run(self._task.model, self.sample)

    @cached_property
    def _counted(self) -> list[Tensor]:
        """Of each batch, which positions of class scores count; all of them if the loss would leave out every one."""
        found = [counted(self._task, output, target) for output, (_, target) in zip(self._outputs, self.sample)]
        return found if any(x.any() for x in found) else [torch.ones_like(x) for x in found]

    def divergence(self, model: nn.Module) -> float:
        """Return the `distance` of a model, with batch-norm statistics that are estimated anew if that lowers it."""
        plain = self.distance(model)
        copied = copy.deepcopy(model)
        if reestimate(copied, self.sample, self._task.loss):
            return min(plain, self.distance(copied))
        return plain

    def distance(self, model: nn.Module) -> float:
        """Return how far outputs are from the original's on a small batch, in the unit of `Effect.damage`; infinite if
        they aren't finite.

        For class scores it is the Kullback-Leibler divergence, the expected rise of the loss; for other outputs, half
        their squared distance in units of their own variance.
        """
        ours, theirs = _run(model, self.sample), self._outputs
        if scores_classes(self._task.loss):
            found = float(torch.cat([self._divergences(*batch) for batch in zip(ours, theirs, self._counted)]).mean())
        else:
            before, after = (torch.cat([x.flatten() for x in outputs]) for outputs in (theirs, ours))
            spread = before.var(correction=0).clamp(min=torch.finfo(torch.float32).tiny)
            found = float((after - before).square().mean() / spread / 2)
        return max(0.0, found) if math.isfinite(found) else math.inf

    def _divergences(self, ours: Tensor, theirs: Tensor, counts: Tensor) -> Tensor:
        """Return (positions that count,) Kullback-Leibler divergences of class scores (batch, classes, ...)."""
        before, after = (theirs / self._softness).log_softmax(1), (ours / self._softness).log_softmax(1)
        return (before.exp() * (before - after)).sum(1)[counts]


@torch.no_grad()
def _run(model: nn.Module, batches: Batches) -> list[Tensor]:
    return [model(*(a.clone() for a in args)) for args, _ in batches]
