"""A traced forward pass as data (torch.fx), both ways: a file that runs without the user's class.

Reading never executes text: node names, module paths, functions and methods are checked against patterns and
allow-lists before a graph is built.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..spaces.errors import ArtifactError
from ..spaces.tracing import ROOT, UntraceableError, trace
from .modules import build, describe

Json = Any
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "T", "mT", "H", "mH"}
_OPERATORS = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "neg",
    "pos",
    "invert",
    "and_",
    "or_",
    "xor",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "getitem",
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "imatmul",
    "ipow",
]
#: Tensor methods that reach outside the tensor, and functions that reach the disk.
_DENIED = {
    "apply_", "map_", "map2_", "numpy", "data_ptr", "storage", "untyped_storage", "share_memory_", "register_hook",
    "register_post_accumulate_grad_hook", "backward", "module_load", "from_file", "set_", "resize_", "resize_as_",
    "tolist", "new_tensor",
}  # fmt: skip


@lru_cache(maxsize=1)
def _functions() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {f"operator.{n}": getattr(operator, n) for n in _OPERATORS}
    found["getattr"] = getattr
    natives = torch._C._VariableFunctions
    for name in dir(torch):
        if (
            not name.startswith("_")
            and name not in _DENIED
            and hasattr(natives, name)
            and callable(getattr(torch, name))
        ):
            found[f"torch.{name}"] = getattr(torch, name)
    homes = {"torch.nn.functional", "torch._C._nn", "torch._jit_internal", "torch", None}
    for name, value in vars(F).items():
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) in homes:
            found.setdefault(f"F.{name}", value)
    return found


@lru_cache(maxsize=1)
def _function_names() -> dict[int, str]:
    # The first name wins: torch.relu before F.relu where both are one object.
    names: dict[int, str] = {}
    for name, value in _functions().items():
        names.setdefault(id(value), name)
    return names


def _method_allowed(name: Any) -> bool:
    return isinstance(name, str) and not name.startswith("_") and name not in _DENIED and hasattr(Tensor, name)


def write_graph(
    model: nn.Module, inputs: int, traced: tuple[fx.Graph, nn.Module] | None = None
) -> tuple[Json, dict[str, Tensor]]:
    """Return a model's structure as JSON and the tensors it refers to by name.

    Parameters
    ----------
    model
        In eval mode.
    inputs
        Number of positional inputs.
    traced
        What `trace` gave for a model that does the same with modules of the same paths and classes.

    Raises
    ------
    UntraceableError
        If tracing fails, or the graph uses something that a file can't hold.
    """
    graph, rooted = traced or trace(model, inputs)
    constants = {
        name: value for name, value in vars(rooted).items() if isinstance(value, Tensor)
    }  # tensors made in forward become attributes of the root
    used: dict[str, Tensor] = {}
    modules: dict[str, Json] = {}
    nodes: list[Json] = []
    for node in graph.nodes:
        target: Any = node.target
        if node.op == "call_function":
            name = _function_names().get(id(target))
            if name is None:
                raise UntraceableError(f"the function {getattr(target, '__name__', target)!s}")
            if name == "getattr" and node.args[1] not in _ATTRIBUTES:
                raise UntraceableError(f"the attribute {node.args[1]!s}")
            target = name
        elif node.op == "call_method":
            if not _method_allowed(target):
                raise UntraceableError(f"the method {target!s}")
        elif node.op in ("call_module", "get_attr"):
            path = str(target)
            target = path.removeprefix(ROOT)
            if node.op == "call_module":
                modules[target] = _leaf(model, target, used)
            else:
                used[target] = constants[path] if path in constants else _tensor(model, target)
        nodes.append([node.op, node.name, target, _pack(list(node.args)), _pack(dict(node.kwargs))])
    return {"inputs": inputs, "nodes": nodes, "modules": modules}, used


def _leaf(model: nn.Module, path: str, used: dict[str, Tensor]) -> Json:
    module = model.get_submodule(path)
    if module._forward_hooks or module._forward_pre_hooks:
        raise UntraceableError(f"the layer {path}, which has hooks")
    description = describe(module)
    if description is None:
        raise UntraceableError(f"the layer {path} ({type(module).__name__})")
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        used[f"{path}.{key}"] = tensor
    return description


def _tensor(model: nn.Module, path: str) -> Tensor:
    parent, _, name = path.rpartition(".")
    value = getattr(model.get_submodule(parent), name)
    if not isinstance(value, Tensor):
        raise UntraceableError(f"the attribute {path} ({type(value).__name__})")
    return value


def _pack(value: Any) -> Json:
    if isinstance(value, fx.Node):
        return {"n": value.name}
    if isinstance(value, tuple):
        return {"t": [_pack(v) for v in value]}
    if isinstance(value, list):
        return [_pack(v) for v in value]
    if isinstance(value, dict):
        return {"d": {str(k): _pack(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"s": [_pack(value.start), _pack(value.stop), _pack(value.step)]}
    if isinstance(value, torch.dtype):
        return {"y": str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    if value is Ellipsis:
        return {"e": 1}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UntraceableError(f"an argument of type {type(value).__name__}")


def _unpack(value: Json, env: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, env) for v in value]
    if not isinstance(value, dict):
        return value
    [(kind, inner)] = value.items()
    if kind == "n":
        return env[inner]
    if kind == "t":
        return tuple(_unpack(v, env) for v in inner)
    if kind == "d":
        if not all(_NAME.fullmatch(k) for k in inner):
            raise ValueError(f"argument names {sorted(inner)}")
        return {k: _unpack(v, env) for k, v in inner.items()}
    if kind == "s":
        return slice(*(_unpack(v, env) for v in inner))
    if kind == "y" and isinstance(getattr(torch, str(inner), None), torch.dtype):
        return getattr(torch, inner)
    if kind == "f" and inner in ("inf", "-inf", "nan"):
        return float(inner)
    if kind == "e":
        return Ellipsis
    raise ValueError(f"unknown argument form {kind!r}")


def _home(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the last part of a dotted path, making plain containers on the way."""
    parent = root
    *parts, last = path.split(".")
    for part in parts:
        if part not in parent._modules:
            parent.add_module(part, nn.Module())
        child = parent._modules[part]
        assert child is not None
        parent = child
    return parent, last


