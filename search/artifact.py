"""Load a compressed model: one file that holds structure, recipe and packed tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..compressors.draft import Draft
from ..compressors.encoding import Encoding
from ..compressors.packing import read_encoding, unpack_tensor
from ..spaces.attention import convert_attention
from ..spaces.errors import ArtifactError, SettingError
from ..spaces.recipe import Recipe
from ..spaces.task import Task
from . import container
from .graph import place, read_graph
from .modules import build
from .saving import SKIPPED, dumps

#: The file's name in a point's folder.
FILE = "model.safetensors"

#: What an input may be, as a file describes it: no short file asks for all memory.
_INPUTS = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}
_MAX_DIMENSIONS, _MAX_INPUT = 8, 1 << 26

#: How the error of a model begins that can't be loaded without its class.
NEEDS = "this model needs its original class"


@dataclass(frozen=True)
class Opened:
    """A model that was read from a file.

    Attributes
    ----------
    model
        In eval mode.
    encodings
        Parameter name -> how the file stores it, for those that it doesn't store as they are.
    example
        Inputs of zeros, a batch of one; () if the file doesn't say what the model takes.
    """

    model: nn.Module
    encodings: dict[str, Encoding]
    example: tuple[Tensor, ...]


def _unpacked(spec: Mapping[str, Any], arrays: list[container.Part]) -> Tensor:
    if "raw" not in spec:
        return unpack_tensor(dict(spec), arrays)
    [array] = arrays
    shape = [int(d) for d in spec["raw"]]
    if any(d < 0 for d in shape) or int(np.prod(shape, dtype=object)) != array.size:
        raise ValueError(f"{array.size} values for shape {shape}")
    tensor = torch.from_numpy(array.copy())
    if spec.get("as") == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    return tensor.reshape(shape)


def loads(data: bytes, model: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return the model of a file, in eval mode; see `opened`."""
    return opened(data, model).model


def opened(data: bytes, model: nn.Module | Callable[[], nn.Module] | None = None) -> Opened:
    """Return what a file holds.

    Parameters
    ----------
    data
        The bytes of the file.
    model
        The original model or a function that builds it, used only where the file isn't self-contained.

    Raises
    ------
    ArtifactError
        If the file is damaged, from a newer version, or needs ``model``.
    """
    document, parts = container.read(data)
    try:
        tensors, encodings = _read_tensors(document["tensors"], parts)
        example = tuple(_example(*described) for described in document.get("example", ()))
        structure = document["structure"]
        kind = structure["kind"]
        if kind == "graph":
            loaded: nn.Module = read_graph(structure, tensors)
            _assign(loaded, tensors)
        elif kind == "edits":
            loaded = _fitted(structure, tensors, model)
        else:
            raise ValueError(f"unknown structure {kind!r}")
    except ArtifactError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"the file can't be read: {type(error).__name__}: {str(error).rstrip('.')}.") from error
    return Opened(loaded.eval(), encodings, example)


def needs_class(data: bytes) -> str:
    """Return why a file needs the original's class, or "" if it holds the whole model.

    Raises
    ------
    ArtifactError
        If the file is damaged, or from a newer version.
    """
    structure = container.read(data)[0].get("structure")
    if not isinstance(structure, dict) or structure.get("kind") != "edits":
        return ""
    return str(structure.get("reason") or "the file doesn't say why")


def _example(dtype: Any, shape: Any) -> Tensor:
    """Return an empty batch of one."""
    if dtype not in _INPUTS or len(shape) > _MAX_DIMENSIONS or not all(isinstance(d, int) and d >= 0 for d in shape):
        raise ValueError(f"an input of {dtype!r} {shape!r}")
    if math.prod(shape) > _MAX_INPUT:
        raise ValueError(f"an input of {math.prod(shape)} numbers")
    return torch.zeros(1, *shape, dtype=getattr(torch, dtype))


def _read_tensors(entries: Any, parts: container.PartReader) -> tuple[dict[str, Tensor], dict[str, Encoding]]:
    tensors: dict[str, Tensor] = {}
    encodings: dict[str, Encoding] = {}
    for name, spec, references in entries:
        if "tied" in spec:
            tensors[name] = tensors[spec["tied"]]
            continue
        arrays = [parts.take(r) for r in references]
        tensor = _unpacked(spec, arrays)
        if "raw" not in spec and (encoding := read_encoding(dict(spec), arrays, tensor)) is not None:
            encodings[name] = encoding
        if "parameter" in spec:
            tensor = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        tensors[name] = tensor
    return tensors, encodings


