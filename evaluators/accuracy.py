"""Quality: the task's own metric over a split, top-1 accuracy unless the task says otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ..spaces.data import to_device
from ..spaces.errors import SettingError
from ..spaces.metric import ACCURACY, IGNORED, Metric, Streaming
from .base import Evaluator, Measurement, Subject
from .inference import device_of, inference

#: 97.5 % quantile of the normal distribution: two-sided 95 %.
Z = 1.959963984540054
SEED = 0


def wilson(share: float, examples: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, JASA 22, 1927).

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 and at 1.

    Parameters
    ----------
    share
        Observed proportion, 0 to 1.
    examples
        Independent observations, at least 1.
    """
    square = Z * Z / examples
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(max(share * (1 - share), 0.0) / examples + square / (4 * examples))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


class Quality(Evaluator):
    """A task's metric, measured on the subject's split.

    Parameters
    ----------
    metric
        From the task; its name and direction become the evaluator's.
    resamples
        Bootstrap resamples of the examples (Efron & Tibshirani, 1993) for the 95 % interval of a metric other
        than top-1 accuracy, e.g. 200. With 0, meant for the search, such a metric has no interval. Top-1
        accuracy always has one, Wilson's, because it costs nothing.

    Raises
    ------
    SettingError
        If ``resamples`` is negative.
    """

    cost: ClassVar[float] = 0.5
    summary: ClassVar[str] = "The task's own metric: top-1 accuracy, or whatever function it was given."

    def __init__(self, metric: Metric = ACCURACY, resamples: int = 0) -> None:
        if resamples < 0:
            raise SettingError("resamples", resamples, "must not be negative", "Give 0 for no interval, or about 200.")
        self.metric, self.resamples = metric, resamples
        self.name, self.unit, self.direction = metric.name, metric.unit, metric.direction

    def measure(self, subject: Subject) -> Measurement:
        """Return the metric over all examples of ``subject.split``; ``repeats`` is their number.

        Raises
        ------
        ValueError
            If an output or the metric is NaN.
        """
        if self.metric.function is ACCURACY.function:
            return self._top1(subject)
        if isinstance(self.metric.function, Streaming) and not self.resamples:
            return self._streamed(subject, self.metric.function)
        return self._whole(subject)

    def _each(self, subject: Subject, take: Callable[[Tensor, Tensor], object]) -> int:
        device = device_of(subject.model)
        examples = 0
        with inference(subject.model):
            for batch in subject.split:
                args, _ = to_device(batch, device)
                target = batch[1]
                output = subject.model(*args).to(target.device)
                if output.is_floating_point() and bool(torch.isnan(output).any()):
                    raise ValueError(f"{self.name}: the model's output is NaN for a batch of {len(target)} examples")
                take(output, target)
                examples += len(target)
        return examples

    def _top1(self, subject: Subject) -> Measurement:
        correct = total = 0

        def take(output: Tensor, target: Tensor) -> None:
            nonlocal correct, total
            # Batch by batch: a whole split of logits needn't fit into memory.
            counted = int((target != IGNORED).sum())
            correct += round(self.metric(output, target) * counted) if counted else 0
            total += counted

        examples = self._each(subject, take)
        if not total:
            raise ValueError(f"{self.name}: every target of the split is {IGNORED}, the class that is left out")
        share = correct / total
        # Several labels of one example (pixels, tokens) are no independent observations: examples count.
        return Measurement(share, self.unit, wilson(share, examples), examples)

    def _streamed(self, subject: Subject, metric: Streaming) -> Measurement:
        metric.reset()
        try:
            examples = self._each(subject, metric.update)
            value = float(metric.compute())
        finally:
            metric.reset()
        return Measurement(self._checked(value), self.unit, None, examples)

    def _whole(self, subject: Subject) -> Measurement:
        outputs: list[Tensor] = []
        targets: list[Tensor] = []

        def take(output: Tensor, target: Tensor) -> None:
            outputs.append(output)
            targets.append(target)

        examples = self._each(subject, take)
        output, target = torch.cat(outputs), torch.cat(targets)
        value = self._checked(self.metric(output, target))
        return Measurement(value, self.unit, self._bootstrap(output, target, value), examples)

    def _checked(self, value: float) -> float:
        if math.isnan(value):
            raise ValueError(f"metric {self.name!r} is NaN on the split")
        return value

    def _bootstrap(self, output: Tensor, target: Tensor, value: float) -> tuple[float, float] | None:
        if not self.resamples:
            return None
        generator = torch.Generator().manual_seed(SEED)
        drawn = []
        for _ in range(self.resamples):
            rows = torch.randint(len(target), (len(target),), generator=generator).to(target.device)
            again = self.metric(output[rows], target[rows])
            if not math.isnan(again):  # e.g. a resample without a single positive has no recall
                drawn.append(again)
        if not drawn:
            return None
        ends = torch.quantile(
            torch.tensor(drawn, dtype=torch.float64), torch.tensor([0.025, 0.975], dtype=torch.float64)
        )
        return min(value, float(ends[0])), max(value, float(ends[1]))
