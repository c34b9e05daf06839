"""A compressed model as a file of `torch.export`: for runtimes that compile such programs, and for torch itself."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...compressors.activations import HIGH, LOW, RoundedActivation
from ...spaces.errors import ArtifactError
from .exporting import batched, plain, reason_of, silent


class _Rounded(nn.Module):
    """A `RoundedActivation` in operators that every reader of the file knows."""

    scale: Tensor
    zero: Tensor

    def __init__(self, original: RoundedActivation) -> None:
        super().__init__()
        self.register_buffer("scale", original.scale)
        self.register_buffer("zero", original.zero_point.float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded tensor."""
        levels = torch.clamp(torch.round(x / self.scale) + self.zero, LOW, HIGH)
        return (levels - self.zero) * self.scale


def to_torch(model: nn.Module, example: Sequence[Tensor]) -> bytes:
    """Return a model as a file that `torch.export.load` reads. Its weights are dense fp32.

    Parameters
    ----------
    model
        In eval mode.
    example
        Its inputs, the batch first; the file takes any batch.

    Raises
    ------
    ArtifactError
        If torch can't export it.
    """
    inputs, shapes = batched(example)
    file = io.BytesIO()
    try:
        with silent(), torch.no_grad():
            program = torch.export.export(plain(model, _Rounded), inputs, dynamic_shapes=shapes, strict=False)
            torch.export.save(program, file)
    except Exception as error:
        raise ArtifactError(f"torch can't export the model: {reason_of(error)}") from error
    return file.getvalue()


def from_torch(data: bytes) -> Callable[..., Tensor]:
    """Return the program of a file that `to_torch` wrote."""
    program: Callable[..., Tensor] = torch.export.load(io.BytesIO(data)).module()
    return program
