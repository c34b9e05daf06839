"""Layers that run on 8-bit integers: weights of 2 to 8 bits with a scale per output channel, 8-bit activations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...spaces.data import Batch
from ...spaces.knob import Knob
from ...spaces.site import Site
from ..activations import LAYERS, RoundedActivation, RoundedLinear, calibrate, round_activations
from ..base import DataNeed, NumericCompressor, Params, register
from ..draft import Context, Draft
from .grid import IntegerCodec, fit_scale, stored


class Int8(NumericCompressor):
    """Symmetric integer weights, and the activations around the layer rounded to 8 bits by their range on
    calibration data. A deployed model runs such a layer on integer kernels, however few bits its file holds.
    """

    name = "int8"
    traced_kinds = frozenset({"conv1d", "conv2d", "depthwise", "grouped"})
    kinds = traced_kinds | {"linear", "attention"}
    data_need = DataNeed.CALIBRATION
    summary = "runs a layer on 8-bit integers: weights of 2 to 8 bits, 8-bit activations"
    paper = "Vanhoucke et al., 2011; Jacob et al., CVPR 2018, arXiv:1712.05877"
    formats = (IntegerCodec,)
    modules = (RoundedActivation, RoundedLinear)

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - the same at every site
        """Return the bits of a weight in the file."""
        return (Knob("bits", (8, 6, 5, 4, 3, 2), bounds=(2, 8)),)

    def fit(
        self,
        weight: Tensor,
        mask: Tensor | None,  # noqa: ARG002 - zero is on every grid
        axis: int,
        params: Params,
        seed: int,  # noqa: ARG002 - nothing is drawn at random
    ) -> IntegerCodec:
        """Return the symmetric codec with the least squared error of each channel."""
        width = int(params["bits"])
        rows = weight.detach().float().movedim(axis, 0).flatten(1)
        scale, _ = fit_scale(rows, torch.full((len(rows), 1), float(1 << (width - 1)), device=rows.device), width)
        return IntegerCodec(width, stored(scale).reshape(len(rows), -1), None, axis)

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:
        """Store the weights as integers, and note that the layers shall run on integers."""
        super().apply(draft, site, params, context)
        for member in site.members:
            if draft.has(member):
                for path, module in draft.module(member).named_modules(prefix=member):
                    if isinstance(module, LAYERS):
                        draft.integer.add(path)

    def settle(self, draft: Draft, context: Context, calibration: Iterable[Batch]) -> bool:
        """Round activations where the integer layers need it, by their range now."""
        round_activations(draft, len(context.task.example))
        return calibrate(draft.model, calibration)


register(Int8())
