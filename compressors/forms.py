"""Values as JSON and plain arrays, both ways and bit for bit: what a cache can keep. Nothing in it can execute.

A form takes a value apart into a tree of None, booleans, numbers, strings, lists, tuples, dictionaries, tensors and
arrays, and builds it again. A tree becomes an `Entry`, which owns copies of everything: whoever changes a value that
was stored, or one that was built from the store, changes only what is theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor, nn

from .encoding import Codec, Coder, Float32

Array = npt.NDArray[Any]
T = TypeVar("T")

_DTYPES = frozenset(
    np.dtype(name)
    for name in ("bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
)  # fmt: skip


class UnstorableError(Exception):
    """The value has no exact form here, so it is computed each time."""


class Form(Protocol[T]):
    """How values of one type are taken apart and put together."""

    def flatten(self, value: T) -> Any:
        """Return the value as a tree, or raise UnstorableError if what `build` makes of it would not be the same."""
        ...

    def build(self, tree: Any) -> T:
        """Return a new value from what `flatten` gave; raises anything if the tree isn't of this form."""
        ...


class PlainForm(Generic[T]):
    """For values that are trees already, e.g. a tensor or a tuple of a dictionary and a list of arrays."""

    def flatten(self, value: T) -> Any:
        """Return the value."""
        return value

    def build(self, tree: Any) -> T:
        """Return the tree."""
        value: T = tree
        return value


class CodecForm:
    """For codecs: frozen dataclasses whose fields are all that they know.

    Parameters
    ----------
    formats
        The classes that are allowed, besides `Float32`.
    """

    def __init__(self, formats: Iterable[type[Codec] | type[Coder]]) -> None:
        self._allowed: dict[str, type[Codec]] = {f.kind: f for f in (Float32, *formats) if issubclass(f, Codec)}

    def flatten(self, value: Codec) -> Any:
        """Return the kind and the fields."""
        cls, known = type(value), cast(Any, value)
        if self._allowed.get(cls.kind) is not cls or not is_dataclass(known) or not all(f.init for f in fields(known)):
            raise UnstorableError(f"{cls.__qualname__} is no registered dataclass")
        names = {f.name for f in fields(known)}
        if not set(getattr(value, "__dict__", names)) <= names:
            raise UnstorableError(f"{cls.__qualname__} knows more than its fields")
        values = {name: getattr(known, name) for name in sorted(names)}
        again = cls(**values)
        if any(getattr(again, name) is not value for name, value in values.items()):
            raise UnstorableError(f"{cls.__qualname__} changes what it is given")
        return {"kind": cls.kind, "fields": values}

    def build(self, tree: Any) -> Codec:
        """Return a codec of the same kind with the same fields."""
        return self._allowed[tree["kind"]](**tree["fields"])


@dataclass(frozen=True, eq=False)
class Entry:
    """A tree as JSON and arrays of its own.

    Attributes
    ----------
    text
        The tree in JSON; where an array stands, its number.
    arrays
        What the numbers mean.
    """

    text: str
    arrays: tuple[Array, ...]

    @classmethod
    def of(cls, tree: Any) -> Entry:
        """Return the tree's entry, with copies of its tensors and arrays.

        Raises
        ------
        UnstorableError
            If something in it is of another type, not on the CPU, not contiguous, or needs a gradient.
        """
        arrays: list[Array] = []
        return cls(json.dumps(_written(tree, arrays), separators=(",", ":")), tuple(arrays))

    def tree(self) -> Any:
        """Return the tree, with new tensors and arrays."""
        return _read(json.loads(self.text), self.arrays)

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly."""
        return 256 + len(self.text) + sum(128 + a.nbytes for a in self.arrays)

    def to_bytes(self, key: str) -> bytes:
        """Return a safetensors file with the JSON and a checksum (over ``key`` too) in its metadata."""
        named = {str(number): array for number, array in enumerate(self.arrays)}
        stamp = json.dumps([_checksum(key, self), self.text])  # one entry: the order of several isn't defined
        data = save_safetensors(named, metadata={"paretopress-layer": stamp})
        assert isinstance(data, bytes)
        return data

    @classmethod
    def from_bytes(cls, key: str, data: bytes) -> Entry:
        """Read what `to_bytes` wrote under the same key.

        Raises
        ------
        ValueError
            If the file is damaged or another one.
        """
        try:
            named = load_safetensors(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            checksum, text = json.loads(header["__metadata__"]["paretopress-layer"])
            entry = cls(str(text), tuple(named[str(number)] for number in range(len(named))))
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise ValueError(f"no stored layer result: {error}") from error
        if checksum != _checksum(key, entry):
            raise ValueError("a stored layer result is damaged")
        return entry


def _checksum(key: str, entry: Entry) -> str:
    state = hashlib.sha256(json.dumps([key, entry.text, [facts(a) for a in entry.arrays]]).encode())
    for array in entry.arrays:
        state.update(raw(array))
    return state.hexdigest()


def facts(array: Array) -> list[Any]:
    """Return an array's element type and shape."""
    return [array.dtype.str, *array.shape]


