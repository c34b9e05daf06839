"""Batches of (input, target): checked once, kept in memory when small, iterated anew when not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .errors import DataError
from .seeding import seeded
from .slices import Slices, sliced

Batch = tuple[tuple[Tensor, ...], Tensor]
Source = Iterable[Any] | Callable[[], Iterable[Any]]

#: Splits up to this many bytes are kept as tensors, so that a user's loader runs once, not once a trial.
KEEP_BYTES = 1 << 30

_END = object()


def as_batch(item: Any, split: str) -> Batch:
    """Return ``((input, ...), target)``, or raise DataError that says what came instead.

    An input is a tensor, or a tuple or list of tensors that the model takes as positional arguments.
    """
    if not isinstance(item, tuple | list) or len(item) != 2:
        what = f"a {type(item).__name__}" + (f" of {len(item)}" if hasattr(item, "__len__") else "")
        raise DataError(
            f"{split} data: a batch must be a pair (input, target), but the loader gave {what}. "
            "Wrap the loader so that it yields pairs; several inputs go into one tuple: ((a, b), target)."
        )
    inputs, target = item
    args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    for part in (*args, target):
        if not isinstance(part, Tensor):
            raise DataError(
                f"{split} data: inputs and targets must be tensors, but the loader gave "
                f"a {type(part).__name__}. Let the DataLoader collate to tensors (its default does)."
            )
    if not args or args[0].ndim == 0 or target.ndim == 0 or len(args[0]) != len(target):
        shapes = [tuple(a.shape) for a in args]
        raise DataError(
            f"{split} data: input {shapes} and target {tuple(target.shape)} must have the same first "
            "dimension, the batch. Let the loader add it (a DataLoader with a batch_size does)."
        )
    return args, target


def nan_in(args: Iterable[Tensor], target: Tensor) -> str:
    """Return which part of a batch holds NaN, for messages, or "". Some models and losses can take it."""
    parts = {"input": args, "target": (target,)}
    return " and ".join(name for name, held in parts.items() if any(bool(x.isnan().any()) for x in held))


class Batches:
    """One split of the data.

    Parameters
    ----------
    source
        A DataLoader, a list of batches, or a function that returns a fresh iterable.
    split
        Its name, for messages.
    keep
        Keep the batches after the first pass (for splits that don't shuffle or augment).

    Raises
    ------
    DataError
        If the source can be iterated only once, or is a model; on iteration, if it can't be iterated at all, a batch
        isn't (input, target), or there is none.
    """

    def __init__(self, source: Source, split: str, *, keep: bool) -> None:
        if isinstance(source, Iterator):
            raise DataError(
                f"{split} data: a {type(source).__name__} can be iterated once only, but a search reads it "
                "many times. Give a DataLoader, a list, or a function that returns a fresh iterator."
            )
        if isinstance(source, nn.Module):
            raise DataError(
                f"{split} data: is a model ({type(source).__name__}). The model comes first, then the data: "
                "Task(model, validation=...)."
            )
        self.source, self.split, self.keep = source, split, keep
        self._kept: list[Batch] | None = None
        self._slices: Slices | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the slices behind, and let every kept batch travel by itself: of a view, pickle takes the whole."""
        if self._slices is None:
            return vars(self).copy()
        kept = [(tuple(a.clone() for a in args), target.clone()) for args, target in self._slices.originals()]
        return {**vars(self), "_slices": None, "_kept": kept}

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        return self._first_pass() if self.keep else self._fresh()

    def _fresh(self) -> Iterator[Batch]:
        source: Any = self.source
        if callable(source) and not hasattr(source, "__iter__"):  # a loader may be callable as well
            source = source()
        # A loader that shuffles draws its order here: a split that is measured on is always the same.
        with seeded(0) if self.keep else nullcontext():
            try:
                items = iter(source)
            except TypeError:
                raise DataError(
                    f"{self.split} data: a {type(source).__name__} can't be iterated. Give a DataLoader."
                ) from None
            item = next(items, _END)
        if item is _END:
            raise DataError(f"{self.split} data: the loader yields nothing. Give at least one batch.")
        while item is not _END:
            yield as_batch(item, self.split)
            item = next(items, _END)

    def _first_pass(self) -> Iterator[Batch]:
        kept: list[Batch] | None = []
        size = 0
        for args, target in self._fresh():
            size += sum(t.numel() * t.element_size() for t in (*args, target))
            if kept is not None and size <= KEEP_BYTES:
                # Copied: a loader may reuse its buffers, and a model may write into its input.
                kept.append((tuple(a.clone() for a in args), target.clone()))
            else:
                kept = None
            yield args, target
        self._kept = kept

    def slices(self) -> Iterable[Iterator[Batch]]:
        """Return the split in random slices that grow, each as its batches; see `Slices`.

        A split that isn't kept in memory, or whose examples don't fit into each other's batches, is a single slice in
        the loader's own order.
        """
        if self._slices is not None:
            return self._slices
        if self.keep and self._kept is None:
            for _ in self:
                pass
        self._slices = sliced(self._kept) if self._kept is not None else None
        if self._slices is None:
            return [iter(self)]
        self._kept = self._slices.originals()  # so that the split is in memory once
        return self._slices

    def restored(self, values: Tensor) -> Tensor:
        """Return one value for each example (examples, ...), given slice by slice, in the loader's order."""
        return self._slices.restored(values) if self._slices is not None else values

    def first(self) -> Batch:
        """Return the first batch."""
        return next(iter(self))

    def head(self, examples: int) -> Batches:
        """Return the first batches that hold at least ``examples`` examples (or all), kept in memory."""
        taken: list[Any] = []
        seen = 0
        for args, target in self:
            taken.append((tuple(a.clone() for a in args), target.clone()))
            seen += len(target)
            if seen >= examples:
                break
        return Batches(taken, self.split, keep=True)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device (copied: the model may write into it)."""
    args, target = batch
    return tuple(a.to(device, copy=True) for a in args), target.to(device)
