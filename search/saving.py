"""Save a compressed model: one file that holds structure, recipe and packed tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..compressors.cache import LayerCache
from ..compressors.draft import Draft
from ..compressors.encoding import Encoding, Packed
from ..compressors.packing import pack_tensor
from ..spaces.errors import ArtifactError
from ..spaces.recipe import Recipe
from ..spaces.tracing import UntraceableError
from . import container
from .graph import write_graph
from .modules import describe

#: Buffers that inference never reads.
SKIPPED = "num_batches_tracked"


@dataclass(frozen=True)
class Saved:
    """A model as bytes.

    Attributes
    ----------
    data
        The file; its length is the model's size.
    needs_class
        Why the original model is needed to load it, or "" if the file is self-contained.
    """

    data: bytes
    needs_class: str = ""


@dataclass(frozen=True)
class Outline:
    """What a file says of a model, values apart.

    Attributes
    ----------
    structure
        As JSON.
    tensors
        Name -> tensor, in the order of the file.
    needs_class
        See `Saved`.
    """

    structure: dict[str, Any]
    tensors: Mapping[str, Tensor]
    needs_class: str = ""


def dumps(
    draft: Draft,
    original: nn.Module,
    recipe: Recipe,
    example: Sequence[Tensor] = (),
    source: str | None = None,
    needs_class: str = "",
    cache: LayerCache | None = None,
) -> Saved:
    """Return a draft as a file.

    Parameters
    ----------
    draft
        The compressed model and the encodings of its tensors.
    original
        The uncompressed model: where tracing fails, only what differs from it is described.
    recipe
        Recorded in the file.
    example
        The model's inputs: how many there are, their types and shapes. Left out, it is taken to have one.
    source
        ``module:function`` that builds the original, recorded where it is needed.
    needs_class
        Why the file shall not try to do without the original's class.
    cache
        Where some of the tensors may have been packed before.

    Raises
    ------
    ArtifactError
        If a changed layer can't be described.
    """
    found = outline(draft.model, original, max(1, len(example)), source, needs_class)
    encodings = by_tensor(draft)

    def pack(_: str, tensor: Tensor) -> Packed:
        encoding = encodings.get(id(tensor))
        return plainly(tensor) if encoding is None else pack_tensor(tensor.detach().cpu(), encoding, cache)

    written = contents(found, recipe, example, pack)
    return Saved(container.write(*written), found.needs_class)


def outline(
    model: nn.Module,
    original: nn.Module,
    inputs: int,
    source: str | None = None,
    needs_class: str = "",
    traced: tuple[fx.Graph, nn.Module] | None = None,
) -> Outline:
    """Return what a file will say of a model.

    Parameters
    ----------
    model
        In eval mode.
    original, source, needs_class
        As of `dumps`.
    inputs
        Number of positional inputs.
    traced
        What `trace` gave for a model that does the same with modules of the same paths and classes.

    Raises
    ------
    ArtifactError
        If a changed layer can't be described.
    """
    try:
        if needs_class:
            raise UntraceableError(needs_class)
        structure, tensors = write_graph(model, inputs, traced)
        return Outline({**structure, "kind": "graph"}, tensors)
    except UntraceableError as reason:
        needs_class = needs_class or f"its forward pass can't be traced: {reason}"
        structure = {"kind": "edits", "source": source, "reason": needs_class, "modules": _edits(model, original)}
        return Outline(structure, own_tensors(model), needs_class)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by all their names."""
    parameters, buffers = (model.named_parameters, model.named_buffers)
    return {**dict(parameters(remove_duplicate=False)), **dict(buffers(remove_duplicate=False))}


def contents(
    found: Outline, recipe: Recipe, example: Sequence[Tensor], pack: Callable[[str, Tensor], Packed]
) -> tuple[dict[str, Any], container.PartWriter]:
    """Return a file's document and its arrays.

    Parameters
    ----------
    found
        What the file says of the model.
    recipe, example
        As of `dumps`.
    pack
        Called with the name of each tensor, and with the tensor.
    """
    parts = container.PartWriter()
    entries: list[Any] = []
    ties: dict[int, str] = {}
    for name, tensor in found.tensors.items():
        if name.endswith(SKIPPED):
            continue
        if id(tensor) in ties:
            entries.append([name, {"tied": ties[id(tensor)]}, []])
            continue
        ties[id(tensor)] = name
        spec, arrays = pack(name, tensor)
        if isinstance(tensor, nn.Parameter):
            spec = {**spec, "parameter": 1}
        entries.append([name, spec, [parts.add(a) for a in arrays]])
    document = {"structure": found.structure, "tensors": entries, "recipe": recipe.to_json()}
    if example:
        document["example"] = [[str(x.dtype).removeprefix("torch."), list(x.shape[1:])] for x in example]
    return document, parts


def by_tensor(draft: Draft) -> dict[int, Encoding]:
    """Return the encodings of a draft by the identity of their tensors, which may have several names."""
    return {id(draft.parameter(name)): encoding for name, encoding in draft.encodings.items()}


def plainly(tensor: Tensor) -> Packed:
    """Return how a tensor without an encoding is stored."""
    value = tensor.detach().cpu().contiguous()
    shape = list(value.shape)
    if value.dtype == torch.bfloat16:
        return {"raw": shape, "as": "bfloat16"}, [value.view(torch.int16).numpy()]
    return {"raw": shape}, [value.numpy()]


def _edits(model: nn.Module, original: nn.Module) -> dict[str, Any]:
    """Return path -> description of the modules that differ from the original's, parents first."""
    known = dict(original.named_modules())
    edits: dict[str, Any] = {}
    for path, module in model.named_modules():
        description = describe(module)
        before = known.get(path)
        inside_new = any(
            path.startswith(p + ".") for p in edits if type(known.get(p)) is not type(model.get_submodule(p))
        )
        same_class = before is not None and not inside_new and type(before) is type(module)
        if same_class and (description is None or describe(known[path]) == description):
            continue
        if description is None:
            raise ArtifactError(
                f"the changed layer {path} ({type(module).__name__}) can't be described by plain arguments, "
                "so the model can't be saved."
            )
        edits[path] = description
    return edits
