"""What torch's exporter makes of a structure, to be filled with the weights of every model that has it.

Exporting takes seconds, filling takes a fraction of one: each structure is exported once on a machine, whatever widths,
bits and weights its models have. Where the exporter made constants of widths, which can't be told from others, it would
compute something else for other widths: it is tried with them first, and if need be they get one of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from ...compressors.activations import RoundedActivation
from ...compressors.cache import cache_folder
from ...compressors.shelf import Shelf
from ...evaluators.onnx_session import Session
from ..graph import write_graph
from . import exporting, folding, recurrent
from .exporting import exported, plain
from .folding import folded

Array = npt.NDArray[Any]

#: Constructor arguments that say no more than how wide a layer is: the graph is the same.
_WIDTHS = {"in_channels", "out_channels", "in_features", "out_features", "num_features", "num_embeddings"}
#: Bytes of skeletons that a machine keeps.
BOUND = 64 << 20
#: What decides what becomes of a structure, besides itself.
_MAKERS = (exporting, folding, recurrent)
_VERSIONS = [
    "3", torch.__version__, onnx.__version__, version("onnxscript"),
    *(hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in _MAKERS),
]  # fmt: skip
#: Outputs that differ by less, as a share of the largest, are the same; rounded activations may fall to either side.
_SAME, _ROUNDED = 1e-3, 0.15
#: The step of rounded activations that are no larger than 10 or so.
_STEP = 0.04
#: What is kept for widths that the structure's first skeleton does for.
_FIRST = b"="
#: A constant of so many numbers that is no tensor of the model was computed from some.
_COMPUTED = 16


@dataclass(frozen=True)
class Source:
    """Where a constant's values come from: a tensor of the model, perhaps transposed."""

    name: str
    transposed: bool


@dataclass(frozen=True)
class Skeleton:
    """A graph without its values, and where they come from; ``widths`` are those that it was made with."""

    graph: bytes
    sources: Mapping[str, Source]
    widths: str

    @classmethod
    def of(cls, model: ir.Model, sources: Mapping[str, Source], widths: str) -> Skeleton:
        """Return a graph's skeleton; its values are dropped."""
        for node in model.graph:
            _loosen(node)
        for name in sources:
            model.graph.initializers[name].const_value = ir.tensor(np.zeros(0, np.float32), name=name)
        return cls(ir.to_proto(model).SerializeToString(), sources, widths)

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        sources = {name: [source.name, source.transposed] for name, source in self.sources.items()}
        return json.dumps([sources, self.widths]).encode() + b"\0" + self.graph

    @classmethod
    def from_bytes(cls, data: bytes) -> Skeleton:
        """Read a skeleton; raises ValueError or the like if it is damaged."""
        head, _, graph = data.partition(b"\0")
        onnx.load_from_string(graph)
        sources, widths = json.loads(head)
        return cls(graph, {str(n): Source(str(s), bool(t)) for n, (s, t) in sources.items()}, str(widths))

    def filled(self, tensors: Mapping[str, Array]) -> ir.Model:
        """Return the graph with the values of a model."""
        model = ir.from_proto(onnx.load_from_string(self.graph))
        for name, source in self.sources.items():
            array = tensors[source.name]
            value = model.graph.initializers[name]
            value.const_value = ir.tensor((array.T if source.transposed else array).copy(order="C"), name=name)
            value.shape = ir.Shape(list(array.T.shape if source.transposed else array.shape))
        return model


#: See `Exporter`. Without their values skeletons are small.
_KNOWN: dict[str, Skeleton | None] = {}


