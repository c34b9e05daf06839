"""A compressed model as a file of `torch.export`: for runtimes that compile such programs, and for torch itself."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim

from ...compressors.activations import HIGH, LOW, RoundedActivation
from ...spaces.errors import ArtifactError
from .exporting import MAX_BATCH, reason_of, silent


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
    plain = copy.deepcopy(model).cpu().eval()
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RoundedActivation):
                setattr(parent, name, _Rounded(child))
    inputs = tuple(x.cpu().repeat(-(-2 // len(x)), *[1] * (x.ndim - 1)) for x in example)
    batch = Dim("batch", min=1, max=MAX_BATCH)
    file = io.BytesIO()
    try:
        with silent(), torch.no_grad():
            program = torch.export.export(plain, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=False)
            torch.export.save(program, file)
    except Exception as error:
        raise ArtifactError(f"torch can't export the model: {reason_of(error)}") from error
    return file.getvalue()


def from_torch(data: bytes) -> Callable[..., Tensor]:
    """Return the program of a file that `to_torch` wrote."""
    program: Callable[..., Tensor] = torch.export.load(io.BytesIO(data)).module()
    return program
