"""Which channels of which layers must go together: found once a model, and proved by removing some.

The graph of layers is torch-pruning's (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
arXiv:2301.12900). What is kept of it is plain data, so that a trial needs index selection only.
"""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning._helpers import _HybridIndex  # what the graph's index mappings take and return
from torch_pruning.dependency.index_mapping import _ConcatIndexMapping
from torch_pruning.dependency.shape_infer import infer_in_channels_recursively

from .attention import Attention
from .errors import ModelError
from .proof import NotRemovableError, first_line, listed, prove
from .site import Slice
from .slicing import width

ROOTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
_TOLERANCE = 1e-4

#: (module path, side) -> position -> channel of the root layer
_Owners = dict[tuple[str, str], dict[int, int]]


@dataclass(frozen=True)
class Group:
    """Coupled channels.

    Attributes
    ----------
    root
        Path of the first layer, in the model's order, that produces the channels.
    slices
        What each module loses; every slice lists the same channels in the same order.
    """

    root: str
    slices: tuple[Slice, ...]

    @property
    def channels(self) -> int:
        """How many channels there are to choose from."""
        return len(self.slices[0].positions)


def find_groups(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[list[Group], list[str]]:
    """Return the groups whose channels can be removed together, and what isn't offered and why.

    Every group has been proved on the example: without some of its channels the model runs, and its output is the
    one it has when those channels are zero in every layer that reads them.

    Parameters
    ----------
    model
        Any model that runs on ``example``; it is copied, never changed.
    example
        Its positional arguments, with the batch dimension.
    """
    model = copy.deepcopy(model).eval()
    paths = {module: path for path, module in model.named_modules()}
    try:
        graph = _traced(model, example)
    except Exception as error:  # the tracer may raise anything; channels are an offer, not a must
        return [], [
            f"Removal of channels is not offered: the graph of the layers can't be traced ({first_line(error)})."
        ]
    order = {path: number for number, path in enumerate(paths.values())}
    tied = _tied(model)
    inner = {f"{paths[m]}.{p}" for m in paths if isinstance(m, Attention) for p in "qkv"}
    groups: list[Group] = []
    why: dict[str, list[str]] = {}
    roots = [m for m in paths if isinstance(m, ROOTS) and m in graph.module2node and paths[m] not in inner]
    cut = [paths[m] for m in paths if isinstance(m, ROOTS) and m not in graph.module2node and paths[m] not in inner]
    if cut:
        why["the trace back from the output doesn't reach them"] = cut
    seen: set[tuple[str, str, int]] = set()
    for module in roots:
        root = paths[module]
        if all((root, "out", i) in seen for i in range(_out_width(module))):
            continue
        try:
            found = list(_partition(*_closure(graph, module, paths), order))
        except NotRemovableError as reason:
            why.setdefault(str(reason), []).append(root)
            continue
        for group in found:
            positions = {(s.module, s.side, i) for s in group.slices for own in s.positions for i in own}
            if positions & seen or group.channels < 2:
                continue
            seen |= positions
            try:
                _check_members(group, tied, inner)
                prove(model, example, group.slices)
            except NotRemovableError as reason:
                why.setdefault(str(reason), []).append(group.root)
                continue
            groups.append(_named(group, {g.root for g in groups}))
    notes = [f"Channels of {listed(layers)} can't be removed: {reason}." for reason, layers in why.items() if reason]
    return sorted(groups, key=lambda g: order[g.root.partition("#")[0]]), notes


# --- the graph ---------------------------------------------------------------------------------------------


def _traced(model: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """Return the graph of the layers; if the tracer fails at a recurrent one, the part of it behind the last."""
    recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
    try:
        return _graph(model, example)
    except Exception:
        if not recurrent:
            raise
    hooks = [m.register_forward_hook(_detached) for m in recurrent]
    try:
        return _graph(model, example)
    finally:
        for hook in hooks:
            hook.remove()


def _graph(model: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """Trace the model through its gradients, whichever of its parameters are frozen."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(parameter.is_floating_point())
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(model, tuple(a.clone() for a in example), verbose=False)
            _mend_concatenations(graph)
            return graph
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _detached(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, nn.utils.rnn.PackedSequence):
        return output._replace(data=output.data.detach())
    return tuple(_detached(module, args, part) for part in output) if isinstance(output, tuple) else output


def _mend_concatenations(graph: Any) -> None:
    """Offset the channels of concatenated maps that are flattened afterwards.

    torch-pruning compares their number with the width of the next layer, and takes a Linear that reads several
    values a channel for a concatenation along another dimension.
    """
    for node in graph.module2node.values():
        sizes = getattr(node.module, "concat_sizes", None)
        if not sizes or None in sizes or getattr(node.grad_fn, "_saved_dim", None) != 1:
            continue
        read = infer_in_channels_recursively(graph, node, [0]) or 0
        if read <= sum(sizes) or read % sum(sizes):
            continue
        for number, source in enumerate(node.inputs):
            offset = [sum(sizes[:number]), sum(sizes[: number + 1])]
            back = next(d for d in node.dependencies if d.target is source and d.index_mapping[1] is None)
            back.index_mapping[1] = _ConcatIndexMapping(offset, reverse=True)
            there = next(d for d in source.dependencies if d.target is node and d.index_mapping[1] is None)
            there.index_mapping[1] = _ConcatIndexMapping(offset, reverse=False)


def _out_width(module: Any) -> int:
    return int(module.weight.shape[1 if isinstance(module, nn.Embedding) else 0])


def _closure(graph: Any, root: nn.Module, paths: dict[nn.Module, str]) -> tuple[_Owners, dict[int, int]]:
    """Follow every output channel of ``root`` through the graph.

    torch-pruning's own traversal follows all channels as one list, which may loop without end where a mapping
    shifts positions, and forgets which channels meet (the two halves of a gated linear unit). Here a position that
    two channels reach joins the two, and is followed once.

    Returns
    -------
    owners
        For every module side, which channel each position belongs to.
    parent
        A union-find forest over the channels.
    """
    count = _out_width(root)
    parent = {c: c for c in range(count)}
    start = graph.module2node[root]
    owners: dict[tuple[Any, Any], dict[int, int]] = {}
    budget = 1000 * count + 100_000
    queue = deque([(start, graph.get_pruner_of_module(root).prune_out_channels, [(c, c) for c in range(count)])])
    while queue:
        node, handler, pairs = queue.popleft()
        known = owners.setdefault((node, handler), {})
        fresh = []
        for position, channel in pairs:
            if position in known:
                parent[_find(parent, channel)] = _find(parent, known[position])
            else:
                known[position] = channel
                fresh.append(_HybridIndex(idx=position, root_idx=channel))
        budget -= len(pairs)
        if budget < 0:
            raise NotRemovableError("the paths between the layers that share them don't settle")
        if fresh:
            for edge in node.dependencies:
                if edge.is_triggered_by(handler):
                    queue.append((edge.target, edge.handler, _mapped(edge, fresh)))
    return _of_modules(owners, paths), parent


def _mapped(edge: Any, indices: list[Any]) -> list[tuple[int, int]]:
    for mapping in edge.index_mapping:
        if mapping is not None and indices:
            try:
                indices = mapping(indices)
            except (IndexError, TypeError, ValueError) as error:
                raise NotRemovableError("an operation between layers cuts or moves them, and isn't followed") from error
    return [(i.idx, i.root_idx) for i in indices]


def _of_modules(owners: dict[tuple[Any, Any], dict[int, int]], paths: dict[nn.Module, str]) -> _Owners:
    found: _Owners = {}
    for (node, handler), positions in owners.items():
        module = node.module
        if isinstance(module, nn.Parameter):
            raise NotRemovableError(
                f"a parameter outside of layers, of shape {tuple(module.shape)}, takes part in them"
            )
        if module not in paths or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            continue  # an operation without channels of its own
        side = "out" if handler.__name__ == "prune_out_channels" else "in"
        found.setdefault((paths[module], side), {}).update(positions)
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            raise NotRemovableError(f"a {type(module).__name__} takes statistics across them")
        try:
            limit = width(module, side)
        except ModelError:
            raise NotRemovableError(f"{paths[module]} ({type(module).__name__}) can't lose channels") from None
        if not all(0 <= position < limit for position in positions):
            raise NotRemovableError(f"an operation in front of {paths[module]} rearranges them")
    return found


def _find(parent: dict[int, int], item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


def _partition(owners: _Owners, parent: dict[int, int], order: dict[str, int]) -> Iterator[Group]:
    """Split the channels into groups whose members reach the same sides with equally many positions."""
    sides = sorted(owners, key=lambda key: (order[key[0]], key[1]))
    held: dict[int, dict[tuple[str, str], list[int]]] = {}
    for key in sides:
        for position, channel in sorted(owners[key].items()):
            held.setdefault(_find(parent, channel), {}).setdefault(key, []).append(position)
    alike: dict[tuple[Any, ...], list[dict[tuple[str, str], list[int]]]] = {}
    for own in held.values():
        alike.setdefault(tuple((key, len(own[key])) for key in sides if key in own), []).append(own)
    for signature, channels in alike.items():
        keys = [key for key, _ in signature]
        channels.sort(key=lambda own: own[keys[0]])
        slices = tuple(Slice(path, side, tuple(tuple(own[path, side]) for own in channels)) for path, side in keys)
        root = next(path for path, side in keys if side == "out")
        yield Group(root, slices)


def _named(group: Group, taken: set[str]) -> Group:
    number, root = 1, group.root
    while root in taken:
        number += 1
        root = f"{group.root}#{number}"
    return Group(root, group.slices)


def _tied(model: nn.Module) -> set[str]:
    holders: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(path)
    return {path for held in holders.values() if len(held) > 1 for path in held}


def _check_members(group: Group, tied: set[str], inner: set[str]) -> None:
    for member in group.slices:
        if member.side == "out" and member.module in inner:
            raise NotRemovableError("")  # an attention loses whole heads, and they have a site of their own
        if member.module in tied:
            raise NotRemovableError(f"{member.module} shares a tensor with another layer")
