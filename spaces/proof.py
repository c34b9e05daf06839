"""Proof by example that channels can be removed: the smaller network equals the one in which they are silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .site import Slice
from .slicing import axes, keep, remaining, settle, width

_TOLERANCE = 1e-4


class NotRemovableError(Exception):
    """Why channels can't be removed; an empty message where there is nothing to tell."""


def prove(model: nn.Module, example: tuple[Tensor, ...], slices: Sequence[Slice]) -> None:
    """Raise unless removing some channels gives what zeroing them in their consumers gives.

    The consumers' weights are zeroed rather than the producers': a removed channel takes along the constant that a
    bias or a batch norm would still send.

    Parameters
    ----------
    model
        In eval mode; as before when this returns or raises.
    example
        Its positional arguments, with the batch dimension.
    slices
        Of one group, or of the heads of one attention.

    Raises
    ------
    NotRemovableError
        With the reason; without a message where the channels are the model's output.
    """
    gone = [c for c in range(len(slices[0].positions)) if c % 3 == 1]
    touched = {s.module for s in slices} | {s.module.rpartition(".")[0] for s in slices}
    with torch.no_grad():
        with _restored(model, touched):
            try:
                remove(model, slices, gone)
                smaller = model(*(a.clone() for a in example))
            except Exception as error:
                raise NotRemovableError(f"the model doesn't run with fewer of them ({first_line(error)})") from error
        with _restored(model, touched):
            _silence(model, slices, gone)
            masked = model(*(a.clone() for a in example))
    if smaller.shape != masked.shape:
        raise NotRemovableError("")
    gap = (smaller - masked).abs().max()
    if not gap <= _TOLERANCE * masked.abs().max().clamp(min=1e-6):
        raise NotRemovableError(f"the output without some of them differs by {float(gap):.2g} from zeroing them")


def lost(member: Slice, channels: Iterable[int]) -> list[int]:
    """Return the positions that a module loses with some channels."""
    return [position for channel in channels for position in member.positions[channel]]


def remove(model: nn.Module, slices: Sequence[Slice], channels: Sequence[int]) -> None:
    """Remove channels of a group from every module, in place, in a model that has lost nothing yet."""
    for member in slices:
        module = model.get_submodule(member.module)
        positions = torch.arange(width(module, member.side))
        keep(module, member.side, remaining(positions, lost(member, channels)))
        settle(model, member.module)


def _silence(model: nn.Module, slices: Sequence[Slice], channels: Sequence[int]) -> None:
    for member in slices:
        if member.side == "in":
            module: Any = model.get_submodule(member.module)
            weight = module.weight.detach().clone()
            weight.index_fill_(axes(module, "in")["weight"], torch.tensor(lost(member, channels)).to(weight.device), 0)
            module.weight = nn.Parameter(weight, module.weight.requires_grad)


@contextmanager
def _restored(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Put modules back as they were; their tensors must be replaced within, not written to."""
    modules = [model.get_submodule(path) for path in paths]
    saved = [{k: v.copy() if isinstance(v, dict) else v for k, v in m.__dict__.items()} for m in modules]
    try:
        yield
    finally:
        for module, state in zip(modules, saved):
            module.__dict__.clear()
            module.__dict__.update(state)


def first_line(error: Exception) -> str:
    """Return what an error says, short enough for a note."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line[:120]}{'…' if len(line) > 120 else ''}" if line else type(error).__name__


def listed(paths: Iterable[str]) -> str:
    """Return the first few paths and how many more there are."""
    every = list(paths)
    return ", ".join(every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "")
