"""Unstructured pruning by magnitude: the smallest weights of a layer become zero and stay zero."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...spaces.knob import Knob
from ...spaces.site import LAYER_KINDS, Site
from ...spaces.stage import Stage
from ..base import Compressor, Params, register, with_mask
from ..draft import Context, Draft
from ..forms import PlainForm


def largest(weight: Tensor, density: float) -> Tensor:
    """Return which weights to keep: the ``round(density * n)`` of largest magnitude.

    Parameters
    ----------
    weight
        Any shape, n elements.
    density
        Share to keep, 0 to 1.

    Returns
    -------
    Tensor
        bool, shaped like ``weight``. Of equal magnitudes the earlier ones are kept, so the count is exact and
        the choice is the same everywhere.
    """
    flat = weight.detach().abs().reshape(-1)
    count = round(density * flat.numel())
    if count == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    keep = flat > threshold
    ties = torch.nonzero(flat == threshold).reshape(-1)
    keep[ties[: count - int(keep.sum())]] = True
    return keep.reshape(weight.shape)


def _keep(weight: Tensor, density: float, seed: int) -> Tensor:  # noqa: ARG001 - nothing is drawn at random
    return largest(weight, density)


class Magnitude(Compressor):
    """Zero the smallest weights of a layer (Han et al., 2015, "Learning both Weights and Connections").

    It saves bytes, not multiplications: the layer stays dense when it runs. Each weight tensor of the layer
    gets the same density; biases are left alone.
    """

    name = "magnitude"
    stage = Stage.MASK
    kinds = LAYER_KINDS
    summary = "zero the smallest weights of a layer"
    paper = "Han et al., 2015, arXiv:1506.02626"

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - the same grid for every layer
        """Return ``density``, the share of weights that are kept."""
        return (Knob("density", (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), bounds=(0.01, 1.0)),)

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Mask every weight tensor of the site."""
        for name in draft.weights(site):
            weight = draft.parameter(name).detach()
            keep = partial(_keep, weight, float(params["density"]))
            mask = self.recall(context, params, (weight,), keep, PlainForm[Tensor]())
            draft.store(name, with_mask(draft.encoding(name), mask))


register(Magnitude())