def raw(array: Array) -> memoryview:
    """Return an array's bytes, in order and not copied where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def array_of(tensor: Tensor) -> Array:
    """Return a tensor's values without copying them.

    Raises
    ------
    UnstorableError
        If it is not a dense, contiguous tensor of a plain type on the CPU.
    """
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_contiguous()
    try:
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise UnstorableError(str(error)) from error
    if not dense or array.dtype not in _DTYPES:
        raise UnstorableError(f"a tensor of {tensor.dtype} on {tensor.device}")
    return array


def _written(tree: Any, arrays: list[Array]) -> Any:
    kind = type(tree)  # exact types: a subclass would not come back
    if tree is None or kind in (bool, int, float, str):
        return tree
    if kind is list:
        return [_written(item, arrays) for item in tree]
    if kind is tuple:
        return {"tuple": [_written(item, arrays) for item in tree]}
    if kind is dict and all(type(key) is str for key in tree):
        return {"dict": {key: _written(item, arrays) for key, item in tree.items()}}
    if kind is Tensor and not tree.requires_grad:
        arrays.append(array_of(tree).copy())
        return {"tensor": len(arrays) - 1}
    if kind is np.ndarray and tree.dtype in _DTYPES and tree.flags.c_contiguous:
        arrays.append(tree.copy())
        return {"array": len(arrays) - 1}
    raise UnstorableError(f"a {kind.__qualname__}")


def _read(data: Any, arrays: tuple[Array, ...]) -> Any:
    if isinstance(data, list):
        return [_read(item, arrays) for item in data]
    if not isinstance(data, dict):
        return data
    [(kind, inner)] = data.items()
    if kind == "tuple":
        return tuple(_read(item, arrays) for item in inner)
    if kind == "dict":
        return {key: _read(item, arrays) for key, item in inner.items()}
    if kind == "array":
        return arrays[inner].copy()
    values = arrays[inner]
    # In torch's own memory: where an array starts can change the last bits of a sum.
    tensor = torch.empty(values.shape, dtype=torch.from_numpy(np.empty(0, dtype=values.dtype)).dtype)
    tensor.numpy()[...] = values
    return tensor


def layer_facts(layer: nn.Module) -> tuple[Any, list[Tensor]]:
    """Return what a layer consists of: JSON-able settings, and its parameters and buffers. Its mode is left out.

    Raises
    ------
    UnstorableError
        If it holds anything else: an attribute that is no plain value, or a hook.
    """
    settings: list[Any] = []
    for path, module in layer.named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        if module._forward_hooks or module._forward_pre_hooks or not all(map(_is_plain, own.values())):
            raise UnstorableError(f"{type(module).__qualname__} holds more than plain settings")
        settings.append([path, type(module).__qualname__, module.extra_repr(), own])
    places: dict[int, int] = {}
    tensors: list[Tensor] = []
    for named in (layer.named_parameters(remove_duplicate=False), layer.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            if id(tensor) not in places:
                places[id(tensor)] = len(tensors)
                tensors.append(tensor)
            settings.append([name, type(tensor).__qualname__, tensor.requires_grad, places[id(tensor)]])
    return settings, tensors


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
