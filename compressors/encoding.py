"""How one weight tensor is stored: its number format (codec), its zeros, and the coder of its symbols.

A draft's modules always hold the *dense* weight that inference uses; the encoding beside it says how that
tensor is written. Packing and unpacking give the same tensor bit for bit, because a codec's grid holds it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Symbols = npt.NDArray[np.int64]
Part = npt.NDArray[Any]
#: A packed tensor: its JSON-able description and its arrays.
Packed = tuple[dict[str, Any], list[Part]]


@dataclass(frozen=True, eq=False)
class Portable:
    """A tensor in terms that any runtime knows: ``(table[codes] or codes - zero) * scale``.

    Attributes
    ----------
    codes
        Shaped like the tensor, whole numbers in ``range(2 ** bits)``.
    bits
        1 to 8.
    table
        (n,) fp32: the value of each code; None where a code is its own value.
    zero, scale
        (channels, groups), fp32: subtracted from a code without a table, and multiplied with. None for 0 and 1.
    group
        How many consecutive values of a channel, which is the first dimension, share a zero and a scale; 0 takes all.
    """

    codes: npt.NDArray[np.uint8]
    bits: int
    table: npt.NDArray[np.float32] | None = None
    zero: npt.NDArray[np.float32] | None = None
    scale: npt.NDArray[np.float32] | None = None
    group: int = 0


class Codec(ABC):
    """A number format fitted to one tensor, e.g. "4-bit integers with these scales".

    Implementations are frozen dataclasses; they never change after fitting.
    """

    kind: ClassVar[str]
    """Name in saved files; unique and stable."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Nominal bits of one weight, for bit operations."""

    @abstractmethod
    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest tensor on the grid, same shape; exact zeros stay zero where the grid has a zero."""

    def trainable(self, weight: Tensor) -> Trainable:
        """Return the form in which recovery training changes the tensor (straight-through by default)."""
        return StraightThrough(self, weight)

    @abstractmethod
    def symbols(self, weight: Tensor) -> tuple[Symbols, int] | None:
        """Return the flat symbols of a tensor on the grid and the size of their alphabet, or None for raw floats.

        Symbols are in ``range(alphabet)``.
        """

    @property
    def zero(self) -> int | None:
        """The symbol of an exact 0.0 everywhere in the tensor, or None if there is none."""
        return None

    def portable(self, weight: Tensor) -> Portable | None:  # noqa: ARG002 - formats that have such a form override this
        """Return a tensor on the grid in the form of deployed files, or None: these then hold plain floats."""
        return None

    @classmethod
    def rebuild(
        cls,
        facts: dict[str, Any],  # noqa: ARG003 - as above
        parts: list[Part],  # noqa: ARG003 - as above
        shape: tuple[int, ...],  # noqa: ARG003 - as above
    ) -> Codec | None:
        """Return the codec that gave these facts and parts as its `side`, or None: deployed files then hold floats.

        Raises
        ------
        ValueError
            If they don't fit.
        """
        return None

    @abstractmethod
    def side(self) -> tuple[dict[str, Any], list[Part]]:
        """Return JSON-able facts and arrays (scales, centroids) that `restore` needs beside the symbols."""

    @classmethod
    @abstractmethod
    def restore(
        cls, facts: dict[str, Any], parts: list[Part], symbols: Symbols | None, shape: tuple[int, ...]
    ) -> Tensor:
        """Return the fp32 tensor that was packed, bit for bit.

        Raises
        ------
        ValueError
            If the facts don't fit the parts.
        """


class Trainable(nn.Module, ABC):
    """A weight during recovery training: its own parameters -> the dense tensor on the grid, with gradients."""

    @abstractmethod
    def finish(self) -> tuple[Tensor, Codec]:
        """Return the dense tensor reached, and the codec that holds it exactly."""


class StraightThrough(Trainable):
    """Latent full-precision weights, projected in the forward pass; the gradient passes straight through
    (Bengio et al., 2013).
    """

    def __init__(self, codec: Codec, weight: Tensor) -> None:
        super().__init__()
        self.codec = codec
        self.latent = nn.Parameter(weight.detach().clone())

    def forward(self) -> Tensor:
        """Return the projected weight."""
        return self.latent + (self.codec.project(self.latent.detach()) - self.latent.detach())

    def finish(self) -> tuple[Tensor, Codec]:
        """Return the projection of the latent weights."""
        return self.codec.project(self.latent.detach()), self.codec


@dataclass(frozen=True)
class Float32(Codec):
    """IEEE single precision, as it is."""

    kind: ClassVar[str] = "float32"

    @property
    def bits(self) -> int:
        """32."""
        return 32

    def project(self, weight: Tensor) -> Tensor:
        """Return the weight."""
        return weight

    def symbols(self, weight: Tensor) -> None:  # noqa: ARG002 - floats have no symbols
        """Return None: floats are stored raw."""
        return

    def side(self) -> tuple[dict[str, Any], list[Part]]:
        """Return nothing."""
        return {}, []

    @classmethod
    def restore(
        cls,
        facts: dict[str, Any],  # noqa: ARG003 - floats have neither facts
        parts: list[Part],
        symbols: Symbols | None,  # noqa: ARG003 - nor symbols
        shape: tuple[int, ...],
    ) -> Tensor:
        """Return the first part in shape."""
        return torch.from_numpy(np.array(parts[0], dtype=np.float32)).reshape(shape)


class Coder(ABC):
    """An entropy coder for symbols."""

    kind: ClassVar[str]

    @abstractmethod
    def encode(self, symbols: Symbols, alphabet: int) -> tuple[dict[str, Any], list[Part]]:
        """Return JSON-able facts and arrays that hold the symbols."""

    @abstractmethod
    def decode(self, facts: dict[str, Any], parts: list[Part], count: int, alphabet: int) -> Symbols:
        """Return the ``count`` symbols, or raise ValueError."""


@dataclass(frozen=True)
class Encoding:
    """How one tensor is stored.

    Attributes
    ----------
    codec
        The number format.
    mask
        True where a weight may differ from zero, shaped like the tensor; None keeps all.
    coder
        An entropy coder to try; the smallest of raw and coded is written.
    """

    codec: Codec = field(default_factory=Float32)
    mask: Tensor | None = None
    coder: Coder | None = None

    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest storable tensor: masked, then on the codec's grid."""
        if self.mask is not None:
            weight = weight.masked_fill(~self.mask, 0.0)  # a product would leave negative zeros
        return self.codec.project(weight)
