"""Finds every place in a model where a decision can be taken, with one forward pass."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention
from .blocks import find_blocks
from .coupling import find_groups
from .errors import ModelError
from .proof import NotRemovableError, listed, prove
from .site import MODEL, Site, Slice

_TYPES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNN,
    nn.LSTM,
    nn.GRU,
)
_SUPPORTED = ", ".join(t.__name__ for t in _TYPES)


@dataclass(frozen=True)
class _Layer:
    path: str
    module: nn.Module
    kind: str


def find_sites(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """Return every site of a model, and sentences on what isn't offered and why.

    Layers come first, then coupled channels, attention heads, removable blocks and the model itself, each in the
    model's order.

    Parameters
    ----------
    model
        Any model that runs on ``example``; it is copied, never changed.
    example
        Its positional arguments, with the batch dimension; the figures are for one example of it.

    Returns
    -------
    sites
        At least one layer and the model.
    notes
        For a person to read.

    Raises
    ------
    ModelError
        If the model has no layer that a technique supports, or doesn't run on the example.
    """
    model = copy.deepcopy(model).eval()
    layers, notes = _layers(model)
    macs = _macs(model, example, layers)
    named = _layer_sites(layers, macs)
    idle = [path for site in named for path in site.members if not any(m in macs for m in site.members)]
    if idle:
        notes.append(f"{listed(idle)}: not reached by the example input, left as they are.")
    sites = [s for s in named if any(m in macs for m in s.members)]
    if not sites:
        raise ModelError(
            f"model: no layer can be compressed. Supported are {_SUPPORTED}; the model has {_inventory(model)}"
            + ("" if not notes else ". " + " ".join(notes))
        )
    groups, more = find_groups(model, example)
    notes += more
    of = {path: site for site in sites for path in site.members}
    for group in groups:
        paths = tuple(dict.fromkeys(s.module for s in group.slices))
        sites.append(_sum(f"group:{group.root}", "group", paths, of, macs, group.slices))
    heads, more = _heads(model, example, of, macs)
    sites += heads
    blocks, notes_of_blocks = find_blocks(model, example)
    for path in blocks:
        paths = (path, *(p for p in macs if p.startswith(path + ".")))
        sites.append(_sum(f"block:{path}", "block", paths, of, macs))
    sites.append(_sum(MODEL, "model", ("",), of, macs, everything=True))
    return tuple(sites), tuple(notes + more + notes_of_blocks)


def layer_kind(module: nn.Module) -> str | None:
    """Return the kind of site that a layer makes, None if no technique supports it.

    A subclass counts if it computes what its base does; its weights must be its own parameters.
    """
    base = next((t for t in _TYPES if isinstance(module, t)), None)
    if base is None or _computed(module, base):
        return None
    if isinstance(module, nn.RNNBase):
        return "recurrent"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        if module.groups == 1:
            return "conv1d" if isinstance(module, nn.Conv1d) else "conv2d"
        return "depthwise" if module.groups == module.in_channels else "grouped"
    return "linear" if isinstance(module, nn.Linear) else "embedding"


def _computed(module: nn.Module, base: type[nn.Module]) -> str:
    """Return why a layer isn't a plain one of its base class, or nothing."""
    for method in ("forward", "_conv_forward"):
        if getattr(type(module), method, None) is not getattr(base, method, None):
            return f"its class {type(module).__name__} computes something else than {base.__name__}"
    if not all(isinstance(module._parameters.get(name), nn.Parameter) for name in _weights(module)):
        return "its weight is computed by a parametrization; remove that first (torch.nn.utils.parametrize)"
    return ""


def _weights(module: nn.Module) -> list[str]:
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names if name.startswith("weight")]
    return ["weight"]


# --- layers ------------------------------------------------------------------------------------------------


def _layers(model: nn.Module) -> tuple[list[_Layer], list[str]]:
    layers: list[_Layer] = []
    why: dict[str, list[str]] = {}
    projections: set[nn.Module] = set()
    fused: set[nn.Module] = set()
    for path, module in model.named_modules():
        if isinstance(module, Attention):
            projections |= {module.q, module.k, module.v, module.o}
        if isinstance(module, nn.MultiheadAttention):
            fused |= set(module.modules())
            why.setdefault("keeps its projections in one tensor because of add_bias_kv or add_zero_attn", []).append(
                path
            )
        if module in fused:
            continue
        base = next((t for t in _TYPES if isinstance(module, t)), None)
        kind = layer_kind(module)
        if kind is not None:
            layers.append(_Layer(path, module, "attention" if module in projections else kind))
        elif base is not None:
            why.setdefault(_computed(module, base), []).append(path)
        elif any(p.ndim >= 2 for p in module.parameters(recurse=False)):
            own = type(module).__name__ if path else "the model"
            why.setdefault(f"no technique supports the weights that {own} holds itself", []).append(path or "<model>")
    return layers, [f"{listed(paths)}: not offered, {reason}." for reason, paths in why.items()]


