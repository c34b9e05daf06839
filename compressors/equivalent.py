"""One step on its own: the site's layers alone, and the dense weight that a compressed layer is equivalent to.

A layer that a technique replaced by several (factors, a structured matrix) is still a linear map of its input, so its
dense weight can be read off the layer's answers to unit inputs. No technique has to say what its dense weight is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.site import Site
from .draft import Draft

Layer = nn.Linear | nn.Conv1d | nn.Conv2d

#: Unit inputs that are run at a time.
_CHUNK = 512
#: A replacement counts as linear if it differs from its dense equivalent by less than this share of the output.
_TOLERANCE = 1e-3


def alone(model: nn.Module, site: Site) -> Draft:
    """Return a draft that holds nothing but copies of the site's members, at their own paths.

    Copying one layer is far cheaper than copying the model, which techniques of single layers don't look at.
    """
    if "" in site.members:
        return Draft.of(model)
    root = nn.Module()
    copies: dict[int, Any] = {}
    for member in site.members:
        *parents, name = member.split(".")
        place = root
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(name, copy.deepcopy(model.get_submodule(member), copies))
    return Draft(root.eval())


def dense_weights(draft: Draft, site: Site, original: nn.Module) -> dict[str, Tensor] | None:
    """Return the dense weights that the site's layers are equivalent to after a step.

    Parameters
    ----------
    draft
        The model, or the site alone, after the step.
    site
        Where the step was applied.
    original
        The uncompressed model.

    Returns
    -------
    dict
        Name of each of the original's weight tensors -> dense equivalent of the same shape; None if there is none:
        a layer lost channels, or does something else than a linear map now.
    """
    found: dict[str, Tensor] = {}
    for name in site.weights:
        weight = original.get_parameter(name)
        path, _, key = name.rpartition(".")
        if not draft.has(path):
            return None
        old, new = original.get_submodule(path), draft.module(path)
        here = new._parameters.get(key)
        if type(new) is type(old) and here is not None and here.shape == weight.shape:
            found[name] = here.detach()
            continue
        dense = probe(new, old) if key == "weight" and isinstance(old, Layer) else None
        if dense is None:
            return None
        found[name] = dense
    return found


@torch.no_grad()
def probe(new: nn.Module, old: Layer) -> Tensor | None:
    """Return the weight that would make ``old`` compute what ``new`` does, or None if no weight does.

    Parameters
    ----------
    new
        Takes what ``old`` takes, in eval mode. One that fails on single inputs has no weight that could be read off.
    old
        A Linear, or a convolution of one group.
    """
    if not isinstance(old, nn.Linear) and (old.groups != 1 or isinstance(old.padding, str)):
        return None
    try:
        weight = torch.cat(list(_answers(new, old))).T.reshape(old.weight.shape).contiguous()
        return weight if _same(new, old, weight) else None
    except Exception:
        return None


def _answers(new: nn.Module, old: Layer) -> Iterator[Tensor]:
    """Yield what a layer answers to some of the unit inputs, one for each weight of a filter, without what it answers
    to zero; (units, out).
    """
    taps = old.weight[0].numel()
    for start in range(0, taps, _CHUNK):
        tap = torch.arange(start, min(start + _CHUNK, taps))
        place: tuple[int, ...] = ()
        if isinstance(old, nn.Linear):
            units = _one_hot((old.in_features,), tap, tap[:, None])
        else:
            units, place = _unit_images(old, tap)
        units = units.to(old.weight.device)
        answers = new(units) - new(torch.zeros_like(units[:1]))
        yield answers[(slice(None), slice(None), *place)]


def _one_hot(shape: tuple[int, ...], tap: Tensor, where: Tensor) -> Tensor:
    """Return (taps, *shape) zeros with a one in each, at the place that a row of ``where`` names."""
    units = torch.zeros((len(tap), *shape))
    units[(torch.arange(len(tap)), *where.unbind(1))] = 1.0
    return units


def _unit_images(old: nn.Conv1d | nn.Conv2d, tap: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return an image for each of some weights of a filter, all zero but for the pixel that this weight is multiplied
    with at one position of the output, and that position.
    """
    position, first, size = [], [], []
    for kernel, stride, padding, dilation in _geometry(old):
        place = math.ceil(padding / stride)  # the first window that lies inside the image
        start = place * stride - padding
        position.append(place)
        first.append(start)
        size.append(max(start + dilation * (kernel - 1), padding) + 1)  # a reflection is shorter than the image
    channel, *offsets = torch.unravel_index(tap, (old.in_channels, *old.kernel_size))
    where = [start + offset * step for start, offset, step in zip(first, offsets, old.dilation)]
    return _one_hot((old.in_channels, *size), tap, torch.stack([channel, *where], 1)), tuple(position)


def _geometry(old: nn.Conv1d | nn.Conv2d) -> list[tuple[int, int, int, int]]:
    """Return kernel size, stride, padding and dilation of each dimension."""
    assert not isinstance(old.padding, str)
    return list(zip(old.kernel_size, old.stride, old.padding, old.dilation))


def _same(new: nn.Module, old: Layer, weight: Tensor) -> bool:
    dense = copy.deepcopy(old)
    dense.weight.copy_(weight)
    generator = torch.Generator().manual_seed(0)
    if isinstance(old, nn.Linear):
        x = torch.randn((4, old.in_features), generator=generator)
    else:
        spans = [
            dilation * (kernel - 1) + 2 * stride + padding + 3 for kernel, stride, padding, dilation in _geometry(old)
        ]
        x = torch.randn((2, old.in_channels, *spans), generator=generator)
    x = x.to(weight.device)
    zero = torch.zeros_like(x)
    ours, theirs = dense(x) - dense(zero), new(x) - new(zero)
    return ours.shape == theirs.shape and bool((ours - theirs).norm() <= _TOLERANCE * theirs.norm() + 1e-12)
