"""What travels to Ray's workers: the task as a pickle without tensors, and the tensors' bytes as arrays.

Arrays are put into Ray's object store once and shared by all workers of a machine. Every worker copies them before use:
arrays from the store look writable to torch, and training in place would silently change every other trial's model.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import sysconfig
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray import cloudpickle
from torch import nn

Array = npt.NDArray[Any]
Arrays = list[Array]


class _Pickler(cloudpickle.CloudPickler):
    """Pickles an object without its tensors; these go into ``arrays``, each once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)  # type: ignore[no-untyped-call]  # ray.cloudpickle has no types
        self.arrays: Arrays = []
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._alive: list[torch.Tensor] = []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if type(obj) not in (torch.Tensor, nn.Parameter) or obj.is_sparse or obj.is_quantized or obj.is_meta:
            return None
        if id(obj) not in self._seen:
            flat = obj.detach().cpu().contiguous().reshape(-1)
            self.arrays.append(flat.view(torch.uint8).numpy())
            self._alive.append(obj)
            facts = (len(self.arrays) - 1, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))
            self._seen[id(obj)] = (*facts, isinstance(obj, nn.Parameter), obj.requires_grad)
        return self._seen[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Arrays) -> None:
        super().__init__(file)
        self._arrays = arrays
        self._made: dict[int, torch.Tensor] = {}

    def persistent_load(self, pid: Any) -> torch.Tensor:
        index, dtype, shape, parameter, grad = pid
        if index not in self._made:
            flat = torch.from_numpy(np.array(self._arrays[index], copy=True)).view(getattr(torch, dtype))
            tensor = flat.reshape(shape)
            self._made[index] = nn.Parameter(tensor, requires_grad=grad) if parameter else tensor.requires_grad_(grad)
        return self._made[index]


def pack(value: Any) -> tuple[bytes, Arrays]:
    """Return a value as a pickle without tensors, and the tensors' bytes as arrays (shared ones once)."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)  # type: ignore[no-untyped-call]  # as above
    return file.getvalue(), pickler.arrays


def unpack(blob: bytes, arrays: Arrays) -> Any:
    """Return what `pack` was given, with copies of the tensors."""
    return _Unpickler(io.BytesIO(blob), arrays).load()


def ship_own_code() -> None:
    """Let the classes and functions of the user's own modules travel with the task: workers may not have the files.

    His own are those that were imported from somewhere else than Python's own folders and what is installed there.
    """
    paths = sysconfig.get_paths()
    installed = tuple(
        {os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    )
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if not path.endswith(".py") or name == "__main__" or name.partition(".")[0] == "paretopress":
            continue
        if not os.path.realpath(path).startswith(installed) and f"{os.sep}site-packages{os.sep}" not in path:
            cloudpickle.register_pickle_by_value(module)
