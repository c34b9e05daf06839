"""What torch's exporter makes of a structure, to be filled with the weights of every model that has it.

Exporting takes seconds, filling takes a fraction of one: one `Exporter` exports each structure once, whatever widths,
bits and weights its models have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from ..graph import write_graph
from .exporting import exported, plain
from .folding import folded

Array = npt.NDArray[Any]

#: Constructor arguments that say no more than how wide a layer is: the graph is the same.
_WIDTHS = {"in_channels", "out_channels", "in_features", "out_features", "num_features", "num_embeddings"}
#: A constant of so many numbers that is no tensor of the model was computed from some.
_COMPUTED = 16


@dataclass(frozen=True)
class Source:
    """Where a constant's values come from: a tensor of the model, perhaps transposed."""

    name: str
    transposed: bool


@dataclass(frozen=True)
class Skeleton:
    """A graph without its values, and where they come from."""

    graph: bytes
    sources: Mapping[str, Source]

    def filled(self, tensors: Mapping[str, Array]) -> ir.Model:
        """Return the graph with the values of a model."""
        model = ir.from_proto(onnx.load_from_string(self.graph))
        for name, source in self.sources.items():
            array = tensors[source.name]
            value = model.graph.initializers[name]
            value.const_value = ir.tensor((array.T if source.transposed else array).copy(order="C"), name=name)
            value.shape = ir.Shape(list(array.T.shape if source.transposed else array.shape))
        return model


class Exporter:
    """Exports models to ONNX, each structure once. Not for several threads at a time."""

    def __init__(self) -> None:
        self._known: dict[str, Skeleton | None] = {}
        #: How many times torch's exporter ran.
        self.runs = 0

    def __call__(self, model: nn.Module, example: Sequence[Tensor]) -> ir.Model:
        """Return a model as ONNX, its weights still dense; see `exported` for the error.

        Parameters
        ----------
        model
            In eval mode. What is no traced graph is exported each time.
        example
            Its inputs, the batch first.
        """
        if not isinstance(model, fx.GraphModule):
            return self._exported(model, example)
        flat = folded(model)
        key = _key(flat, example)
        if key not in self._known:
            self._known[key] = self._skeleton(flat, example)
        skeleton = self._known[key]
        return self._exported(flat, example) if skeleton is None else skeleton.filled(_tensors(plain(flat)))

    def _exported(self, model: nn.Module, example: Sequence[Tensor]) -> ir.Model:
        self.runs += 1
        return exported(model, example)

    def _skeleton(self, model: fx.GraphModule, example: Sequence[Tensor]) -> Skeleton | None:
        """Return the skeleton of a structure, or None if some constant is computed from the weights.

        It is made with random weights, so that no two tensors are equal by chance and none is all zeros: the exporter
        would take them for one, or for nothing.
        """
        drawn = folded(model)
        _randomise(drawn)
        graph = self._exported(drawn, example)
        tensors = _tensors(plain(drawn))
        sources: dict[str, Source] = {}
        for name, value in graph.graph.initializers.items():
            assert value.const_value is not None
            array = value.const_value.numpy()
            source = _source(name, array, tensors)
            if source is not None:
                sources[name] = source
            elif array.size >= _COMPUTED and array.dtype.kind == "f":
                return None
        if {s.name for s in sources.values()} != {n for n, a in tensors.items() if a.size}:
            return None
        return Skeleton(ir.to_proto(graph).SerializeToString(), sources)


def _key(model: fx.GraphModule, example: Sequence[Tensor]) -> str:
    """Return what models have in common that differ in widths and values only."""
    structure, _ = write_graph(model, len(example))
    modules = {
        path: [kind, {name: value for name, value in arguments.items() if name not in _WIDTHS}]
        for path, (kind, arguments) in structure["modules"].items()
    }
    inputs = [[str(x.dtype), list(x.shape[1:])] for x in example]
    return json.dumps([structure["nodes"], modules, inputs])


def _tensors(model: nn.Module) -> dict[str, Array]:
    """Return a model's parameters and buffers by name; those that inference never reads are left out."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor.detach().cpu().numpy()
        for name, tensor in named.items()
        if not name.endswith("num_batches_tracked")
    }


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Give every tensor values of its own."""
    generator = torch.Generator().manual_seed(0)
    for number, tensor in enumerate([*model.parameters(), *model.buffers()]):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dtype != torch.bool:
            tensor.copy_(torch.full(tensor.shape, number % 251 + 1))


def _source(name: str, array: Array, tensors: Mapping[str, Array]) -> Source | None:
    """Return which tensor of the model a constant holds, or None."""
    names = [name, *(n for n in tensors if n != name)] if name in tensors else list(tensors)
    for own in names:
        tensor = tensors[own]
        if tensor.dtype != array.dtype or tensor.size != array.size:
            continue
        if tensor.shape == array.shape and np.array_equal(tensor, array):
            return Source(own, False)
        if tensor.ndim == 2 and tensor.T.shape == array.shape and np.array_equal(tensor.T, array):
            return Source(own, True)
    return None
