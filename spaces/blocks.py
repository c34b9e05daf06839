"""Residual blocks that can be left out: found by running them, so that no tracer needs to understand them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class PassThrough(nn.Module):
    """Stands where a residual block was: returns its first argument, whatever else it is called with."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # noqa: ARG002 - a block's signature
        """Return ``x`` itself, of any shape."""
        return x


@dataclass
class _Call:
    """What one module was called with, and whether it may be a residual block."""

    count: int = 0
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    same_shape: bool = False


def find_blocks(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[list[str], list[str]]:
    """Return the paths of the removable blocks in the model's order, and what isn't offered and why.

    A block qualifies if it holds layers, is called once with a tensor, returns one of the same shape, and returns
    its input unchanged once all its parameters are zero: x + f(x) does, and so does relu(x + f(x)) behind
    another relu; a convolution on the shortcut or a norm behind the sum doesn't. Only the smallest such blocks
    count. Leaving out blocks of a trained residual network costs little (Veit et al., "Residual Networks Behave
    Like Ensembles of Relatively Shallow Networks", NeurIPS 2016; Huang et al., "Deep Networks with Stochastic
    Depth", ECCV 2016).

    Parameters
    ----------
    model
        Any model that runs on ``example``; it is copied, never changed.
    example
        Its positional arguments, with the batch dimension.
    """
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        calls, shape = _record(model, example)
        found: list[str] = []
        notes: list[str] = []
        # Deepest first: a stage that is made of removable blocks is no block itself.
        for path in sorted(calls, key=lambda p: -p.count(".")):
            if any(inner.startswith(path + ".") for inner in found) or not _is_residual(model, path, calls[path]):
                continue
            problem = _without(model, path, example, shape)
            if problem:
                notes.append(f"Block {path} can't be removed: {problem}.")
            else:
                found.append(path)
    order = {path: number for number, (path, _) in enumerate(model.named_modules())}
    return sorted(found, key=order.__getitem__), notes


def _record(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[dict[str, _Call], torch.Size]:
    calls: dict[str, _Call] = {}
    hooks = []
    for path, module in model.named_modules():
        if path and any(p.ndim >= 2 for p in module.parameters()) and next(module.children(), None) is not None:
            call = calls[path] = _Call()

            def before(_: nn.Module, args: Any, kwargs: Any, call: _Call = call) -> None:
                call.count += 1
                if call.count == 1 and args and isinstance(args[0], Tensor):
                    # Copied, because a block may begin with an in-place activation.
                    call.args, call.kwargs = (args[0].clone(), *args[1:]), kwargs

            def after(_: nn.Module, _args: Any, output: Any, call: _Call = call) -> None:
                first = call.args[0] if call.args else None
                call.same_shape = first is not None and isinstance(output, Tensor) and output.shape == first.shape

            hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.append(module.register_forward_hook(after))
    try:
        output = model(*(a.clone() for a in example))
    finally:
        for hook in hooks:
            hook.remove()
    return calls, output.shape


def _is_residual(model: nn.Module, path: str, call: _Call) -> bool:
    if call.count != 1 or not call.same_shape or not call.args[0].any():
        return False
    block = copy.deepcopy(model.get_submodule(path))
    for parameter in block.parameters():
        parameter.zero_()
    try:
        output = block(call.args[0].clone(), *call.args[1:], **call.kwargs)
    except Exception:  # a block that can't run with zeros is none that can be left out
        return False
    return isinstance(output, Tensor) and torch.equal(output, call.args[0])


def _without(model: nn.Module, path: str, example: tuple[Tensor, ...], shape: torch.Size) -> str:
    """Return why the model can't do without the block, or nothing."""
    parent, _, name = path.rpartition(".")
    holder = model.get_submodule(parent)
    block = holder._modules[name]
    holder._modules[name] = PassThrough()
    try:
        output = model(*(a.clone() for a in example))
    except Exception as error:  # whatever is raised is the reason
        text = str(error).strip()
        return f"the model doesn't run without it ({text.splitlines()[0] if text else type(error).__name__})"
    finally:
        holder._modules[name] = block
    return "" if output.shape == shape else f"the output becomes {tuple(output.shape)} instead of {tuple(shape)}"
