"""A compressed model as an ONNX graph, by torch's exporter: dynamic batch, batch norm folded, activations as QDQ."""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.export import Dim

from ...compressors.activations import HIGH, LOW, RoundedActivation
from ...spaces.errors import ArtifactError
from .recurrent import as_rnn, is_foldable

#: The largest batch that a deployed model takes.
MAX_BATCH = 65536
#: How torch's exporter names the line of a user's model that it can't export.
_PLACE = re.compile(r'raised this error:\s+File "([^"]+)", line (\d+), in \w+\n(.+)')


@torch.library.custom_op("paretopress::rounded", mutates_args=())
def rounded(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return what a `RoundedActivation` returns: one operator, which the exporter doesn't take apart."""
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point.to(torch.int32), LOW, HIGH)


@rounded.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001 - the shape depends on x only
    return torch.empty_like(x)


def _as_qdq(x: Any, scale: Any, zero_point: Any) -> Any:
    """Return a rounded activation as the pair of nodes that runtimes turn into integer kernels."""
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


_TRANSLATED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.paretopress.rounded.default: _as_qdq,
    torch.ops.aten.rnn_tanh.input: as_rnn("Tanh"),
    torch.ops.aten.rnn_relu.input: as_rnn("Relu"),
}


class _Rounded(nn.Module):
    """A `RoundedActivation` in the types of files."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, original: RoundedActivation) -> None:
        super().__init__()
        self.register_buffer("scale", original.scale)
        self.register_buffer("zero_point", original.zero_point.to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded tensor."""
        out: Tensor = torch.ops.paretopress.rounded(x, self.scale, self.zero_point)
        return out


@contextmanager
def silent() -> Iterator[None]:
    """Keep the exporter's remarks on itself to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # where it prints what it can't export
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def input_names(count: int) -> list[str]:
    """Return what the inputs of a deployed model are called."""
    return ["input"] if count == 1 else [f"input{i}" for i in range(count)]


def plain(model: nn.Module, form: Callable[[RoundedActivation], nn.Module] | None = None) -> nn.Module:
    """Return a copy on the CPU with the same names, its rounded activations in a form that an exporter understands."""
    form = form or _Rounded
    copied = copy.deepcopy(model).cpu().eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RoundedActivation):
                setattr(parent, name, form(child))
    return copied


def batched(example: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Return inputs to export with, and which of their dimensions stay open: a batch of one would become a constant."""
    inputs = tuple(x.cpu().repeat(-(-2 // len(x)), *[1] * (x.ndim - 1)) for x in example)
    batch = Dim("batch", min=1, max=MAX_BATCH)
    return inputs, tuple({0: batch} for _ in inputs)


def exported(model: nn.Module, example: Sequence[Tensor]) -> ir.Model:
    """Return a model as ONNX, its weights still dense.

    Parameters
    ----------
    model
        In eval mode; it isn't changed.
    example
        Its inputs, the batch first.

    Raises
    ------
    ArtifactError
        If torch can't export it.
    """
    inputs, shapes = batched(example)
    names = input_names(len(inputs))
    try:
        with silent(), torch.no_grad():
            program = torch.onnx.export(
                plain(model), inputs, dynamo=True, external_data=False, verbose=False,
                input_names=names, output_names=["output"], dynamic_shapes=shapes,
                custom_translation_table=_TRANSLATED, optimize=False,
            )  # fmt: skip
            assert program is not None
            optimize_ir(program.model, should_fold=is_foldable)
    except Exception as error:
        raise ArtifactError(f"torch can't export the model to ONNX: {reason_of(error)}") from error
    return program.model


def reason_of(error: BaseException) -> str:
    """Return the innermost reason in one line, and the user's line that it is about, if it says: the exporter's own
    message is pages long.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error).strip()
    place = _PLACE.search(message)
    where = f" ({place[1]}, line {place[2]}: {place[3].strip().rstrip(':')})" if place is not None else ""
    lines = message.splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:300]}{where}"
