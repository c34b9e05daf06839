"""Quality: the task's own metric over a split, top-1 accuracy unless the task says otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..spaces.data import Batch, Batches, nan_in, to_device
from ..spaces.errors import SettingError
from ..spaces.metric import ACCURACY, IGNORED, Metric, Streaming, hits
from ..spaces.pulse import beat
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


@dataclass(frozen=True)
class Look:
    """What a model did on the first slices of a split, the same examples in the same order for every model.

    Attributes
    ----------
    measurement
        The metric on these examples, or NaN where it is a function and this is not the last slice; there, the
        measurement.
    whole
        Whether that was the last slice.
    right, counted
        For top-1 accuracy, each example's number of correct predictions, and of targets that count; both (examples,).
    outputs, targets
        For a metric that is a function of a whole split, its arguments, in the slices' order.
    """

    measurement: Measurement
    whole: bool
    right: Tensor | None = None
    counted: Tensor | None = None
    outputs: Tensor | None = None
    targets: Tensor | None = None

    @property
    def examples(self) -> int:
        """How many examples were looked at."""
        return self.measurement.repeats


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
        for look in self.looks(subject):
            last = look
        return last.measurement

    def looks(self, subject: Subject) -> Iterator[Look]:
        """Measure slice by slice (see `Batches.slices`) and yield what is known after each.

        The last look holds exactly the measurement that `measure` returns. A metric that is a function is looked at
        whenever the examples have doubled, because what it tells of a part is expensive to find out. One with a state
        of its own is looked at once, after all slices.

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

    def partial(self, split: Batches) -> bool:
        """Whether there is a look before the last one."""
        return not isinstance(self.metric.function, Streaming) and len(list(split.slices())) > 1

    def _slices(self, subject: Subject) -> Iterator[tuple[bool, Iterator[tuple[Tensor, Tensor]]]]:
        """Yield for each slice whether it is the last one, and the outputs and targets of its batches."""
        slices = list(subject.split.slices())
        for index, batches in enumerate(slices):
            yield index == len(slices) - 1, self._run(subject, batches)

    def _run(self, subject: Subject, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield outputs and targets of each batch."""
        device = device_of(subject.model)
        for batch in batches:
            beat()
            args, target = to_device(batch, device)[0], batch[1]
            with inference(subject.model):
                output = subject.model(*args).to(target.device)
            if output.is_floating_point() and bool(torch.isnan(output).any()):
                held = nan_in(*batch)
                why = f", whose {held} holds NaN" if held else ""
                raise ValueError(f"{self.name}: the model's output is NaN for a batch of {len(target)} examples{why}")
            yield output, target

    def _top1(self, subject: Subject) -> Iterator[Look]:
        rights: list[Tensor] = []
        counts: list[Tensor] = []
        for last, batches in self._slices(subject):
            for output, target in batches:
                # Batch by batch: a whole split of logits needn't fit into memory.
                right, counted = hits(output, target)
                rights.append(right)
                counts.append(counted)
            right, counted = torch.cat(rights), torch.cat(counts)
            total, examples = int(counted.sum()), len(counted)
            if last and not total:
                raise ValueError(f"{self.name}: every target of the split is {IGNORED}, the class that is left out")
            share = int(right.sum()) / max(1, total)
            # Several labels of one example (pixels, tokens) are no independent observations: examples count.
            yield Look(Measurement(share, self.unit, wilson(share, examples), examples), last, right, counted)

    def _streamed(self, subject: Subject, metric: Streaming) -> Iterator[Look]:
        examples = 0
        metric.reset()
        try:
            for output, target in self._run(subject, iter(subject.split)):
                metric.update(output, target)
                examples += len(target)
            value = float(metric.compute())
        finally:
            metric.reset()
        yield Look(Measurement(self._checked(value), self.unit, None, examples), True)

    def _whole(self, subject: Subject) -> Iterator[Look]:
        outputs: list[Tensor] = []
        targets: list[Tensor] = []
        looked = 0
        for last, batches in self._slices(subject):
            for output, target in batches:
                outputs.append(output)
                targets.append(target)
            if not last and sum(map(len, targets)) < 2 * looked:
                continue
            output, target = torch.cat(outputs), torch.cat(targets)
            looked = len(target)
            measurement = Measurement(math.nan, self.unit, None, len(target))
            if last:
                measurement = self._measured(*(subject.split.restored(x) for x in (output, target)))
            yield Look(measurement, last, None, None, output, target)

    def _measured(self, output: Tensor, target: Tensor) -> Measurement:
        """Return the metric of a whole split; it may depend on the order, which is the loader's."""
        value = self._checked(self.metric(output, target), target)
        return Measurement(value, self.unit, self._bootstrap(output, target, value), len(target))

    def _checked(self, value: float, *targets: Tensor) -> float:
        if math.isnan(value):
            why = ", where a target is NaN" if any(bool(target.isnan().any()) for target in targets) else ""
            raise ValueError(f"metric {self.name!r} is NaN on the split{why}")
        return value

    def _bootstrap(self, output: Tensor, target: Tensor, value: float) -> tuple[float, float] | None:
        if not self.resamples:
            return None
        generator = torch.Generator().manual_seed(SEED)
        drawn = []
        for _ in range(self.resamples):
            beat()
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
