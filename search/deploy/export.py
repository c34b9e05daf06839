"""A saved model as a file for other runtimes, with what was checked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...evaluators.onnx_session import Session
from ...spaces.data import as_batch
from ...spaces.errors import ArtifactError, DataError, SettingError
from ..artifact import FILE, locate, opened
from ..folder import check_place
from ..store import write_atomically
from .onnx_file import to_onnx
from .torch_file import from_torch, to_torch

Format = Literal["onnx", "torch"]
#: How files of each format are called, and saved models.
ENDINGS, SAVED = {"onnx": ".onnx", "torch": ".pt2"}, Path(FILE).suffix
Program = Session | Callable[..., Tensor]
#: Outputs that differ by more of the largest one are no longer those of the same model.
CLOSE = 0.1
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

    @property
    def close(self) -> bool:
        """Whether the two are the same but for rounding: a level of 8 bits here and there is."""
        return self.difference <= CLOSE

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
    format: Format = "onnx",  # noqa: A002 - as users know it
    *,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    inputs: Tensor | Sequence[Any] = (),
    overwrite: bool = False,
) -> Exported:
    """Write a saved model as a file for other runtimes, and check its outputs.

    Parameters
    ----------
    source
        A point's folder or its file.
    out
        The file to write. Folders that aren't there are made.
    format
        "onnx": packed weights, for ONNX Runtime. "torch": a program of `torch.export`, its weights dense.
    model
        The original model, where ``source`` needs it.
    inputs
        What to compare outputs on: the model's input, all of them, or a batch as the data gives it, whose targets
        aren't looked at. Without it, random numbers and zeros.
    overwrite
        Whether a file that is there may be replaced; a saved model never is.

    Raises
    ------
    SettingError
        If ``out`` can't be the file's name, or ``inputs`` isn't what the model takes.
    ArtifactError
        If the file can't be read, exported or loaded, or gives outputs that are no numbers.
    RunError
        If ``out`` can't be written.
    """
    file, target = locate(source), Path(out)
    _check_target(target, format, overwrite)
    check_place(target.parent, "the file's folder")
    data = file.read_bytes()
    try:
        held = opened(data, model)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    given = _as_inputs(inputs, len(held.example))
    _check_inputs(given, held.example, held.model)
    example = given or held.example
    if not example:
        raise ArtifactError(f"{file} was written by an older version and doesn't say what inputs it takes: give them.")
    one = tuple(x[:1] for x in example)
    if format == "onnx":
        deployed = to_onnx(held.model, held.encodings, one)
        program: Program = Session(deployed)
    else:
        deployed = to_torch(held.model, one)
        program = from_torch(deployed)
    parity = compared(held.model, program, given or tuple(map(_drawn, one)), bool(given))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, deployed)
    return Exported(target, len(deployed), len(data), parity)


def _check_target(target: Path, form: Format, overwrite: bool) -> None:
    if target.is_dir():
        raise SettingError("out", str(target), "is a folder", f"Name a file in it: {target / f'model{ENDINGS[form]}'}.")
    other = next((f for f, ending in ENDINGS.items() if f != form and target.suffix == ending), None)
    if other is not None:
        raise SettingError("out", str(target), f"is the name of a file of format {other}, and this one is {form}")
    if target.suffix == SAVED:
        raise SettingError("out", str(target), "is the name of a saved model", f"End it with {ENDINGS[form]}.")
    if target.exists() and not overwrite:
        raise SettingError(
            "out", str(target), "is there already", "Give another name, or replace it: --overwrite, overwrite=True."
        )


def _drawn(example: Tensor, batch: int = 16) -> Tensor:
    """Return random numbers, or zeros for integers, in the shape of an example."""
    shape = (batch, *example.shape[1:])
    if not example.is_floating_point():
        return torch.zeros(shape, dtype=example.dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example.dtype)


def _as_inputs(given: Tensor | Sequence[Any], count: int) -> tuple[Tensor, ...]:
    """Return what a model is called with; ``count`` is how many inputs it takes, 0 if nobody knows."""
    if isinstance(given, Tensor):
        return (given,)
    inputs = tuple(given) if isinstance(given, tuple | list) else None
    if inputs and (len(inputs) == count + 1 > 1 or not all(isinstance(x, Tensor) for x in inputs)):
        try:
            inputs, _ = as_batch(inputs, "inputs")
        except DataError:
            inputs = None
    if inputs is None:
        raise SettingError(
            "inputs", type(given).__name__, "must be a tensor, a tuple of tensors or a batch of the data"
        )
    return inputs


@torch.no_grad()
def _check_inputs(inputs: tuple[Tensor, ...], example: tuple[Tensor, ...], model: nn.Module) -> None:
    """Check that a model takes a user's inputs; ``example`` are those in its file, unless that is old."""
    if any(x.ndim == 0 or not len(x) for x in inputs):
        raise SettingError("inputs", _kinds(inputs), "must hold at least one example")
    try:
        _ = model(*(x[:1] for x in inputs)) if inputs else None
    except Exception as error:
        known = f"; it was searched with {_kinds(example)}" if example else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError("inputs", _kinds(inputs), f"must be what the model takes{known}", f"({reason})") from error


def _kinds(inputs: tuple[Tensor, ...]) -> str:
    return " and ".join(f"{str(x.dtype)[6:]} ({', '.join(['batch', *map(str, x.shape[1:])])})" for x in inputs)


@torch.no_grad()
def compared(
    model: nn.Module, deployed: Session | Callable[..., Tensor], inputs: tuple[Tensor, ...], real: bool
) -> Parity:
    """Return how far a deployed model's outputs are from a model's.

    Raises
    ------
    ArtifactError
        If the two don't give outputs of the same shape, or one gives outputs that are no numbers.
    """
    batch = tuple(x[:_COMPARED] for x in inputs)
    ours: Tensor = model(*(x.clone() for x in batch))
    if isinstance(deployed, Session):
        theirs = torch.from_numpy(deployed(*(x.numpy() for x in batch)))
    else:
        theirs = deployed(*batch)
    if ours.shape != theirs.shape:
        raise ArtifactError(f"the exported model gives {tuple(theirs.shape)}, the model {tuple(ours.shape)}.")
    for whose, values in (("the model", ours), ("the exported model", theirs)):
        if values.isnan().any():
            raise ArtifactError(
                f"{whose} gives outputs that are no numbers (NaN) for {int(values.isnan().flatten(1).any(1).sum())} of "
                f"{len(values)} inputs. Its weights may be damaged, or the inputs be none that it can take."
            )
    finite = ours[ours.isfinite()].abs()
    scale = max(float(finite.max()) if len(finite) else 0.0, torch.finfo(torch.float32).tiny)
    same = float((ours.argmax(1) == theirs.argmax(1)).float().mean()) if ours.ndim > 1 and ours.shape[1] > 1 else None
    apart = torch.where(ours == theirs, 0.0, (ours - theirs).abs())  # the same infinity is no difference
    return Parity(float(apart.max()) / scale, same, len(ours), real)
