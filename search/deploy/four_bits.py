"""Linear layers that compute with weights of 4 bits as they are, where the runtime is faster so than in fp32.

ONNX Runtime's ``MatMulNBits`` reads an eighth of the bytes, and rounds each block of the layer's inputs to 8 bits on
the way. It is worth that for large layers only; how large they must be depends on the machine, and is timed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import helper

from ...compressors.cache import cache_folder
from ...compressors.encoding import Portable
from ...compressors.packing import pack_bits
from ...compressors.shelf import Shelf
from ...evaluators.onnx_session import Session
from ...evaluators.pairing import Program, clock_of, paired
from ..effects import LARGE
from ..stopwatch import machine
from .one_node import one_node
from .unpacking import Workbench

DOMAIN, KIND = "com.microsoft", "MatMulNBits"
#: Weights that may share a scale, and into how many a whole channel is cut: the largest that divides it.
_BLOCKS = (256, 128, 64, 32, 16)
#: The layer's inputs are rounded to 8 bits by blocks; without that the kernel is slower than fp32.
_ROUNDED = 4
#: How much faster it must be, at one example and at so many; seconds of each timing, and bytes that a machine keeps.
_FASTER, _EXAMPLES, _SECONDS, _BOUND = 1.15, (1, 32), 0.2, 1 << 20


def replaced(bench: Workbench, node: ir.Node, place: int, portable: Portable, transposed: bool, factor: Any) -> bool:
    """Let a node compute with weights of 4 bits if it can, and is faster then; return whether.

    Parameters
    ----------
    bench
        Of the graph.
    node, place
        A node, and the input that is the weight.
    portable, factor
        The weight, (outputs, inputs), and what its rows are multiplied with besides, or None.
    transposed
        Whether the node reads it as (inputs, outputs).
    """
    block = block_of(portable)
    if block is None or portable.codes.size < LARGE or not _is_product(node, place, transposed):
        return False
    outputs, inputs = portable.codes.shape
    if not is_faster(_rows(node.inputs[0]), inputs, outputs, block):
        return False
    blocks = -(-inputs // block)
    codes = np.zeros((outputs, blocks * block), dtype=np.uint8)
    codes[:, :inputs] = portable.codes
    packed = pack_bits(codes.reshape(-1), 4).reshape(outputs, blocks, block // 2)
    assert portable.scale is not None
    scale = portable.scale if factor is None else portable.scale * factor[:, None]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    values = [node.inputs[0], bench.constant(packed), bench.blocks(scale, blocks), _zeros(bench, portable, blocks)]
    values += [None, bias] if bias is not None else []
    node.op_type, node.domain = KIND, DOMAIN
    node.attributes.clear()
    numbers = _numbers(inputs, outputs, block)
    node.attributes.update({name: ir.AttrInt64(name, number) for name, number in numbers.items()})
    node.resize_inputs(len(values))
    for index, value in enumerate(values):
        node.replace_input_with(index, value)
    bench.graph.opset_imports[DOMAIN] = 1
    return True


def _numbers(inputs: int, outputs: int, block: int) -> dict[str, Any]:
    """Return the attributes of a node."""
    return {"K": inputs, "N": outputs, "bits": 4, "block_size": block, "accuracy_level": _ROUNDED}


def block_of(portable: Portable) -> int | None:
    """Return how many weights share a scale in a form that the kernel knows, or None if there is none."""
    if portable.bits != 4 or portable.codes.ndim != 2 or portable.table is not None or portable.scale is None:
        return None
    zero = portable.zero
    if zero is None or not np.array_equal(zero, zero.round().clip(0, 15)):
        return None
    inputs = portable.codes.shape[1]
    if portable.group:
        return portable.group if portable.group in _BLOCKS else None
    return next((block for block in _BLOCKS if inputs % block == 0), None)


def _is_product(node: ir.Node, place: int, transposed: bool) -> bool:
    """Whether a node is a product with the weight, and nothing that the kernel doesn't do."""
    if place != 1 or node.domain:
        return False
    if node.op_type == "MatMul":
        return transposed
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = not given.get("transA", 0) and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    row = bias is None or (bias.const_value is not None and bias.const_value.numpy().ndim == 1)
    return node.op_type == "Gemm" and plain and row and bool(given.get("transB", 0)) != transposed


def _rows(value: ir.Value | None) -> int:
    """Return how many rows a layer reads for one example."""
    shape = value.shape if value is not None else None
    return int(np.prod([n for n in list(shape or ())[:-1] if isinstance(n, int)], dtype=np.int64))


def _zeros(bench: Workbench, portable: Portable, blocks: int) -> ir.Value | None:
    """Return the codes that stand for zero, packed; None where they are all in the middle, which the kernel assumes."""
    assert portable.zero is not None
    if (portable.zero == 8).all():
        return None
    rows = np.broadcast_to(portable.zero, (len(portable.zero), blocks)).astype(np.uint8)
    even = np.pad(rows, ((0, 0), (0, blocks % 2)))
    return bench.constant(pack_bits(even.reshape(-1), 4).reshape(len(rows), -1))


@cache
def is_faster(rows: int, inputs: int, outputs: int, block: int) -> bool:
    """Whether the kernel is clearly faster than fp32 here; timed once on a machine.

    Parameters
    ----------
    rows
        That the layer reads for an example.
    inputs, outputs, block
        Of its weight, and how many weights share a scale.
    """
    facts = json.dumps([machine(), version("onnxruntime"), _FASTER, _EXAMPLES, rows, inputs, outputs, block])
    key, folder = hashlib.sha256(facts.encode()).hexdigest(), cache_folder()
    shelf = Shelf(folder / "kernels", _BOUND) if folder is not None else None
    known = shelf.read(key) if shelf is not None else None
    if known in (b"yes", b"no"):
        return known == b"yes"
    found = all(speedup(rows * examples, inputs, outputs, block) >= _FASTER for examples in _EXAMPLES)
    if shelf is not None:
        shelf.write(key, b"yes" if found else b"no")
    return found


def speedup(rows: int, inputs: int, outputs: int, block: int) -> float:
    """Return how many times as fast as in fp32 a layer of random weights is, timed in turns on one thread."""
    rng, blocks = np.random.default_rng(0), -(-inputs // block)
    dense = {"w": rng.standard_normal((inputs, outputs)).astype(np.float32)}
    packed = {
        "w": rng.integers(0, 256, (outputs, blocks, block // 2), dtype=np.uint8),
        "s": rng.random((outputs, blocks), dtype=np.float32),
    }
    nodes: list[tuple[Any, dict[str, Any]]] = [
        (helper.make_node(KIND, ["x", "w", "s"], ["y"], domain=DOMAIN, **_numbers(inputs, outputs, block)), packed),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), dense),
    ]
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    runs = [Session(one_node(node, x.shape, (rows, outputs), held)).ready(x) for node, held in nodes]
    ours, theirs = (Program(lambda run=run: run, clock_of()) for run in runs)  # type: ignore[misc]  # bound at once
    return 1 / paired(ours, theirs, _SECONDS).ratio
