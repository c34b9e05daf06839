"""How long the file of a model gets with a single step, to the byte, without writing it.

Writing it would copy, trace and hash the whole model for every setting of every layer. Most steps change nothing but a
few tensors: of the rest the file says what the original's does.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from ..compressors.base import Compressor, apply_step
from ..compressors.draft import Context, Draft
from ..compressors.encoding import Encoding, Float32, Packed
from ..compressors.packing import pack_tensor
from ..spaces.catalogue import technique
from ..spaces.recipe import Recipe, Step
from ..spaces.site import Site
from ..spaces.tracing import UntraceableError, trace
from . import container
from .artifact import class_needed
from .footprint import Packer
from .modules import describe
from .saving import Outline, by_tensor, contents, outline, own_tensors, plainly

#: Path, class, description and tensors of each module of a site.
Layers = tuple[tuple[str, type[nn.Module], str, tuple[str, ...]], ...]


class FileLengths:
    """Lengths of files of one task's model.

    Parameters
    ----------
    context
        Of the steps.
    coder
        A step that all of them have but the original's, or None.
    pack
        Packs the tensors of drafts.
    """

    def __init__(self, context: Context, coder: Step | None, pack: Packer) -> None:
        self._task, self._context, self._coder, self._drafts = context.task, context, coder, pack
        # The latest only: steps at a site come one after the other, and each holds all that is said of the model.
        self._latest: tuple[Hashable, Outline] | None = None
        self._traced: tuple[Hashable, tuple[fx.Graph, nn.Module]] | None = None
        self._packed: dict[str, Packed] = {}

    @cached_property
    def original(self) -> int:
        """The length of the uncompressed model's file, as it is without a coder."""
        plain = contents(self._base, Recipe(), self._task.example, lambda _, tensor: plainly(tensor))
        return container.length(*plain)

    def of_model(self, draft: Draft, entry: Compressor, step: Step) -> int:
        """Return the length of a draft's file after a technique's step, and after the coder's.

        Raises
        ------
        ArtifactError
            If the draft can't be saved.
        """
        entry.settle(draft, self._context, self._task.calibration.head(1))
        self._code(draft)
        return self._length(self._outline(draft.model), by_tensor(draft), step)

    def of_layers(self, draft: Draft, site: Site, entry: Compressor, step: Step) -> int:
        """Return the same of a draft that holds a site's layers alone: the others are the original's.

        Raises
        ------
        ArtifactError
            If the draft can't be saved.
        """
        layers = _layers(draft, site)
        if not draft.integer and layers == _layers(Draft(self._task.model), site):
            known = self._base
        else:
            key = site.name, entry.name, layers, frozenset(draft.integer)
            if self._latest is None or self._latest[0] != key:
                self._latest = key, self._changed(draft, site, entry, layers)
            known = self._latest[1]
        own = own_tensors(draft.model)
        new = {id(known.tensors[name]): tensor for name, tensor in own.items() if name in known.tensors}
        tensors = {name: new.get(id(tensor), tensor) for name, tensor in known.tensors.items()}  # by all their names
        return self._length(replace(known, tensors=tensors), {**self._encodings, **by_tensor(draft)}, step)

    @cached_property
    def _encodings(self) -> dict[int, Encoding]:
        """How the original's tensors are coded, by their identity."""
        draft = Draft.of(self._task.model)
        self._code(draft)
        return by_tensor(replace(draft, model=self._task.model))

    def _code(self, draft: Draft) -> None:
        if self._coder is not None:
            entry = technique(self._coder.technique)
            assert isinstance(entry, Compressor)
            apply_step(entry, draft, self._coder, self._context)

    @cached_property
    def _base(self) -> Outline:
        return self._outline(self._task.model)

    @cached_property
    def _class_needed(self) -> str:
        return class_needed(self._task)

    def _changed(self, draft: Draft, site: Site, entry: Compressor, layers: Layers) -> Outline:
        """Return the outline of the original with a draft's layers in their places.

        Layers of the same classes are called in the same way, so the forward pass is traced once for all of them.
        """
        model = self._task.model
        new = {id(model.get_submodule(member)): draft.module(member) for member in site.members}
        whole = Draft(_with_layers(model, new, {}), integer=set(draft.integer))
        if draft.integer:
            entry.settle(whole, self._context, self._task.calibration.head(1))
            return self._outline(whole.model)
        if self._class_needed:
            return self._outline(whole.model)
        key = site.name, entry.name, tuple((path, kind) for path, kind, *_ in layers)
        if self._traced is None or self._traced[0] != key:
            try:
                self._traced = key, trace(whole.model, len(self._task.example))
            except UntraceableError:
                return self._outline(whole.model)
        return self._outline(whole.model, self._traced[1])

    def _outline(self, model: nn.Module, traced: tuple[fx.Graph, nn.Module] | None = None) -> Outline:
        task = self._task
        return outline(model, task.model, max(1, len(task.example)), task.source, self._class_needed, traced)

    def _length(self, known: Outline, encodings: Mapping[int, Encoding], step: Step) -> int:
        recipe = Recipe.of([step, *([self._coder] if self._coder is not None else [])])

        def pack(name: str, tensor: Tensor) -> Packed:
            return self._pack(name, tensor, encodings.get(id(tensor)))

        return container.length(*contents(known, recipe, self._task.example, pack))

    def _pack(self, name: str, tensor: Tensor, encoding: Encoding | None) -> Packed:
        """Return a packed tensor; those that are the original's are packed once."""
        plain = encoding is None or (isinstance(encoding.codec, Float32) and encoding.mask is None)
        before = self._base.tensors.get(name)
        if not plain or before is None or (tensor is not before and not _equal(tensor, before)):
            return self._drafts(tensor, encoding) if encoding is not None else plainly(tensor)
        if name not in self._packed:
            known = self._encodings.get(id(before))
            self._packed[name] = pack_tensor(before.detach().cpu(), known) if known is not None else plainly(before)
        return self._packed[name]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _layers(draft: Draft, site: Site) -> Layers:
    found = []
    for member in site.members:
        for path, module in draft.module(member).named_modules(prefix=member):
            tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            shapes = tuple(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors)
            found.append((path, type(module), str(describe(module)), shapes))
    return tuple(found)


def _with_layers(module: nn.Module, new: Mapping[int, nn.Module], copies: dict[int, nn.Module]) -> nn.Module:
    """Return a module with other layers in place of those of these identities, as a copy that shares all the others."""
    if id(module) in new:
        return new[id(module)]
    if not any(module.children()):
        return module
    if id(module) not in copies:
        copied = copies[id(module)] = copy.copy(module)
        children = {name: child and _with_layers(child, new, copies) for name, child in module._modules.items()}
        copied._modules = children
    return copies[id(module)]
