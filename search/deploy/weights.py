"""Puts packed weights in the place of dense ones, and lets integer layers compute on integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from ...compressors.encoding import Encoding, Portable
from .four_bits import replaced
from .unpacking import Workbench

Array = npt.NDArray[Any]

#: Nodes that have integer kernels, and which of their inputs is the bias.
_KERNELS = {"Conv": 2, "Gemm": 2, "MatMul": None}
#: Nodes whose fp32 weights a runtime rounds if they stand between roundings, and what may stand between, too.
_ROUNDABLE, _CLIPS = {"Conv", "ConvTranspose", "Gemm"}, {"Relu", "Clip"}
#: Nodes that give the values that they read.
_MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity"}
#: A tensor is another one times a factor for each channel if nothing differs by more than this share of the largest.
_SAME = 1e-5
#: The most units that a bias may have, which leaves room for the sums, and those that it has in a channel of zeros.
_LARGEST, _LEVELS = 1 << 29, 1 << 20
#: Smaller tensors aren't worth the nodes that unpack them.
_WORTH = 256


@dataclass(frozen=True)
class Weight:
    """A dense weight, fp32, and how it is stored."""

    dense: Array
    encoding: Encoding


@dataclass(frozen=True)
class Found:
    """A weight in a graph.

    Attributes
    ----------
    value
        The constant.
    factor
        (channels,) what its channels were multiplied with, such as by a folded batch norm; None for nothing.
    transposed
        Whether it is stored the other way round.
    """

    value: ir.Value
    factor: Array | None
    transposed: bool


def pack_weights(graph: ir.Graph, weights: Mapping[str, Weight]) -> list[str]:
    """Replace the constants of a graph that hold encoded weights by packed ones.

    Parameters
    ----------
    graph
        As exported: its constants are named after the parameters, or not at all.
    weights
        Parameter name -> dense value and encoding.

    Returns
    -------
    list[str]
        The parameters that were not found, and are in the file as they were exported.
    """
    bench, missing = Workbench(graph), []
    for name, weight in weights.items():
        portable = weight.encoding.codec.portable(torch.from_numpy(weight.dense))
        places = list(_places(graph, name, weight.dense))
        if not places:
            missing.append(name)
        for place in places:
            if portable is not None and (weight.dense.nbytes >= _WORTH or _for_integers(place, portable)):
                _replace(bench, place, portable)
            elif weight.encoding.mask is not None:
                _replace_sparse(bench, place)
    _keep_floats(bench, graph)
    bench.finish()
    used = {value.name for value in graph.outputs}
    for node in graph:
        used.update(value.name for value in node.inputs if value is not None)
    for name in [name for name in graph.initializers if name not in used]:
        del graph.initializers[name]
    return missing


def _keep_floats(bench: Workbench, graph: ir.Graph) -> None:
    """Keep layers with fp32 weights in fp32 where what they read and what they give is rounded.

    Of such a layer a runtime rounds the weights itself, all channels on one grid of 8 bits, and it computes something
    else than the model that was measured. A maximum with the lowest number changes nothing, and the pattern is gone.
    """
    apart: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        value = node.inputs[0] if node.op_type in _ROUNDABLE else None
        if value is None or _rounding(node) is None or not _is_rounded(node.outputs[0]):
            continue
        weight = node.inputs[1].producer() if node.inputs[1] is not None else None
        if weight is not None and weight.op_type == "DequantizeLinear":
            continue
        if value not in apart:
            lowest = bench.constant(np.array(np.finfo(np.float32).min))
            new = ir.node("Max", [value, lowest])
            new.outputs[0].name = f"apart_{len(apart)}"
            graph.insert_before(node, new)
            apart[value] = new.outputs[0]
        node.replace_input_with(0, apart[value])


def _is_rounded(value: ir.Value) -> bool:
    """Whether a value goes into a rounding, and nowhere else."""
    uses = list(value.uses())
    while len(uses) == 1 and uses[0].node.op_type in _MOVES | _CLIPS:
        uses = list(uses[0].node.outputs[0].uses())
    return len(uses) == 1 and uses[0].node.op_type == "QuantizeLinear"


def _places(graph: ir.Graph, name: str, dense: Array) -> Iterator[Found]:
    """Yield the constants that hold a weight: that of its name, and others of the same content."""
    named = graph.initializers.get(name)
    values = [named] if named is not None else []
    values += [v for n, v in graph.initializers.items() if n.startswith("val_")]
    for value in values:
        if value.const_value is None or value.const_value.size != dense.size or value.dtype != ir.DataType.FLOAT:
            continue
        array = value.const_value.numpy()
        for transposed in (False, True) if dense.ndim == 2 else (False,):
            own = array.T if transposed else array
            factor = _factor(own, dense) if own.shape == dense.shape else None
            same = factor is not None and bool((factor == 1).all())
            # Channels of a single number are times a factor what any other numbers are: that proves nothing.
            if factor is not None and (same or value is named or dense.size > len(dense)):
                yield Found(value, None if same else factor, transposed)
                break


def _factor(array: Array, dense: Array) -> Array | None:
    """Return by what each channel of a weight was multiplied to give an array, or None if that isn't all."""
    rows, own = dense.reshape(len(dense), -1).astype(np.float64), array.reshape(len(dense), -1).astype(np.float64)
    if np.array_equal(rows, own):
        return np.ones(len(rows), dtype=np.float32)
    length = (rows * rows).sum(1)
    factor = np.where(length > 0, (rows * own).sum(1) / np.where(length > 0, length, 1), 1)
    if np.abs(rows * factor[:, None] - own).max() > _SAME * np.abs(own).max():
        return None
    return factor.astype(np.float32)


