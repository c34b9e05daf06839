"""Packed weights inside an ONNX file: small constants, and the nodes that make tensors of them.

Runtimes compute what depends on constants only once, when they load the file: a weight of 3 bits is three bits on disk
and a plain tensor in memory, as fast as one that was never packed. All operators are standard ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...compressors.encoding import Portable
from ...compressors.packing import pack_bits

Array = npt.NDArray[Any]

#: The oldest format that has all operators in use: INT8 kernels' QDQ, BitwiseAnd, dynamic batch.
IR_VERSION = 10
#: Fields that bytes are cut into: numbers of 3, 5, 6 and 7 bits are stored as several of these.
_FIELDS = (8, 4, 2, 1)
#: Bytes that the nodes of the sparse layout take beside its numbers.
_SPARSE = 300
#: So few numbers aren't worth a node that makes them fp32 again.
_HALVES = 32
#: So few codes aren't worth the nodes that unpack them.
_FEW = 64


class Workbench:
    """Adds constants and nodes to a graph; what is equal is added once.

    Parameters
    ----------
    graph
        Its new nodes come before all others, when `finish` is called.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._nodes: list[ir.Node] = []
        self._known: dict[Any, ir.Value] = {}
        self._made = 0
        #: Bits, and whether half of the range goes off -> numbers that are stored together, and where they are wanted.
        self._pools: dict[tuple[int, bool], list[tuple[npt.NDArray[np.uint8], ir.Value]]] = {}

    def constant(self, array: Array) -> ir.Value:
        """Return a value that holds an array."""
        array = np.array(array, order="C")
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            value = ir.Value(name=f"packed_{len(self._known)}", const_value=ir.tensor(array))
            self.graph.register_initializer(value)
            self._known[key] = value
        return self._known[key]

    def node(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Return the output of a node; the same node isn't added twice."""
        key = (kind, tuple(map(id, inputs)), repr(sorted(attributes.items())))
        if key not in self._known:
            node = ir.node(kind, list(inputs), attributes=attributes)
            node.outputs[0].name, self._made = f"unpacked_{self._made}", self._made + 1
            self._nodes.append(node)
            self._known[key] = node.outputs[0]
        return self._known[key]

    def shaped(self, value: ir.Value, *shape: int) -> ir.Value:
        """Return a value in another shape."""
        return self.node("Reshape", value, self.constant(np.array(shape, dtype=np.int64)))

    def cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """Return a value in another type."""
        return self.node("Cast", value, to=kind.value)

    def first(self, value: ir.Value, count: int, axis: int = 0) -> ir.Value:
        """Return the first elements along an axis."""
        ends = (np.array([n], dtype=np.int64) for n in (0, count, axis))
        return self.node("Slice", value, *map(self.constant, ends))

    def finish(self) -> None:
        """Put the nodes into the graph."""
        wanted, self._nodes = self._nodes, []
        for (bits, signed), pool in self._pools.items():
            pool.sort(key=lambda wanted: wanted[0].shape[1:])  # rows of one shape stand together
            whole = self._unpacked(np.concatenate([values.reshape(-1) for values, _ in pool]), bits)
            if signed:
                middle = self.constant(np.array(1 << (bits - 1), np.int32))
                whole = self.cast(self.node("Sub", self.cast(whole, ir.DataType.INT32), middle), ir.DataType.INT8)
            alike = [list(same) for _, same in groupby(pool, key=lambda wanted: wanted[0].shape[1:])]
            sizes = [sum(values.size for values, _ in same) for same in alike]
            parts = [ir.Value(name=f"{whole.name}_{n}") for n in range(len(alike))]
            for same, part in zip(alike, self._split(whole, sizes, parts) if len(alike) > 1 else [whole]):
                self._rows(part, same)
        self.graph.insert_before(next(iter(self.graph)), [*self._nodes, *wanted])
        self._nodes, self._pools = [], {}

    def _rows(self, whole: ir.Value, wanted: Sequence[tuple[npt.NDArray[np.uint8], ir.Value]]) -> None:
        """Cut numbers into tensors whose rows have the same shape."""
        rest = wanted[0][0].shape[1:]
        if rest:
            whole = self.shaped(whole, -1, *rest)
        self._split(whole, [len(values) for values, _ in wanted], [value for _, value in wanted])

    def _split(self, whole: ir.Value, lengths: Sequence[int], parts: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Let values be so many rows of another each, one after the other; return them."""
        sizes = self.constant(np.array(lengths, dtype=np.int64))
        self._nodes.append(ir.Node("", "Split", [whole, sizes], [ir.AttrInt64("axis", 0)], outputs=parts))
        return parts

    # --- numbers -------------------------------------------------------------------------------------------

    def numbers(self, values: npt.NDArray[np.uint8], bits: int, signed: bool = False) -> ir.Value:
        """Return whole numbers below ``2 ** bits`` as uint8, in their own shape and stored at so many bits each; as
        int8 and less half of that if ``signed``.

        All numbers of as many bits are one constant: to unpack each by itself takes as many bytes as a small layer.
        """
        key = (bits, signed, values.shape, hashlib.sha256(values.tobytes()).digest())
        if key not in self._known:
            pool = self._pools.setdefault((bits, signed), [])
            self._known[key] = ir.Value(name=f"numbers_{bits}_{signed:d}_{len(pool)}")
            pool.append((values, self._known[key]))
        return self._known[key]

    def _unpacked(self, values: npt.NDArray[np.uint8], bits: int) -> ir.Value:
        """Return numbers that are cut into fields: the low bits first."""
        whole: ir.Value | None = None
        below = 0
        for field in _FIELDS:
            if bits - below < field:
                continue
            part = self._fields(((values >> below) & ((1 << field) - 1)).astype(np.uint8), field)
            if below:
                shift = self.constant(np.array([below], dtype=np.uint8))
                part = self.node("BitShift", part, shift, direction="LEFT")
            whole = part if whole is None else self.node("BitwiseOr", whole, part)
            below += field
        assert whole is not None
        return whole

    def _fields(self, values: npt.NDArray[np.uint8], width: int) -> ir.Value:
        """Return (n,) numbers of 1, 2, 4 or 8 bits, several to a byte."""
        if width == 8:
            return self.constant(values)
        packed = self.constant(pack_bits(values, width)[:, None])
        shifts = self.constant(np.arange(0, 8, width, dtype=np.uint8))
        mask = self.constant(np.array((1 << width) - 1, dtype=np.uint8))
        spread = self.node("BitwiseAnd", self.node("BitShift", packed, shifts, direction="RIGHT"), mask)
        flat = self.shaped(spread, -1)
        return flat if len(values) * width % 8 == 0 else self.first(flat, len(values))

    def sparse(self, values: Array, keep: npt.NDArray[np.bool_], bits: int, hole: Any) -> ir.Value:
        """Return (n,) values of which only some are stored: where ``keep`` is false they are ``hole``.

        ``bits`` is that of a number; 32 for floats, which are stored as they are.
        """
        bitmap = self.numbers(keep.astype(np.uint8), 1)
        counted = self.node("CumSum", self.cast(bitmap, ir.DataType.INT32), self.constant(np.array(0, dtype=np.int64)))
        places = self.node("Sub", counted, self.constant(np.array(1, dtype=np.int32)))
        places = self.node("Max", places, self.constant(np.array(0, dtype=np.int32)))
        kept = self.constant(values[keep]) if bits == 32 else self.numbers(values[keep], bits)
        empty = self.constant(np.array(hole, dtype=values.dtype))
        return self.node("Where", self.cast(bitmap, ir.DataType.BOOL), self.node("Gather", kept, places), empty)

    def codes(self, portable: Portable) -> ir.Value:
        """Return (n,) codes as uint8 in the smaller of two layouts: all of them, or those that aren't the commonest."""
        flat, commonest = portable.codes.reshape(-1), _mostly(portable)
        if commonest is not None:
            return self.sparse(flat, flat != commonest, portable.bits, commonest)
        return self.numbers(flat, portable.bits)

    # --- tensors -------------------------------------------------------------------------------------------

    def floats(self, portable: Portable, factor: npt.NDArray[np.float32] | None) -> ir.Value:
        """Return a weight as fp32.

        Parameters
        ----------
        portable
            The weight.
        factor
            (channels,) what each channel is multiplied with besides, or None.
        """
        shape, codes = portable.codes.shape, self.codes(portable)
        channels, rest = shape[0], int(np.prod(shape[1:]))
        if portable.table is not None:
            indices = self.cast(codes, ir.DataType.INT32)
            flat = self.shaped(self.node("Gather", self.constant(portable.table), indices), channels, rest)
        else:
            flat = self.shaped(self.cast(codes, ir.DataType.FLOAT), channels, rest)
        zero, scale = portable.zero, portable.scale
        if zero is not None and (zero == zero.flat[0]).all():
            zero = zero.reshape(-1)[:1].reshape(1, 1)
        if scale is not None and scale.shape[1] == 1 and factor is not None:
            scale, factor = scale * factor[:, None], None
        if zero is not None:
            flat = self.node("Sub", flat, self._spread(zero, portable.group, rest))
        if scale is not None:
            flat = self.node("Mul", flat, self._spread(scale, portable.group, rest))
        if factor is not None:
            flat = self.node("Mul", flat, self.constant(factor[:, None]))
        return self.shaped(flat, *shape)

    def blocks(self, scale: npt.NDArray[np.float32], count: int) -> ir.Value:
        """Return (channels, count) scales of blocks, of which there are as many, or one for each channel."""
        short = self._short(scale)
        if scale.shape[1] == count:
            return short
        return self.node("Expand", short, self.constant(np.array([len(scale), count])))

    def _short(self, values: npt.NDArray[np.float32]) -> ir.Value:
        """Return values as fp32, stored in fewer bits where these hold them exactly."""
        half = values.astype(np.float16)
        if values.size < _HALVES or not np.array_equal(half.astype(np.float32), values):
            return self.constant(values)
        return self.cast(self.constant(half), ir.DataType.FLOAT)

    def _spread(self, values: npt.NDArray[np.float32], group: int, rest: int) -> ir.Value:
        """Return (channels, groups) values so that they fit (channels, rest) weights."""
        if values.shape[1] == 1:
            return self._short(values)
        channels, groups = values.shape
        wide = self._short(values[:, :, None])
        wide = self.node("Expand", wide, self.constant(np.array([channels, groups, group])))
        flat = self.shaped(wide, channels, groups * group)
        return flat if groups * group == rest else self.first(flat, rest, 1)

    def integers(self, portable: Portable, transposed: bool) -> tuple[ir.Value, Array]:
        """Return a symmetric weight as int8, and the positive scale of each channel.

        Parameters
        ----------
        portable
            The weight, one scale a channel and the same zero everywhere. Where a scale is negative, codes change sign.
        transposed
            Whether the weight, which is a matrix then, is wanted the other way round.
        """
        assert portable.scale is not None
        assert portable.zero is not None
        middle = int(portable.zero.flat[0])
        scale = portable.scale[:, 0]
        signs = np.where(scale < 0, -1, 1).astype(np.int32).reshape(-1, *[1] * (portable.codes.ndim - 1))
        plain = (portable.codes.astype(np.int32) - middle) * signs
        if transposed:
            plain = plain.T
        if portable.bits == 8 or portable.codes.size < _FEW:
            return self.constant(np.clip(plain, -128, 127).astype(np.int8)), np.abs(scale)
        if _mostly(portable) is None and plain.max() < middle:
            return self.numbers((plain + middle).astype(np.uint8), portable.bits, signed=True), np.abs(scale)
        whole = self.cast(self.codes(portable), ir.DataType.INT32)
        levels = self.node("Sub", self.shaped(whole, *portable.codes.shape), self.constant(np.array(middle, np.int32)))
        if (signs < 0).any():
            levels = self.node("Mul", levels, self.constant(signs))
        if transposed:
            levels = self.node("Transpose", levels, perm=[1, 0])
        return self.cast(levels, ir.DataType.INT8), np.abs(scale)


def _mostly(portable: Portable) -> int | None:
    """Return the code that is so common that a weight is smaller without it, or None."""
    flat = portable.codes.reshape(-1)
    counts = np.bincount(flat)
    commonest = int(counts.argmax())
    others = len(flat) - int(counts[commonest])
    smaller = len(flat) + others * portable.bits + 8 * _SPARSE < len(flat) * portable.bits
    return commonest if others and smaller else None
