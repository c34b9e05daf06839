"""Integer weights of 2 to 8 bits with a scale per output channel or per group of weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spaces.knob import Knob
from ...spaces.site import LAYER_KINDS, Site
from ..base import NumericCompressor, Params, register
from .grid import IntegerCodec, fit_scale, stored


class Integer(NumericCompressor):
    """Uniform affine integers; the range of a channel or group is clipped to lower the squared error."""

    name = "integer"
    kinds = LAYER_KINDS
    summary = "Stores weights as 2- to 8-bit integers with a scale per channel or per group."
    paper = "Vanhoucke et al., 2011; Jacob et al., CVPR 2018, arXiv:1712.05877"
    formats = (IntegerCodec,)

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - the same at every site
        """Return the bits, and whether a channel or a group of its weights shares a scale."""
        return (
            Knob("bits", (8, 6, 5, 4, 3, 2), bounds=(2, 8)),
            Knob("granularity", ("channel", "group"), ordered=False),
            Knob("group", (32, 64, 128), when=("granularity", "group"), bounds=(8, 1024)),
        )

    def fit(
        self,
        weight: Tensor,
        mask: Tensor | None,  # noqa: ARG002 - zero is on every grid
        axis: int,
        params: Params,
        seed: int,  # noqa: ARG002 - nothing is drawn at random
    ) -> IntegerCodec:
        """Return the codec with the least squared error.

        Zero points cost one byte a group, so they are taken only if they lower the error by more than so many
        bits more for the codes would: one more bit a weight quarters the squared error.
        """
        width = int(params["bits"])
        flat = weight.detach().float().movedim(axis, 0).flatten(1)
        channels, rest = flat.shape
        group = int(params["group"]) if params["granularity"] == "group" else 0
        group = group if group < rest else 0
        size = group or rest
        rows = F.pad(flat, (0, -rest % size)).reshape(-1, size)  # a zero adds no error

        middle = torch.full((len(rows), 1), float(1 << (width - 1)), device=rows.device)
        low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
        span = torch.where(high > low, high - low, 1.0)
        point = torch.where(high > low, torch.round(-low / span * ((1 << width) - 1)), middle)
        scale, error = fit_scale(rows, middle, width)
        shifted, shifted_error = fit_scale(rows, point, width)
        points: Tensor | None = None
        if shifted_error < error * 4.0 ** (-8 * len(rows) / weight.numel()):
            scale, points = shifted, point.to(torch.int64).reshape(channels, -1)
        return IntegerCodec(width, stored(scale).reshape(channels, -1), points, axis, group)


register(Integer())