def _fitted(
    structure: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module | Callable[[], nn.Module] | None
) -> nn.Module:
    """Return the user's model with the file's layers and tensors."""
    loaded = _edited(structure, model)
    try:
        _assign(loaded, tensors, strict=True)
        own = (*loaded.named_parameters(remove_duplicate=False), *loaded.named_buffers(remove_duplicate=False))
        more = [name for name, _ in own if name not in tensors and not name.endswith(SKIPPED)]
        if more:
            raise ArtifactError(f"it has {', '.join(more[:3])}, and the file has not.")
    except (ArtifactError, AttributeError) as error:
        source = structure.get("source")
        raise ArtifactError(
            f"the given model is not the one that this file was made from ({str(error).rstrip('.')}). "
            "Pass the original model" + (f", which {source} builds." if source else ".")
        ) from error
    return loaded


def _edited(structure: Mapping[str, Any], model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
    if model is None:
        source = structure.get("source")
        raise ArtifactError(
            f"{NEEDS} ({structure.get('reason')}). Pass model=, the original model or a "
            "function that builds it" + (f"; it was built by {source}." if source else ".")
        )
    built = model if isinstance(model, nn.Module) else model()
    base = convert_attention(copy.deepcopy(built))
    for path, description in structure["modules"].items():
        new = build(description)
        if not path:
            base = new
        else:
            old = base.get_submodule(path) if _exists(base, path) else None
            if old is not None and not isinstance(new, nn.Sequential):
                # A described module that holds layers (attention heads): keep the children, they have their own lines.
                for name, child in old.named_children():
                    if name in new._modules:
                        new._modules[name] = child
            place(base, path, new)
    return base


def _exists(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _assign(model: nn.Module, tensors: Mapping[str, Tensor], strict: bool = False) -> None:
    """Give the model the file's tensors; ``strict`` compares shapes with values that are already there too."""
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        owner = model.get_submodule(path)
        if key in owner._parameters:
            old: Tensor | None = owner._parameters[key]
        elif key in owner._buffers:
            old = owner._buffers[key]
        else:
            raise ArtifactError(f"the file is damaged: the structure has no place for the tensor {name!r}.")
        if old is not None and (old.is_meta or strict) and old.shape != tensor.shape:
            raise ArtifactError(
                f"the file is damaged: {name} has shape {tuple(tensor.shape)}, its layer takes {tuple(old.shape)}."
            )
        if key in owner._parameters:
            parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            owner._parameters[key] = parameter
        else:
            owner._buffers[key] = tensor.detach()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            if not name.endswith(SKIPPED):
                raise ArtifactError(f"the file is damaged: the tensor {name!r} is missing.")
            path, _, key = name.rpartition(".")
            model.get_submodule(path)._buffers[key] = torch.zeros((), dtype=tensor.dtype)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def class_needed(task: Task) -> str:
    """Return why saved models of a task need the user's class, or "".

    Whether tracing gives the same model is tried on a whole batch, because a trace can miss what one example doesn't
    touch.
    """
    args, _ = task.validation.first()
    saved = dumps(Draft.of(task.model), task.model, Recipe(), args)
    if saved.needs_class:
        return saved.needs_class
    with torch.no_grad():
        before = task.model(*(x.clone() for x in args))
        after = loads(saved.data)(*(x.clone() for x in args))
    return "" if torch.equal(before, after) else "tracing its forward pass changes the outputs"


def locate(path: Path | str) -> Path:
    """Return the model file of a path: the file itself, or the one in a point's folder.

    Raises
    ------
    ArtifactError
        If there is none.
    """
    place_ = Path(path)
    file = place_ / FILE if place_.is_dir() else place_
    if not file.is_file():
        raise ArtifactError(f"{file}: there is no such model file.")
    return file


def load(path: Path | str, model: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return the model saved at ``path`` (a point's folder or its file), in eval mode; see `opened`.

    Raises SettingError, too, if ``path`` or ``model`` can't be one.
    """
    if not isinstance(path, str | Path):
        raise SettingError("path", path, "must be a point's folder or its file")
    if model is not None and not isinstance(model, nn.Module) and not callable(model):
        raise SettingError("model", model, "must be the original model, or a function that builds it")
    file = locate(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file}: can't be read ({error.strerror}).") from error
    try:
        return loads(data, model)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error.__cause__
