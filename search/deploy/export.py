"""A saved model as an ONNX file beside it, with what was checked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...spaces.errors import ArtifactError
from ..artifact import locate, opened
from ..store import write_atomically
from .onnx_file import to_onnx
from .runtime import Session

#: Examples on which outputs are compared.
_COMPARED = 256


@dataclass(frozen=True)
class Parity:
    """How far the deployed file's outputs are from the model's.

    Attributes
    ----------
    difference
        The largest absolute one, as a share of the largest output.
    agreement
        The share of examples whose largest output is in the same place; None for outputs that are no scores.
    examples
        On how many examples.
    real
        Whether they were the task's; else they were drawn at random.
    """

    difference: float
    agreement: float | None
    examples: int
    real: bool

    def __str__(self) -> str:
        kind = "validation examples" if self.real else "random inputs"
        same = "" if self.agreement is None else f", the same class for {self.agreement:.2%}"
        return f"outputs differ by at most {self.difference:.2g} of the largest one{same} ({self.examples} {kind})"


@dataclass(frozen=True)
class Exported:
    """A deployed file.

    Attributes
    ----------
    path
        Where it is.
    bytes, native_bytes
        Its length, and that of the file that it was made from.
    parity
        Its outputs beside the model's.
    """

    path: Path
    bytes: int
    native_bytes: int
    parity: Parity


def export(
    source: Path | str,
    out: Path | str,
    *,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    inputs: tuple[Tensor, ...] = (),
) -> Exported:
    """Write a saved model as an ONNX file, and check it in ONNX Runtime.

    Parameters
    ----------
    source
        A point's folder or its file.
    out
        The file to write; one that is there is replaced.
    model
        The original model, where ``source`` needs it.
    inputs
        A batch to compare outputs on; without it, random numbers and zeros.

    Raises
    ------
    ArtifactError
        If the file can't be read, exported or loaded.
    """
    file, target = locate(source), Path(out)
    data = file.read_bytes()
    held = opened(data, model)
    example = inputs or held.example
    if not example:
        raise ArtifactError(f"{file} was written by an older version and doesn't say what inputs it takes: give them.")
    deployed = to_onnx(held.model, held.encodings, tuple(x[:1] for x in example))
    parity = compared(held.model, Session(deployed), inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, deployed)
    return Exported(target, len(deployed), len(data), parity)


@torch.no_grad()
def compared(model: nn.Module, session: Session, inputs: tuple[Tensor, ...] = ()) -> Parity:
    """Return how far a session's outputs are from a model's.

    Raises
    ------
    ArtifactError
        If the two don't give outputs of the same shape.
    """
    batch = tuple(x[:_COMPARED] for x in inputs) or tuple(map(torch.from_numpy, session.zeros(16)))
    ours: Tensor = model(*(x.clone() for x in batch))
    theirs = torch.from_numpy(session(*(x.numpy() for x in batch)))
    if ours.shape != theirs.shape:
        raise ArtifactError(f"the exported model gives {tuple(theirs.shape)}, the model {tuple(ours.shape)}.")
    scale = max(float(ours.abs().max()), torch.finfo(torch.float32).tiny)
    same = float((ours.argmax(1) == theirs.argmax(1)).float().mean()) if ours.ndim > 1 and ours.shape[1] > 1 else None
    return Parity(float((ours - theirs).abs().max()) / scale, same, len(ours), bool(inputs))