def place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path."""
    parent, last = _home(root, path)
    parent.add_module(last, module)


def read_graph(data: Json, loose: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return the model of what `write_graph` wrote, its layers still without values.

    Parameters
    ----------
    data
        The JSON.
    loose
        Tensors by name; those that belong to no layer are registered as the root's own.

    Raises
    ------
    ArtifactError
        If anything in it is not allowed.
    """
    root = nn.Module()
    try:
        for path, description in data["modules"].items():
            if not _PATH.fullmatch(path):
                raise ValueError(f"module path {path!r}")
            place(root, path, build(description))
        graph = fx.Graph()
        env: dict[str, fx.Node] = {}
        for op, name, target, args, kwargs in data["nodes"]:
            if not _NAME.fullmatch(name) or name in env:
                raise ValueError(f"node name {name!r}")
            checked = _checked_target(op, target, args, data["modules"], root, loose)
            node = graph.create_node(op, checked, tuple(_unpack(args, env)), _unpack(kwargs, env), name)
            if node.name != name:
                raise ValueError(f"node name {name!r}")
            env[name] = node
        graph.lint()
        return fx.GraphModule(root, graph, "CompressedModel")
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(f"the saved structure is invalid: {type(error).__name__}: {error}.") from error


def _checked_target(
    op: Any, target: Any, args: Json, modules: Mapping[str, Any], root: nn.Module, loose: Mapping[str, Tensor]
) -> Any:
    if op == "call_function":
        if target not in _functions():
            raise ValueError(f"function {target!r} is not allowed")
        if target == "getattr" and (len(args) < 2 or args[1] not in _ATTRIBUTES):
            raise ValueError(f"attribute {args[1:]!r} is not allowed")
        return _functions()[target]
    if op == "call_method" and _method_allowed(target):
        return target
    if op == "call_module" and target in modules:
        return target
    if op == "get_attr" and isinstance(target, str) and _PATH.fullmatch(target) and target in loose:
        _attach(root, target, loose[target])
        return target
    if op == "placeholder" and isinstance(target, str) and _NAME.fullmatch(target):
        return target
    if op == "output" and target == "output":
        return target
    raise ValueError(f"{op} {target!r} is not allowed")


def _attach(root: nn.Module, path: str, tensor: Tensor) -> None:
    parent, last = _home(root, path)
    if isinstance(tensor, nn.Parameter):
        parent.register_parameter(last, tensor)
    else:
        parent.register_buffer(last, tensor)
