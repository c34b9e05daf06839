"""The file: named arrays and one JSON document in a safetensors file, so that nothing in it can execute.

Layout (version 1). A safetensors file whose tensors are ``json`` (the document, UTF-8, deflated, as U8) and one
concatenation of all parts for each element type (``u8``, ``f16``, ``f32``, ...), which keeps the header a few
hundred bytes however many layers there are. Its metadata hold, under ``paretopress-model``, the version and the
SHA-256 of the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from ..spaces.errors import ArtifactError

FORMAT = "paretopress-model"
VERSION = 1
#: A structure is text about layers; more than this is not a structure but an attack.
MAX_JSON = 256 << 20

Part = npt.NDArray[Any]
_TYPES = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "i8": np.int8, "i16": np.int16,
    "i32": np.int32, "i64": np.int64, "f16": np.float16, "f32": np.float32, "f64": np.float64, "b": np.bool_,
}  # fmt: skip
#: In which safetensors puts them.
_ORDER = ("u64", "i64", "f64", "f32", "u32", "i32", "f16", "u16", "i16", "i8", "json", "u8", "b")
_CODES = {np.dtype(t): code for code, t in _TYPES.items()}
_AGAIN = "Copy it again, or, in a run's own folder, have `paretopress resume` write it again."


class PartWriter:
    """Collects arrays by element type, and tells the reader in which order to take them."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Part]] = {}

    def add(self, part: Part) -> list[Any]:
        """Append an array and return its reference: [type code, *shape]."""
        code = _CODES.get(part.dtype)
        if code is None:
            raise ArtifactError(f"arrays of type {part.dtype} can't be written to a file.")
        flat = np.ascontiguousarray(part).reshape(-1)
        self._parts.setdefault(code, []).append(flat)
        return [code, *(int(d) for d in part.shape)]

    def counts(self) -> dict[str, int]:
        """Return how many numbers there are of each element type."""
        return {code: sum(part.size for part in parts) for code, parts in sorted(self._parts.items())}

    def joined(self) -> dict[str, Part]:
        """Return one array for each element type."""
        return {code: np.concatenate(parts) for code, parts in sorted(self._parts.items())}


class PartReader:
    """Hands out the arrays in the order in which they were added."""

    def __init__(self, arrays: dict[str, Part]) -> None:
        self._arrays, self._next = arrays, dict.fromkeys(arrays, 0)

    def take(self, reference: Any) -> Part:
        """Return the array of a reference, or raise ArtifactError if the file holds less."""
        try:
            code, *shape = reference
            start = self._next[code]
            if not all(isinstance(d, int) and d >= 0 for d in shape):
                raise ValueError
            length = math.prod(shape)
            if start + length > len(self._arrays[code]):
                raise ValueError
        except (KeyError, ValueError, TypeError):
            raise ArtifactError(f"the file is damaged: it has no array {reference!r}.") from None
        self._next[code] = start + length
        return self._arrays[code][start : start + length].reshape(shape)


def _checksum(arrays: dict[str, Part]) -> str:
    state = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        state.update(f"{name}:{array.dtype}:{array.size};".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def write(document: dict[str, Any], parts: PartWriter) -> bytes:
    """Return the bytes of the file."""
    arrays = {"json": np.frombuffer(_deflated(document), dtype=np.uint8), **parts.joined()}
    data = save_safetensors(arrays, metadata=_stamp(_checksum(arrays)))
    assert isinstance(data, bytes)
    return data


def length(document: dict[str, Any], parts: PartWriter) -> int:
    """Return how many bytes `write` would return, in a fraction of its time: without joining and hashing the arrays."""
    counts = {"json": len(_deflated(document)), **parts.counts()}
    header: dict[str, Any] = {"__metadata__": _stamp("0" * 64)}
    end = 0
    for name in sorted(counts, key=_ORDER.index):
        start, end = end, end + counts[name] * np.dtype(_TYPES.get(name, np.uint8)).itemsize
        kind = {"json": "U8", "b": "BOOL"}.get(name, name.upper())
        header[name] = {"dtype": kind, "shape": [counts[name]], "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-text // 8) * 8 + end


def _deflated(document: dict[str, Any]) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(), 9)


def _stamp(checksum: str, version: int = VERSION) -> dict[str, str]:
    """Return the metadata: one entry, because the order of several differs from process to process."""
    return {FORMAT: json.dumps({"version": version, "sha256": checksum})}


def _stamped(data: bytes) -> tuple[int, str]:
    """Return version and checksum, or raise ValueError if the file is not ours."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if FORMAT not in header.get("__metadata__", {}):
        raise ArtifactError("a safetensors file, but not a model saved by paretopress.")
    stamp = json.loads(header["__metadata__"][FORMAT])
    return int(stamp["version"]), str(stamp["sha256"])


def read(data: bytes) -> tuple[dict[str, Any], PartReader]:
    """Return the document and a reader of the arrays.

    Raises
    ------
    ArtifactError
        If the bytes are no such file, are truncated or edited, or come from a newer version.
    """
    try:
        arrays = load_safetensors(data)
        version, checksum = _stamped(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ArtifactError(f"not a readable safetensors file ({error}). It may be truncated. {_AGAIN}") from error
    if version < 1:
        raise ArtifactError(f"the file is damaged: there is no format version {version}.")
    if version > VERSION:
        raise ArtifactError(
            f"the file has format version {version}, this paretopress reads up to {VERSION}. Upgrade paretopress."
        )
    for name, array in arrays.items():
        if name != "json" and (name not in _TYPES or array.dtype != np.dtype(_TYPES[name])):
            raise ArtifactError(f"the file holds an unexpected array {name!r} of {array.dtype}.")
    if "json" not in arrays or checksum != _checksum(arrays):
        what = "the checksum does not match: the file was damaged or edited after it was written."
        raise ArtifactError(f"{what} {_AGAIN}")
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(arrays["json"].tobytes(), MAX_JSON)
        if not inflate.eof:
            raise ValueError(f"the document is incomplete or longer than {MAX_JSON} bytes")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("the document is no object")
    except (zlib.error, ValueError, RecursionError) as error:
        raise ArtifactError(f"the file's JSON document can't be read ({error}).") from error
    return document, PartReader({k: v.reshape(-1) for k, v in arrays.items() if k != "json"})
