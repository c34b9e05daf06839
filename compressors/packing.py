"""A weight tensor and its encoding <-> a short JSON-able description and a few arrays, bit for bit.

Every layout that can hold the tensor is written, and the smallest wins: all symbols, or only the non-zero
ones beside a bitmap, bit-packed or entropy-coded. So a technique is worth exactly what the file gets shorter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..spaces.catalogue import techniques
from ..spaces.errors import SettingError, nearest
from .base import Compressor
from .cache import LayerCache
from .encoding import Codec, Coder, Encoding, Float32, Packed, Part, Symbols
from .forms import CodecForm, Entry, PlainForm, UnstorableError

Spec = dict[str, Any]

#: The largest alphabet that symbols may have: 16 bits each.
MAX_ALPHABET = 1 << 16
#: A tensor of up to this many elements is read whatever its parts' size ...
FREE_ELEMENTS = 1 << 24
#: ... and a larger one with at most this many elements for every byte: no short file asks for all memory.
MAX_ELEMENTS_PER_BYTE = 4096


# --- bits ----------------------------------------------------------------------------------------------


def bit_width(alphabet: int) -> int:
    """Return the bits of one symbol of an alphabet: ceil(log2), at least 1."""
    return max(1, (alphabet - 1).bit_length())


def packed_size(count: int, width: int) -> int:
    """Return the bytes that `pack_bits` makes of ``count`` symbols."""
    low = min(width, 8)
    return -(-count * low // 8) + (packed_size(count, width - 8) if width > 8 else 0)


def pack_bits(symbols: npt.NDArray[Any], width: int) -> npt.NDArray[np.uint8]:
    """Write symbols at ``width`` bits each, the first in the lowest bits.

    Up to 8 bits, eight symbols fill ``width`` bytes. Wider symbols are two planes: low bytes, then the rest.

    Parameters
    ----------
    symbols
        (count,) non-negative integers below ``2 ** width``.
    width
        1 to 16.
    """
    if width > 8:
        return np.concatenate([(symbols & 0xFF).astype(np.uint8), pack_bits(symbols >> 8, width - 8)])
    if width == 8:
        return symbols.astype(np.uint8)
    if width == 1:
        return np.packbits(symbols.astype(np.uint8), bitorder="little")
    rows = np.zeros((-(-len(symbols) // 8), 8), dtype=np.uint8)
    rows.reshape(-1)[: len(symbols)] = symbols
    words = np.zeros(len(rows), dtype="<u8")
    for place in range(8):
        words |= rows[:, place].astype("<u8") << np.uint64(width * place)
    packed = words.view(np.uint8).reshape(-1, 8)[:, :width].reshape(-1)
    return np.ascontiguousarray(packed[: packed_size(len(symbols), width)])


def unpack_bits(packed: npt.NDArray[np.uint8], count: int, width: int) -> Symbols:
    """Return the ``count`` symbols that `pack_bits` wrote at ``width`` bits.

    Raises
    ------
    ValueError
        If the array doesn't have the bytes that so many symbols take.
    """
    if packed.dtype != np.uint8 or packed.shape != (packed_size(count, width),):
        raise ValueError(
            f"packed symbols: {count} of {width} bits take uint8 ({packed_size(count, width)},), "
            f"but the part is {packed.dtype} {packed.shape}"
        )
    if width > 8:
        high: Symbols = unpack_bits(packed[count:], count, width - 8) << 8
        return packed[:count] | high
    if width == 8:
        return packed.astype(np.int64)
    if width == 1:
        return np.unpackbits(packed, count=count, bitorder="little").astype(np.int64)
    bytes_ = np.zeros((-(-count // 8), 8), dtype=np.uint8)
    padded = np.zeros(len(bytes_) * width, dtype=np.uint8)
    padded[: len(packed)] = packed
    bytes_[:, :width] = padded.reshape(-1, width)
    words = bytes_.view("<u8")
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(width)
    symbols: Symbols = ((words >> shifts) & np.uint64((1 << width) - 1)).astype(np.int64)
    return symbols.reshape(-1)[:count]


# --- the formats that exist ---------------------------------------------------------------------------


def formats() -> dict[str, type[Codec] | type[Coder]]:
    """Return the number formats and coders by the name that files give them.

    `Float32` is built in, all others come from the registered techniques.

    Raises
    ------
    SettingError
        If two techniques claim one name for different formats.
    """
    found: dict[str, type[Codec] | type[Coder]] = {Float32.kind: Float32}
    for technique in techniques().values():
        for written in technique.formats if isinstance(technique, Compressor) else ():
            if found.setdefault(written.kind, written) is not written:
                raise SettingError("format", written.kind, "is claimed by two techniques", "Give yours another kind.")
    return found


def _codec(kind: object) -> type[Codec]:
    found = formats()
    codec = found.get(str(kind))
    if codec is None or not issubclass(codec, Codec):
        known = [name for name, format_ in found.items() if issubclass(format_, Codec)]
        raise _unknown("number format", kind, known)
    return codec


def _unknown(what: str, kind: object, known: list[str]) -> ValueError:
    return ValueError(
        f"the {what} {kind!r} is unknown. If a technique of your own wrote it, import the module that registers it "
        f"before loading. {nearest(str(kind), known)}"
    )


def _coder(kind: object) -> Coder:
    found = formats()
    coder = found.get(str(kind))
    if coder is None or not issubclass(coder, Coder):
        known = [name for name, format_ in found.items() if issubclass(format_, Coder)]
        raise _unknown("entropy coder", kind, known)
    return coder()


# --- writing ------------------------------------------------------------------------------------------


def packed_bytes(spec: Spec, parts: list[Part]) -> int:
    """Return what a packed tensor takes: its arrays and its description as compact JSON."""
    return sum(part.nbytes for part in parts) + len(json.dumps(spec, separators=(",", ":")))


def pack_tensor(weight: Tensor, encoding: Encoding, cache: LayerCache | None = None) -> Packed:
    """Return the smallest description and arrays that hold a tensor which is on its encoding's grid.

    Parameters
    ----------
    weight
        fp32, any shape, at least one element.
    encoding
        Its number format and, optionally, an entropy coder to try.
    cache
        Where the same tensor in the same encoding may have been packed before.

    Raises
    ------
    ValueError
        If the tensor is empty, isn't fp32, or isn't exactly what its codec would read back.
    """
    if cache is None or not cache.active:
        return _packed(weight, encoding)
    codec, coder = encoding.codec, encoding.coder
    try:
        entry = Entry.of([CodecForm([type(codec)]).flatten(codec), None if coder is None else vars(coder)])
    except (UnstorableError, TypeError):  # a coder without __dict__
        return _packed(weight, encoding)
    code = [type(codec), *([] if coder is None else [type(coder)]), _Layouts]
    content: list[Tensor | Part] = [weight.detach().cpu().contiguous(), *entry.arrays]
    packed: PlainForm[Packed] = PlainForm()
    return cache.recall(code, ["pack", entry.text], content, partial(_packed, weight, encoding), packed)


class _Layouts:
    """Stands for the code here, which decides what is written."""


def _packed(weight: Tensor, encoding: Encoding) -> Packed:
    shape, codec = tuple(weight.shape), encoding.codec
    if weight.dtype != torch.float32 or weight.numel() == 0:
        raise ValueError(f"packing: a tensor must be float32 with at least one element, not {weight.dtype} {shape}")
    weight = weight.detach().cpu().contiguous()
    facts, side = codec.side()
    found = codec.symbols(weight)
    head: Spec = {"codec": codec.kind, "shape": list(shape)}
    if facts:
        head["facts"] = facts
    if side:
        head["side"] = len(side)
    if found is None:
        floats = weight.numpy().reshape(-1)
        restored = codec.restore(facts, [*side, floats], None, shape)
        candidates = _float_layouts(floats, encoding.coder)
    else:
        symbols, head["alphabet"] = found
        restored = codec.restore(facts, side, symbols, shape)
        candidates = _symbol_layouts(*found, codec.zero, encoding.coder)
    if not torch.equal(restored.view(torch.int32), weight.view(torch.int32)):
        raise ValueError(f"packing: the tensor {shape} is not on the grid of its {codec.kind} codec")
    whole = [({**head, **layout}, [*side, *parts]) for layout, parts in candidates]
    readable = [(spec, parts) for spec, parts in whole if weight.numel() <= _element_limit(parts)]
    return min(readable, key=lambda packed: packed_bytes(*packed))


def _float_layouts(floats: npt.NDArray[np.float32], coder: Coder | None) -> Iterator[Packed]:
    yield {"layout": "dense"}, [floats.copy()]
    keep = floats.view(np.uint32) != 0  # by bits: -0.0 is kept
    for bitmap, parts in _bitmaps(keep, coder):
        yield {"layout": "sparse", **bitmap}, [*parts, floats[keep]]


def _symbol_layouts(symbols: Symbols, alphabet: int, zero: int | None, coder: Coder | None) -> Iterator[Packed]:
    yield {"layout": "dense"}, [pack_bits(symbols, bit_width(alphabet))]
    if coder is not None:
        coded, parts = coder.encode(symbols, alphabet)
        yield {"layout": "dense", "coder": coder.kind, "coded": coded}, parts
    if zero is not None and alphabet > 1:
        keep = symbols != zero
        kept = symbols[keep]
        body = pack_bits(kept - (kept > zero), bit_width(alphabet - 1))  # zero has left the alphabet
        for bitmap, parts in _bitmaps(keep, coder):
            yield {"layout": "sparse", "zero": zero, **bitmap}, [*parts, body]


def _bitmaps(keep: npt.NDArray[np.bool_], coder: Coder | None) -> Iterator[Packed]:
    yield {}, [pack_bits(keep, 1)]
    if coder is not None:
        coded, parts = coder.encode(keep.astype(np.int64), 2)
        yield {"coder": coder.kind, "coded": coded}, parts


def _element_limit(parts: list[Part]) -> int:
    return max(FREE_ELEMENTS, MAX_ELEMENTS_PER_BYTE * sum(part.nbytes for part in parts))


# --- reading -------------------------------------------------------------------------------------------


def unpack_tensor(spec: Spec, parts: list[Part]) -> Tensor:
    """Return the tensor that `pack_tensor` packed, bit for bit.

    Raises
    ------
    ValueError
        If the description is malformed, names an unknown format, or doesn't fit the parts. No tensor of more
        than `FREE_ELEMENTS`, or `MAX_ELEMENTS_PER_BYTE` for each byte of the parts, is allocated.
    """
    try:
        return _unpack(spec, parts)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"packed tensor: malformed ({type(error).__name__}: {error})") from error


def read_encoding(spec: Spec, parts: list[Part], weight: Tensor) -> Encoding | None:
    """Return how a tensor that `unpack_tensor` gave is stored, or None if its codec can't be read back.

    Raises
    ------
    ValueError
        If the description doesn't fit the parts.
    """
    side = parts[: _whole("side", spec.get("side", 0), 0, len(parts))]
    codec = _codec(spec["codec"])
    found = codec() if codec is Float32 else codec.rebuild(spec.get("facts", {}), side, tuple(weight.shape))
    mask = weight != 0 if spec["layout"] == "sparse" else None
    return Encoding(found, mask) if found is not None else None


def _unpack(spec: Spec, parts: list[Part]) -> Tensor:
    if not isinstance(spec["shape"], list | tuple):  # an empty text or object would pass for a single number
        raise ValueError(f"shape: must be a list, not {spec['shape']!r:.40}")
    shape = tuple(_whole("dimension", n, 1, 1 << 40) for n in spec["shape"])
    count = math.prod(shape)
    if count > _element_limit(parts):
        held = sum(part.nbytes for part in parts)
        raise ValueError(f"packed tensor: shape {list(shape)} has more elements than {held} bytes may hold")
    codec = _codec(spec["codec"])
    cut = _whole("side", spec.get("side", 0), 0, len(parts))
    side, payload = list(parts[:cut]), list(parts[cut:])
    alphabet = _whole("alphabet", spec.get("alphabet", 0), 0, MAX_ALPHABET)
    layout = spec["layout"]
    if layout == "dense":
        values = _decode(spec, payload, count, alphabet)
    elif layout == "sparse":
        if not payload:
            raise ValueError("packed tensor: a sparse layout has two parts at least, but there are none")
        values = _scatter(_decode(spec, payload[:-1], count, 2), payload[-1], alphabet, spec.get("zero"))
    else:
        raise ValueError(f"packed tensor: unknown layout {layout!r}. Known: dense, sparse.")
    facts = spec.get("facts", {})
    if alphabet:
        return codec.restore(facts, side, values, shape)
    return codec.restore(facts, [*side, values], None, shape)


def _decode(spec: Spec, parts: list[Part], count: int, alphabet: int) -> npt.NDArray[Any]:
    """Read ``count`` symbols, entropy-coded if the spec names a coder, or floats where the alphabet is 0."""
    if "coder" in spec:
        values = _coder(spec["coder"]).decode(spec["coded"], parts, count, alphabet)
        if values.shape != (count,):
            raise ValueError(f"packed tensor: the coder gave {values.shape} symbols instead of ({count},)")
        return _checked(values, alphabet)
    if len(parts) != 1:
        raise ValueError(f"packed tensor: expected one part of values, not {len(parts)}")
    return _read(parts[0], count, alphabet)


def _read(part: Part, count: int, alphabet: int) -> npt.NDArray[Any]:
    if alphabet:
        return _checked(unpack_bits(part, count, bit_width(alphabet)), alphabet)
    if part.dtype != np.float32 or part.shape != (count,):
        raise ValueError(f"packed tensor: expected float32 ({count},), but the part is {part.dtype} {part.shape}")
    return part


def _checked(symbols: Symbols, alphabet: int) -> Symbols:
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < alphabet:
        raise ValueError(f"packed tensor: a symbol is outside the alphabet of {alphabet}")
    return symbols


def _scatter(bitmap: Symbols, body: Part, alphabet: int, zero: object) -> npt.NDArray[Any]:
    keep = bitmap.astype(bool)
    count = int(np.count_nonzero(keep))
    if not alphabet:
        floats = np.zeros(len(keep), dtype=np.float32)
        floats[keep] = _read(body, count, 0)
        return floats
    hole = _whole("zero", zero, 0, alphabet - 1)
    kept = _read(body, count, _whole("alphabet", alphabet, 2, MAX_ALPHABET) - 1)
    symbols = np.full(len(keep), hole, dtype=np.int64)
    symbols[keep] = kept + (kept >= hole)
    return symbols


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"packed tensor: {name} must be a whole number from {low} to {high}, not {value!r}")
    return value