def _layer_sites(layers: Sequence[_Layer], macs: dict[str, int]) -> list[Site]:
    """Return one site for each set of layers that share weights, named after the first."""
    shared: dict[int, list[_Layer]] = {}
    for layer in layers:
        ids = [id(layer.module._parameters[name]) for name in _weights(layer.module)]
        held = next((shared[i] for i in ids if i in shared), [])
        held.append(layer)
        shared.update(dict.fromkeys(ids, held))
    sites = []
    for members in {id(held): held for held in shared.values()}.values():
        tensors: dict[int, tuple[str, Tensor]] = {}
        for layer in members:
            for name in _weights(layer.module):
                tensor = layer.module.get_parameter(name)
                tensors.setdefault(id(tensor), (f"{layer.path}.{name}" if layer.path else name, tensor))
        first = members[0]
        kernel = first.module.kernel_size if isinstance(first.module, nn.Conv1d | nn.Conv2d) else ()
        sites.append(
            Site(
                first.path or type(first.module).__name__,
                first.kind,
                tuple(layer.path for layer in members),
                tuple(name for name, _ in tensors.values()),
                tuple(next(iter(tensors.values()))[1].shape),
                sum(macs.get(layer.path, 0) for layer in members),
                sum(4 * tensor.numel() for _, tensor in tensors.values()),
                kernel=tuple(kernel),
            )
        )
    return sites


def _macs(model: nn.Module, example: tuple[Tensor, ...], layers: Sequence[_Layer]) -> dict[str, int]:
    """Return path -> multiply-accumulates for one example, of every layer and attention that the forward reaches."""
    total: Counter[str] = Counter()
    hooks = []
    attentions = [(p, m) for p, m in model.named_modules() if isinstance(m, Attention)]
    for path, module in [(layer.path, layer.module) for layer in layers] + attentions:

        def count(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            total[path] += _macs_of(module, [*args, *kwargs.values()], output)

        hooks.append(module.register_forward_hook(count, with_kwargs=True))
    try:
        with torch.no_grad():
            model(*(a.clone() for a in example))
    except Exception as error:
        raise ModelError(
            f"model: the forward pass fails on the example input: {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return {path: round(value / len(example[0])) for path, value in total.items()}


def _macs_of(module: nn.Module, args: list[Any], output: Any) -> int:
    if isinstance(module, nn.Linear):
        return int(output.numel()) * module.in_features
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return int(output.numel()) * module.weight[0].numel()
    if isinstance(module, nn.RNNBase):
        data = args[0].data if isinstance(args[0], nn.utils.rnn.PackedSequence) else args[0]
        steps = int(data.numel()) // module.input_size
        return steps * sum(module.get_parameter(name).numel() for name in _weights(module))
    if isinstance(module, Attention):
        # scores and values: two products of (query length x key length) for every channel of every head
        query, key = args[0], args[1]
        keys = key.shape[1] if module.batch_first else key.shape[0]
        return 2 * (int(query.numel()) // int(query.shape[-1])) * int(keys) * module.heads * module.head_dim
    return 0  # an embedding looks up


# --- what consists of layers -------------------------------------------------------------------------------


def _heads(
    model: nn.Module, example: tuple[Tensor, ...], of: dict[str, Site], macs: dict[str, int]
) -> tuple[list[Site], list[str]]:
    sites: list[Site] = []
    notes: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, Attention) or module.heads < 2 or path not in macs:
            continue
        positions = tuple(tuple(range(h * module.head_dim, (h + 1) * module.head_dim)) for h in range(module.heads))
        prefix = path + "." if path else ""
        slices = tuple(Slice(prefix + name, "in" if name == "o" else "out", positions) for name in "qkvo")
        try:
            if any(len(of[s.module].members) > 1 for s in slices):
                raise NotRemovableError("a projection shares its weight with another layer")
            prove(model, example, slices)
        except NotRemovableError as reason:
            notes.append(f"Heads of {path} can't be removed: {reason}.")
            continue
        sites.append(_sum(f"heads:{path}", "heads", (path, *(s.module for s in slices)), of, macs, slices))
    return sites, notes


def _sum(
    name: str,
    kind: str,
    members: tuple[str, ...],
    of: dict[str, Site],
    macs: dict[str, int],
    slices: tuple[Slice, ...] = (),
    everything: bool = False,
) -> Site:
    """Return a site over several layers: their weights, each counted once, and the sum of what they cost."""
    layers = list(dict.fromkeys(of[m] for m in (of if everything else members) if m in of))
    return Site(
        name,
        kind,
        members,
        tuple(w for layer in layers for w in layer.weights),
        (len(slices[0].positions),) if slices else (),
        sum(value for path, value in macs.items() if everything or path in members),
        sum(layer.bytes for layer in layers),
        slices,
    )


def _inventory(model: nn.Module) -> str:
    counts = Counter(type(m).__name__ for m in model.modules() if any(True for _ in m.parameters(recurse=False)))
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "no parameters at all"