class Exporter:
    """Exports models to ONNX, each structure once. Not for several threads at a time.

    Parameters
    ----------
    folder
        Of all caches; by default this machine's.
    memory
        Digest of a structure -> its skeleton, None if it has none; by default this process's, for all exporters.
    """

    def __init__(self, folder: Path | None = None, memory: dict[str, Skeleton | None] | None = None) -> None:
        folder = folder if folder is not None else cache_folder()
        self._shelf = Shelf(folder / "structures", BOUND) if folder is not None else None
        self._known = memory if memory is not None else _KNOWN
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
        key, widths = _key(flat, example), _widths(flat)
        skeleton = self._kept(key, flat, example)
        if skeleton is not None and skeleton.widths != widths:
            own = hashlib.sha256((key + skeleton.widths + widths).encode()).hexdigest()
            skeleton = self._kept(own, flat, example, skeleton)
        return self._exported(flat, example) if skeleton is None else skeleton.filled(_tensors(plain(flat)))

    def _kept(
        self, key: str, model: fx.GraphModule, example: Sequence[Tensor], first: Skeleton | None = None
    ) -> Skeleton | None:
        """Return the skeleton of a key; ``first`` is one of other widths, which may do for these too."""
        if key not in self._known:
            self._known[key] = self._recalled(key, model, example, first)
        return self._known[key]

    def _exported(self, model: nn.Module, example: Sequence[Tensor]) -> ir.Model:
        self.runs += 1
        return exported(model, example)

    def _recalled(
        self, key: str, model: fx.GraphModule, example: Sequence[Tensor], first: Skeleton | None
    ) -> Skeleton | None:
        """Return the skeleton of a structure from disk, or export it and keep it there."""
        data = self._shelf.read(key) if self._shelf is not None else None
        if data == _FIRST and first is not None:
            return first
        if data is not None:
            try:
                return Skeleton.from_bytes(data) if data else None
            except Exception:  # damaged
                assert self._shelf is not None
                self._shelf.discard(key)
        does = first is not None and _holds(first, model, example)
        found = first if does else self._skeleton(model, example)
        if self._shelf is not None:
            self._shelf.write(key, _FIRST if does else found.to_bytes() if found is not None else b"")
        return found

    def _skeleton(self, model: fx.GraphModule, example: Sequence[Tensor]) -> Skeleton | None:
        """Return the skeleton of a structure, or None if some constant seems to be computed from the weights.

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
        found = Skeleton.of(graph, sources, _widths(model))
        return found if _holds(found, model, example) else None


def _key(model: fx.GraphModule, example: Sequence[Tensor]) -> str:
    """Return what models have in common that differ in widths and values only."""
    structure, _ = write_graph(model, len(example))
    modules = {
        path: [kind, {name: value for name, value in arguments.items() if name not in _WIDTHS}]
        for path, (kind, arguments) in structure["modules"].items()
    }
    inputs = [[str(x.dtype), list(x.shape[1:])] for x in example]
    content = json.dumps([_VERSIONS, structure["nodes"], modules, inputs])
    return hashlib.sha256(content.encode()).hexdigest()


def _widths(model: nn.Module) -> str:
    """Return the digest of the shapes of a model's tensors."""
    return hashlib.sha256(json.dumps([list(x.shape) for x in model.state_dict().values()]).encode()).hexdigest()


def _loosen(node: ir.Node) -> None:
    """Let a reshape that flattens all but the batch, which the exporter writes with a number of columns, count them."""
    if node.op_type != "Reshape":
        return
    source, target, given = node.inputs[0], node.inputs[1], node.outputs[0]
    known = target.const_value if target is not None else None
    shape: list[int] = known.numpy().tolist() if known is not None else []
    before, after = source.shape if source is not None else None, given.shape
    if len(shape) != 2 or shape[1] <= 1 or not before or not after or str(before[0]) != str(after[0]):
        return
    rest = ir.Value(name=f"{given.name}_flat", const_value=ir.tensor(np.array([0, -1], dtype=np.int64)))
    assert node.graph is not None
    node.graph.register_initializer(rest)
    node.replace_input_with(1, rest)
    node.attributes.pop("allowzero", None)  # 0 stands for the length that there is


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


@torch.no_grad()
def _holds(skeleton: Skeleton, model: fx.GraphModule, example: Sequence[Tensor]) -> bool:
    """Whether a skeleton computes what a model of its structure does, with other values than it was made with."""
    probe = folded(model)
    generator = torch.Generator().manual_seed(1)
    for tensor in [*probe.parameters(), *probe.buffers()]:
        if tensor.is_floating_point() and tensor.ndim > 1:  # of a size that keeps numbers what they are, layer by layer
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator) + 0.5
            tensor.copy_(values if tensor.ndim else _STEP * values)
    inputs = tuple(x.cpu() for x in example)
    expected = probe(*(x.clone() for x in inputs))
    filled: Any = ir.to_proto(skeleton.filled(_tensors(plain(probe))))
    del filled.graph.value_info[:]  # they are those of the widths that it was made with
    try:
        found = torch.from_numpy(Session(filled.SerializeToString())(*(x.numpy() for x in inputs)))
    except Exception:  # what the runtime can't do is told of the model itself, not of its skeleton
        return False
    same = _ROUNDED if any(isinstance(m, RoundedActivation) for m in model.modules()) else _SAME
    return found.shape == expected.shape and bool((found - expected).abs().max() <= same * expected.abs().max())


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