def _replace(bench: Workbench, found: Found, portable: Portable) -> None:
    """Let all that reads a constant read the packed weight."""
    symmetric = _symmetric(portable)
    for use in list(found.value.uses()):
        if symmetric and _on_integers(use.node, use.idx):
            codes, scale = bench.integers(_fitting(use.node, portable, found.factor), found.transposed)
            axis = 1 if found.transposed else 0
            steps = bench.constant(scale.astype(np.float32))
            zeros = bench.constant(np.zeros(len(scale), dtype=np.int8))  # a Gemm without them is left in fp32
            new = bench.node("DequantizeLinear", codes, steps, zeros, axis=axis)
            _integer_bias(bench, use.node, scale, steps)
        elif replaced(bench, use.node, use.idx, portable, found.transposed, found.factor):
            continue
        else:
            new = bench.floats(portable, found.factor)
            if found.transposed:
                new = bench.node("Transpose", new, perm=[1, 0])
        use.node.replace_input_with(use.idx, new)


def _symmetric(portable: Portable) -> bool:
    """Whether a weight has one scale a channel and its zero in the middle, as integer kernels want it."""
    middle = np.float32(1 << (portable.bits - 1))
    return portable.group == 0 and portable.zero is not None and bool(np.all(portable.zero == middle))


def _for_integers(found: Found, portable: Portable) -> bool:
    """Whether something computes on integers with a weight, however small it is: left as fp32, it would be rounded by
    the runtime itself, all channels on one grid.
    """
    return _symmetric(portable) and any(_on_integers(use.node, use.idx) for use in found.value.uses())


def _on_integers(node: ir.Node, place: int) -> bool:
    """Whether a node would run on integers if the input at a place were an integer weight."""
    return node.op_type in _KERNELS and place == 1 and _rounding(node) is not None


def _rounding(node: ir.Node) -> ir.Node | None:
    """Return the node that dequantises what a layer reads: runtimes carry it past nodes that only move values."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    while source is not None and source.op_type in _MOVES:
        source = source.inputs[0].producer() if source.inputs[0] is not None else None
    return source if source is not None and source.op_type == "DequantizeLinear" else None


def _bias(node: ir.Node) -> tuple[int, Array, float] | None:
    """Return which input of an integer layer its bias is, the bias, and the step of what it reads; None without one."""
    place, source = _KERNELS[node.op_type], _rounding(node)
    bias = node.inputs[place] if place is not None and len(node.inputs) > place else None
    step = source.inputs[1] if source is not None else None
    if place is None or bias is None or bias.const_value is None or step is None or step.const_value is None:
        return None
    return place, bias.const_value.numpy().astype(np.float64), float(step.const_value.numpy())


def _fitting(node: ir.Node, portable: Portable, factor: Array | None) -> Portable:
    """Return an integer layer's weight, times a factor for each channel, with scales in which its bias can be written.

    Integer kernels add the bias in units of step times scale, and what a runtime makes of one that needs more than 32
    bits is garbage. Of a channel that gives little but its bias, such as one whose batch norm has a weight near zero,
    the scale is raised and the codes shrink; of a channel of zeros the scale means nothing, and is one that makes
    the bias exact.
    """
    assert portable.scale is not None
    assert portable.zero is not None
    scale = portable.scale[:, 0].astype(np.float64) * (1 if factor is None else factor)
    levels = (portable.codes - portable.zero.flat[0]).reshape(len(scale), -1)
    found, size = _bias(node), np.abs(scale)
    least, exact = np.zeros(len(scale)), np.ones(len(scale))
    if found is not None:
        _, bias, step = found
        least = np.abs(bias) / (step * _LARGEST)
        exact = np.where(bias != 0, np.abs(bias) / (step * _LEVELS), 1)
    silent = (size == 0) | (levels == 0).all(1)
    new = np.where(silent, exact, np.maximum(size, least)).clip(min=np.finfo(np.float32).tiny)
    levels = np.round(levels * np.where(silent, 0, size / new)[:, None]) + portable.zero.flat[0]
    signed = np.where(scale < 0, -new, new).astype(np.float32)[:, None]
    return replace(portable, codes=levels.astype(np.uint8).reshape(portable.codes.shape), scale=signed)


def _integer_bias(bench: Workbench, node: ir.Node, scale: Array, steps: ir.Value) -> None:
    """Give an integer layer its bias in the unit of its sums, as integer kernels want it."""
    found, source = _bias(node), _rounding(node)
    if found is None or source is None:
        return
    place, bias, step = found
    levels = np.round(bias / (scale.astype(np.float64) * step)).astype(np.int32)
    units = bench.node("Mul", steps, source.inputs[1])
    node.replace_input_with(place, bench.node("DequantizeLinear", bench.constant(levels), units, axis=0))


def _replace_sparse(bench: Workbench, found: Found) -> None:
    """Store only the numbers of a constant that aren't zero, where that is smaller."""
    assert found.value.const_value is not None
    array = found.value.const_value.numpy()
    flat = array.reshape(-1)
    keep = flat != 0
    if not keep.any() or 4 * keep.sum() + len(flat) / 8 + _WORTH * 2 >= array.nbytes:
        return
    new = bench.shaped(bench.sparse(flat, keep, 32, 0.0), *array.shape)
    for use in list(found.value.uses()):
        use.node.replace_input_with(use.idx, new)
