"""New layers as trees for the cache: each module as in files (`modules`), its parameters and buffers as tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..compressors.forms import UnstorableError, layer_facts
from .modules import build, describe


class ModuleForm:
    """The form of modules that can be described by a class from the allow-list and plain arguments, all the way down.

    Modules with hooks, or with one tensor or module at several places, have no form.
    """

    def flatten(self, value: nn.Module) -> Any:
        """Return descriptions by path, parents first, and tensors by name."""
        modules = dict(value.named_modules(remove_duplicate=False))
        descriptions = {path: describe(module) for path, module in modules.items()}
        tensors = dict(value.named_parameters(remove_duplicate=False)) | dict(
            value.named_buffers(remove_duplicate=False)
        )
        hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules.values())
        if hooked or None in descriptions.values():
            raise UnstorableError("a module that can't be described")
        if len(set(map(id, modules.values()))) < len(modules) or len(set(map(id, tensors.values()))) < len(tensors):
            raise UnstorableError("a module with shared parts")
        tree = {
            "modules": descriptions,
            "tensors": {name: tensor.detach() for name, tensor in tensors.items()},
            "trained": {name: tensor.requires_grad for name, tensor in tensors.items()},
        }
        if layer_facts(self.build(tree))[0] != layer_facts(value)[0]:
            raise UnstorableError("a module with more settings than its constructor's arguments")
        return tree

    def build(self, tree: Any) -> nn.Module:
        """Return the module, in eval mode."""
        modules = {path: build(description) for path, description in tree["modules"].items()}
        for path, module in modules.items():
            if path:
                parent, _, name = path.rpartition(".")
                modules[parent]._modules[name] = module
        for name, tensor in tree["tensors"].items():
            path, _, key = name.rpartition(".")
            _assign(modules[path], key, tensor, tree["trained"][name])
        for module in modules.values():
            if any(t is not None and t.is_meta for t in (*module._parameters.values(), *module._buffers.values())):
                raise ValueError("a tensor is missing")
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()
        return modules[""]


def _assign(module: nn.Module, key: str, tensor: Tensor, trained: bool) -> None:
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(tensor, requires_grad=trained)
    else:
        module._buffers[key] = tensor.requires_grad_(trained)
