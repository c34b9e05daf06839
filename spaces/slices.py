"""A split in random slices that grow: what a trial is measured on, part by part.

Loaders may be sorted by class, so a part of a split says something of the whole only if it is drawn at random. The
order is one fixed permutation. Every model is measured on the same slices in the same batches, whether it is measured
to the end or not: a figure never depends on how the search was hurried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .data import Batch

#: No slice ends before so many examples, unless the split has fewer: they would tell too little.
SMALLEST = 32
#: Beyond a batch, a slice ends where there are so many times the examples, or a batch more.
GROWTH = 1.25
SEED = 0


def ends(examples: int, batch: int) -> tuple[int, ...]:
    """Return how many examples there are up to the end of each slice.

    A hopeless model is told from few examples, so the first batch comes in parts that double. What follows are full
    batches, so that slices cost no time: 50, 100, 150, 200, 250, 300, 350, 400, 500, 600, ... for batches of 50.

    Parameters
    ----------
    examples
        Of the split.
    batch
        The longest.
    """
    found: list[int] = []
    part, end = batch, max(batch, -(-SMALLEST // batch) * batch)
    while (part := part // 2) >= SMALLEST:
        if part < examples:
            found.insert(0, part)
    while end < examples:
        found.append(end)
        end = max(end + batch, int(GROWTH * end) // batch * batch)
    return (*found, examples)


class Slices:
    """The examples of a split in memory, in a random order that is always the same.

    Parameters
    ----------
    inputs
        Each either (examples, ...), or the same for all examples.
    target
        (examples, ...).
    lengths
        Of the loader's batches. The model is run on no longer ones.
    """

    def __init__(self, inputs: Sequence[Tensor], target: Tensor, lengths: Sequence[int]) -> None:
        self._inputs, self._target, self._lengths = tuple(inputs), target, list(lengths)
        self._order = torch.randperm(len(target), generator=torch.Generator().manual_seed(SEED))
        self.ends = ends(len(target), max(lengths))

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each slice."""
        for start, end in pairwise((0, *self.ends)):
            yield self._batches(start, end)

    def _batches(self, start: int, end: int) -> Iterator[Batch]:
        for rows in self._order[start:end].split(max(self._lengths)):
            args = tuple(part[rows] if _each(part, self._target) else part for part in self._inputs)
            yield args, self._target[rows]

    def restored(self, values: Tensor) -> Tensor:
        """Return values (examples, ...) that are in the slices' order in the loader's."""
        return values[self._order.argsort().to(values.device)]

    def originals(self) -> list[Batch]:
        """Return the loader's batches, as views of the same memory."""
        count = len(self._lengths)
        columns = [part.split(self._lengths) if _each(part, self._target) else [part] * count for part in self._inputs]
        return list(zip(zip(*columns), self._target.split(self._lengths)))


def sliced(batches: Sequence[Batch]) -> Slices | None:
    """Return a split's slices, or None where examples of different batches can't stand in one: other shapes (texts of
    different lengths), or another input for all examples in each batch.
    """
    columns = list(zip(*(args for args, _ in batches)))
    targets = [target for _, target in batches]
    total = sum(map(len, targets))
    if any(len(args) != len(columns) for args, _ in batches) or not _alike(targets):
        return None
    inputs: list[Tensor] = []
    for column in columns:
        if all(_each(part, target) for part, target in zip(column, targets)):
            if not _alike(column):
                return None
            inputs.append(torch.cat(column))
        elif all(torch.equal(part, column[0]) for part in column[1:]) and column[0].shape[:1] != (total,):
            inputs.append(column[0])
        else:
            return None
    return Slices(inputs, torch.cat(targets), [len(t) for t in targets])


def _alike(column: Sequence[Tensor]) -> bool:
    return len({(part.shape[1:], part.dtype) for part in column}) == 1


def _each(part: Tensor, target: Tensor) -> bool:
    return part.ndim > 0 and len(part) == len(target)
