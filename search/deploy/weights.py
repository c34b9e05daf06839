"""Puts packed weights in the place of dense ones, and lets integer layers compute on integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from ...compressors.encoding import Encoding, Portable
from .unpacking import Workbench

Array = npt.NDArray[Any]

#: Nodes that have integer kernels, and which of their inputs is the bias.
_KERNELS = {"Conv": 2, "Gemm": 2, "MatMul": None}
#: Nodes that give the values that they read.
_MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity"}
#: A tensor is another one times a factor for each channel if nothing differs by more than this share of the largest.
_SAME = 1e-5
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
            if portable is not None and weight.dense.nbytes >= _WORTH:
                _replace(bench, place, portable)
            elif weight.encoding.mask is not None:
                _replace_sparse(bench, place)
    bench.finish()
    used = {value.name for value in graph.outputs}
    for node in graph:
        used.update(value.name for value in node.inputs if value is not None)
    for name in [name for name in graph.initializers if name not in used]:
        del graph.initializers[name]
    return missing


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
            if own.shape == dense.shape and (factor := _factor(own, dense)) is not None:
                yield Found(value, None if (factor == 1).all() else factor, transposed)
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
    middle = np.float32(1 << (portable.bits - 1))
    symmetric = portable.group == 0 and portable.zero is not None and bool(np.all(portable.zero == middle))
    for use in list(found.value.uses()):
        if symmetric and _on_integers(use.node, use.idx):
            codes, scale = bench.integers(portable, found.factor, found.transposed)
            axis = 1 if found.transposed else 0
            steps = bench.constant(scale.astype(np.float32))
            zeros = bench.constant(np.zeros(len(scale), dtype=np.int8))  # a Gemm without them is left in fp32
            new = bench.node("DequantizeLinear", codes, steps, zeros, axis=axis)
            _integer_bias(bench, use.node, scale, steps)
        else:
            new = bench.floats(portable, found.factor)
            if found.transposed:
                new = bench.node("Transpose", new, perm=[1, 0])
        use.node.replace_input_with(use.idx, new)


def _on_integers(node: ir.Node, place: int) -> bool:
    """Whether a node would run on integers if the input at a place were an integer weight."""
    return node.op_type in _KERNELS and place == 1 and _rounding(node) is not None


def _rounding(node: ir.Node) -> ir.Node | None:
    """Return the node that dequantises what a layer reads: runtimes carry it past nodes that only move values."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    while source is not None and source.op_type in _MOVES:
        source = source.inputs[0].producer() if source.inputs[0] is not None else None
    return source if source is not None and source.op_type == "DequantizeLinear" else None


def _integer_bias(bench: Workbench, node: ir.Node, scale: Array, steps: ir.Value) -> None:
    """Give an integer layer its bias in the unit of its sums, as integer kernels want it."""
    place, source = _KERNELS[node.op_type], _rounding(node)
    bias = node.inputs[place] if place is not None and len(node.inputs) > place else None
    step = source.inputs[1] if source is not None else None
    if place is None or bias is None or bias.const_value is None or step is None or step.const_value is None:
        return
    unit = scale.astype(np.float64) * float(step.const_value.numpy())
    levels = np.round(bias.const_value.numpy().astype(np.float64) / unit)
    if np.abs(levels).max(initial=0) < 2**31:
        codes, units = bench.constant(levels.astype(np.int32)), bench.node("Mul", steps, step)
        node.replace_input_with(place, bench.node("DequantizeLinear", codes, units, axis=0))


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
