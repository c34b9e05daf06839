"""What the modules of a model take, and how much of that a changed model leaves to each of the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..compressors.draft import Draft
from ..compressors.encoding import Encoding, Packed
from ..compressors.packing import pack_tensor, packed_bytes


class Packer:
    """Packs tensors, those of the draft at hand once: what a layer takes and what its file takes are both asked for."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Encoding, Packed]] = {}

    def __call__(self, tensor: Tensor, encoding: Encoding) -> Packed:
        """Return the tensor's description and its arrays."""
        known = self._known.get(id(tensor))
        if known is None or known[1] is not encoding:
            known = self._known[id(tensor)] = tensor, encoding, pack_tensor(tensor.detach().cpu(), encoding)
        return known[2]

    def forget(self) -> None:
        """Be ready for another draft."""
        self._known.clear()


def module_bytes(
    draft: Draft,
    modules: Mapping[str, nn.Module],
    nested: bool = False,
    pack: Callable[[Tensor, Encoding], Packed] = pack_tensor,
) -> dict[str, int]:
    """Return how many bytes of a file the tensors of modules take.

    Parameters
    ----------
    draft
        Its encodings say how tensors are stored.
    modules
        Path -> module of the draft.
    nested
        With the tensors of the modules' children.
    pack
        Packs a tensor.

    Returns
    -------
    dict
        Path -> bytes; a tensor that several modules share counts for the first of them.
    """
    seen: set[int] = set()
    sizes = dict.fromkeys(modules, 0)
    for path, module in modules.items():
        for name, tensor in (*module.named_parameters(recurse=nested), *module.named_buffers(recurse=nested)):
            if id(tensor) in seen or name.endswith("num_batches_tracked"):  # which files leave out
                continue
            seen.add(id(tensor))
            encoding = draft.encodings.get(f"{path}.{name}" if path else name)
            if encoding is None or tensor.dtype != torch.float32:
                sizes[path] += tensor.numel() * tensor.element_size()
            else:
                sizes[path] += packed_bytes(*pack(tensor, encoding))
    return sizes


def shares_left(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what is left of each module's figure.

    Parameters
    ----------
    before
        Path -> figure of each module of the original.
    after
        Of each module of the changed model. What a new module takes counts for the one whose place it has, or for
        all modules around it.

    Returns
    -------
    dict
        Path -> share, for each of ``before``; 1 where there was nothing.
    """
    left = dict.fromkeys(before, 0.0)
    for path, value in after.items():
        owners = _owners(path, before) if value else []
        whole = sum(before[p] for p in owners)
        for owner in owners:
            left[owner] += value * before[owner] / whole
    return {path: left[path] / old if old else 1.0 for path, old in before.items()}


def _owners(path: str, before: Mapping[str, float]) -> list[str]:
    """Return the module at a path or, if it had nothing, those of the smallest module around it that had something."""
    if before.get(path):
        return [path]
    while True:
        inside = [p for p, old in before.items() if old and (not path or f"{p}.".startswith(f"{path}."))]
        if inside or not path:
            return inside
        path = path.rpartition(".")[0]
