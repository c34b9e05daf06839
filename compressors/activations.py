"""Activations on a grid of 8-bit integers, where integer kernels need them.

A layer runs on integers if its input is rounded and, for a convolution, its output too (after the batch norm and the
ReLU that runtimes compute with it). Everything that reads a rounded tensor reads it rounded, and a sum of two rounded
tensors is rounded, so that a residual network stays in integers from its input to its head: with gaps between
the layers, conversions cost more than integers save.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..spaces.data import Batch, to_device
from ..spaces.tracing import ROOT, UntraceableError, trace
from .draft import Draft

#: Levels of a grid: unsigned, because the kernels for unsigned activations and signed weights are the fast ones.
LOW, HIGH = 0, 255
#: Values of a tensor that are looked at in each batch.
_SAMPLE = 4096
#: Ranges that are tried, as a share of the one that covers everything.
_CLIPPING = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Layers with kernels for 8-bit integers.
LAYERS = (*CONVOLUTIONS, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RELUS = {nn.ReLU, nn.ReLU6, torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, "relu", "relu_"}
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_", "__add__"}
#: What gives the values that it was given, in another shape or some of them.
_MOVES = {
    nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.MaxPool1d,
    nn.MaxPool2d, nn.MaxPool3d, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
    torch.unsqueeze, F.dropout, F.max_pool1d, F.max_pool2d, "flatten", "reshape", "view", "permute", "transpose",
    "squeeze", "unsqueeze", "contiguous",
}  # fmt: skip


class RoundedActivation(nn.Module):
    """A tensor rounded to ``(level - zero_point) * scale`` with ``level`` in 0 to 255; the gradient passes straight
    through where nothing is clipped (Jacob et al., 2018).

    While it observes it gives its input back, and remembers the range. A new one observes, until `calibrate`.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self._seen: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded tensor."""
        if self._seen is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, LOW, HIGH)
        self._observe(x.detach())
        return x

    def observe(self) -> None:
        """Forget what was seen, and observe."""
        self._seen = []

    def _observe(self, x: Tensor) -> None:
        """Remember some values, evenly spaced, with how many each stands for; and both ends, for one each."""
        flat = x.reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(len(flat), _SAMPLE), device=x.device).long()
        values = torch.cat([flat.aminmax().min[None], flat.aminmax().max[None], flat[places]])
        stands = torch.full_like(values, len(flat) / len(places))
        stands[:2] = 1.0
        assert self._seen is not None
        self._seen.append(torch.stack([values, stands]))

    @torch.no_grad()
    def settle(self) -> None:
        """Take the range that has the least squared error on what was seen, and round from now on.

        Raises
        ------
        ValueError
            If something that was seen isn't finite.
        """
        seen, stands = torch.cat(self._seen, 1) if self._seen else torch.zeros(2, 1)
        if not torch.isfinite(seen).all():
            raise ValueError("activations that shall be rounded to 8 bits are not finite")
        low, high = float(seen.min().clamp(max=0)), float(seen.max().clamp(min=0))
        span = max(high - low, 1e-8)  # a tensor that is always zero
        tried = []
        for share in _CLIPPING:
            scale = torch.tensor(share * span / (HIGH - LOW))
            point = torch.tensor(round(min(max(-low * share / float(scale), LOW), HIGH)), dtype=torch.int32)
            rounded = torch.fake_quantize_per_tensor_affine(seen, scale.to(seen), point.to(seen.device), LOW, HIGH)
            tried.append((float(((rounded - seen).double().square() * stands).sum()), scale, point))
        _, scale, point = min(tried, key=operator.itemgetter(0))
        self.scale.copy_(scale)
        self.zero_point.copy_(point)
        self._seen = None


class RoundedLinear(nn.Linear):
    """A linear layer that rounds its input: for models whose forward pass can't be traced.

    Parameters
    ----------
    in_features, out_features, bias
        As of `nn.Linear`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.rounding = RoundedActivation()

    @classmethod
    def of(cls, layer: nn.Linear) -> RoundedLinear:
        """Return a layer's rounded form, with the same parameters."""
        with torch.device("meta"):
            new = cls(layer.in_features, layer.out_features, layer.bias is not None)
        new.weight, new.bias = layer.weight, layer.bias
        new.rounding = RoundedActivation().to(layer.weight.device)
        return new

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for the rounded input."""
        return F.linear(self.rounding(x), self.weight, self.bias)


def rounded(model: nn.Module) -> list[RoundedActivation]:
    """Return the rounded activations of a model."""
    return [m for m in model.modules() if isinstance(m, RoundedActivation)]


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Batch]) -> bool:
    """Choose the range of every rounded activation anew; return whether there is any.

    Parameters
    ----------
    model
        In eval mode.
    batches
        Calibration data, iterated once.

    Raises
    ------
    ValueError
        If activations are not finite.
    """
    found = rounded(model)
    if not found:
        return False
    for module in found:
        module.observe()
    for batch in batches:
        args, _ = to_device(batch, found[0].scale.device)
        model(*args)
    for module in found:
        module.settle()
    return True


def round_activations(draft: Draft, inputs: int) -> None:
    """Put a `RoundedActivation` wherever the integer layers of a draft need one. Nothing happens the second time.

    Parameters
    ----------
    draft
        Where there is something to do, its model becomes the graph of its forward pass, with the same paths. If that
        can't be traced, linear layers round their inputs, and others go on as they are.
    inputs
        Number of positional inputs of the model.
    """
    layers = {path for path in draft.integer if draft.has(path) and isinstance(draft.module(path), LAYERS)}
    if not layers or rounded(draft.model):
        return
    try:
        graph, root = trace(draft.model, inputs)
    except UntraceableError:
        for path in sorted(layers):
            layer = draft.module(path)
            if type(layer) is nn.Linear:
                draft.replace_module(path, RoundedLinear.of(layer))
    else:
        draft.model = _rounded_graph(graph, root, draft.model, layers)
        kept = {name for name, _ in draft.model.named_parameters(remove_duplicate=False)}
        draft.encodings = {name: encoding for name, encoding in draft.encodings.items() if name in kept}
    for module in rounded(draft.model):
        module.observe()


def _rounded_graph(graph: fx.Graph, root: nn.Module, model: nn.Module, layers: set[str]) -> fx.GraphModule:
    """Return a traced model with rounded activations; its modules keep their paths."""
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            path = str(node.target)
            if path.startswith(ROOT):
                node.target = path.removeprefix(ROOT)
            else:  # a tensor that the forward pass makes
                model.register_buffer(path, getattr(root, path))
    for number, node in enumerate(_places(graph, model, layers)):
        path = f"rounded_{number}"
        model.add_module(path, RoundedActivation())
        with graph.inserting_after(node):
            new = graph.call_module(path, (node,))
        for reader in list(node.users):
            if reader is not new and reader.op != "output":
                reader.replace_input_with(node, new)
    return fx.GraphModule(model, graph, "CompressedModel").eval()


def _places(graph: fx.Graph, model: nn.Module, layers: set[str]) -> list[fx.Node]:
    """Return the nodes whose values are rounded, in order."""

    def kind(node: fx.Node) -> Any:
        """What a node does: the class of a module, a function, or the name of a method."""
        return type(model.get_submodule(str(node.target))) if node.op == "call_module" else node.target

    def after(node: fx.Node, *steps: Callable[[fx.Node], bool]) -> fx.Node:
        """Follow the only reader of a value through some steps, as far as they are there."""
        for fits in steps:
            readers = list(node.users)
            if len(readers) == 1 and readers[0].op != "output" and fits(readers[0]):
                node = readers[0]
        return node

    def is_norm(node: fx.Node) -> bool:
        return kind(node) in _NORMS

    def is_relu(node: fx.Node) -> bool:
        return kind(node) in _RELUS

    def source(node: fx.Node) -> fx.Node:
        """Return where a value was computed that is only moved here."""
        while node.op.startswith("call") and kind(node) in _MOVES and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return node

    marked: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_module" and node.target in layers:
            marked.add(source(_input(node)))
            if isinstance(model.get_submodule(node.target), CONVOLUTIONS):
                marked.add(after(node, is_norm, is_relu))
    for node in graph.nodes:  # in order, so that sums of sums are found
        if node.op.startswith("call") and kind(node) in _SUMS:
            terms = [source(x) for x in node.args if isinstance(x, fx.Node)]
            if len(terms) == 2 and marked.issuperset(terms):
                marked.add(after(node, is_relu))
    return [n for n in graph.nodes if n in marked and any(u.op != "output" for u in n.users)]


def _input(node: fx.Node) -> fx.Node:
    """Return the first input of a layer."""
    return next(value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node))
