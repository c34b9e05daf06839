"""Weights on a grid of 2- to 8-bit integers, with a scale per output channel or per group of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..encoding import Codec, Part, Portable, Symbols, Trainable

#: Clipping ranges that are tried, as a fraction of the range that covers every weight.
CLIPPING = tuple(0.92**k for k in range(24))


@dataclass(frozen=True, eq=False)
class IntegerCodec(Codec):
    """``w = (code - zero_point) * scale`` with ``code`` in ``range(2 ** bits)``; zero is always on the grid.

    Files hold ``(code - zero_point) mod 2 ** bits``, so that zero is the symbol 0 in every channel.

    Attributes
    ----------
    width
        Bits of a code, 2 to 8.
    scale
        (channels, groups) fp32 and positive; stored as fp16 where that is exact.
    zero_point
        (channels, groups) int64 in ``range(2 ** bits)``, or None where it is ``2 ** (bits - 1)`` everywhere.
    axis
        The dimension of the channels.
    group
        How many consecutive weights of a channel share a scale; 0 takes the whole channel.
    """

    kind: ClassVar[str] = "integer"
    width: int
    scale: Tensor
    zero_point: Tensor | None = None
    axis: int = 0
    group: int = 0

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.width

    @property
    def zero(self) -> int:
        """The symbol 0."""
        return 0

    def _spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Bring one value a group, (channels, groups), to the weight's dimensions."""
        values = values.to(weight.device)
        moved = weight.movedim(self.axis, 0).shape
        if self.group:
            rest = weight.numel() // moved[0]
            return values.repeat_interleave(self.group, 1)[:, :rest].reshape(moved).movedim(0, self.axis)
        return values.reshape(moved[0], *[1] * (len(moved) - 1)).movedim(0, self.axis)

    def grid(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scale, lowest and highest level (fp32, whole numbers), broadcastable to ``weight``."""
        scale = self._spread(self.scale, weight)
        if self.zero_point is None:
            low = torch.tensor(-float(1 << (self.width - 1)), device=weight.device)
        else:
            low = -self._spread(self.zero_point, weight).float()
        return scale, low, low + ((1 << self.width) - 1)

    def levels(self, weight: Tensor) -> Tensor:
        """Return ``code - zero_point`` of the nearest grid points: whole numbers in fp32, the same shape."""
        scale, low, high = self.grid(weight)
        return torch.clamp(torch.round(weight / scale), low, high)

    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest grid points; what is beyond the clipping range becomes its end."""
        return _nearest(weight, *self.grid(weight))

    def trainable(self, weight: Tensor) -> Trainable:
        """Return straight-through training that stops at the ends of the clipping range."""
        return IntegerTraining(self, weight)

    def symbols(self, weight: Tensor) -> tuple[Symbols, int]:
        """Return levels modulo ``2 ** bits``."""
        levels = self.levels(weight).to(torch.int64).cpu().numpy().reshape(-1)
        return levels & ((1 << self.width) - 1), 1 << self.width

    def side(self) -> tuple[dict[str, Any], list[Part]]:
        """Return width, group and axis; scales (fp16 or fp32), and zero points (uint8) where they differ."""
        facts: dict[str, Any] = {"bits": self.width}
        if self.group:
            facts["group"] = self.group
        if self.axis:
            facts["axis"] = self.axis
        half = self.scale.half()
        parts: list[Part] = [(half if torch.equal(half.float(), self.scale) else self.scale).cpu().numpy()]
        if self.zero_point is not None:
            parts.append(self.zero_point.cpu().numpy().astype(np.uint8))
        return facts, parts

    def portable(self, weight: Tensor) -> Portable | None:
        """Return codes, zero points and scales, or None if the channels aren't the first dimension."""
        if self.axis:
            return None
        zero = torch.full_like(self.scale, float(1 << (self.width - 1)))
        if self.zero_point is not None:
            zero = self.zero_point.float()
        codes = self.levels(weight) + self._spread(zero, weight)
        numbers = codes.cpu().numpy().astype(np.uint8)
        return Portable(numbers, self.width, None, zero.cpu().numpy(), self.scale.cpu().numpy(), self.group)

    @classmethod
    def rebuild(cls, facts: dict[str, Any], parts: list[Part], shape: tuple[int, ...]) -> IntegerCodec:
        """Return the codec of a file's facts and parts."""
        width, group, axis = facts.get("bits"), facts.get("group", 0), facts.get("axis", 0)
        if not (isinstance(width, int) and isinstance(group, int) and isinstance(axis, int)):
            raise ValueError(f"integer: bits, group and axis must be whole numbers, not {facts}")
        if not 2 <= width <= 8 or group < 0 or not 0 <= axis < len(shape):
            raise ValueError(f"integer: {facts} doesn't describe a tensor of shape {list(shape)}")
        rest = int(np.prod(shape)) // shape[axis]
        expected = (shape[axis], -(-rest // group) if group else 1)
        if len(parts) not in (1, 2) or parts[0].dtype not in (np.float16, np.float32):
            raise ValueError("integer: needs float scales and at most one array of zero points")
        if any(part.shape != expected for part in parts):
            raise ValueError(f"integer: scales and zero points of shape {list(shape)} must be {expected}")
        points = torch.from_numpy(parts[1].astype(np.int64)) if len(parts) == 2 else None
        return cls(width, torch.from_numpy(parts[0].astype(np.float32)), points, axis, group)

    @classmethod
    def restore(
        cls, facts: dict[str, Any], parts: list[Part], symbols: Symbols | None, shape: tuple[int, ...]
    ) -> Tensor:
        """Return ``(code - zero_point) * scale`` in the same fp32 arithmetic as `project`."""
        codec = cls.rebuild(facts, parts, shape)
        if symbols is None:
            raise ValueError("integer: needs symbols")
        if symbols.size and int(symbols.max()) >> codec.width:
            raise ValueError(f"integer: a symbol doesn't fit {codec.width} bits")
        levels = torch.from_numpy(symbols.astype(np.float32)).reshape(shape)
        scale, _, high = codec.grid(levels)
        return torch.where(levels > high, levels - (1 << codec.width), levels) * scale


def _nearest(weight: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    levels = torch.clamp(torch.round(weight / scale), low, high)
    return (levels + 0.0) * scale  # round gives -0.0 for small negative weights; the grid has one zero


class _ClippedStraightThrough(torch.autograd.Function):
    """Round to the grid; the gradient passes inside the clipping range and is zero outside."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward((latent >= (low - 0.5) * scale) & (latent <= (high + 0.5) * scale))
        return _nearest(latent, scale, low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


class IntegerTraining(Trainable):
    """Latent fp32 weights on a fixed grid (Jacob et al., 2018).

    The gradient passes straight through where the weight isn't clipped.
    """

    def __init__(self, codec: IntegerCodec, weight: Tensor) -> None:
        super().__init__()
        self.codec = codec
        self.latent = nn.Parameter(weight.detach().clone())

    def forward(self) -> Tensor:
        """Return the projected weight."""
        grid = self.codec.grid(self.latent)
        weight: Tensor = _ClippedStraightThrough.apply(self.latent, *grid)  # type: ignore[no-untyped-call]  # torch's
        return weight

    def finish(self) -> tuple[Tensor, Codec]:
        """Return the projection of the latent weights."""
        return self.codec.project(self.latent.detach()), self.codec


def fit_scale(rows: Tensor, zero_point: Tensor, width: int) -> tuple[Tensor, float]:
    """Return the scale of each row that gives the least squared error, and the error of all rows.

    Parameters
    ----------
    rows
        (rows, n) fp32.
    zero_point
        (rows, 1) whole numbers in fp32.
    width
        Bits of a code.
    """
    low, high = -zero_point, (1 << width) - 1 - zero_point
    tiny = torch.finfo(torch.float32).tiny
    below = torch.where(low < 0, rows.amin(1, keepdim=True) / low, 0)
    above = torch.where(high > 0, rows.amax(1, keepdim=True) / high, 0)
    cover = torch.maximum(below, above)
    # Squares of tiny or huge weights leave the range of fp32, so the error is measured in units of the range.
    unit = torch.where(cover > tiny, cover, 1.0)
    best, least = unit, torch.full_like(unit, torch.inf)
    for ratio in CLIPPING:
        scale = (unit * ratio).clamp(min=tiny)
        error = ((_nearest(rows, scale, low, high) - rows) / unit).square().sum(1, keepdim=True)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best, float((least.double() * unit.double().square()).sum())


def stored(scale: Tensor) -> Tensor:
    """Return scales as fp16 can hold them, where none leaves its normal range; else as they are."""
    half = scale.half().float()
    smallest = torch.finfo(torch.float16).smallest_normal
    fits = bool(torch.isfinite(half).all()) and bool((half >= smallest).all())
    return half if fits else scale
