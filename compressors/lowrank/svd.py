"""Low rank by truncated singular value decomposition: one layer becomes two thinner ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...spaces.knob import Knob
from ...spaces.site import Site
from ..base import LayerCompressor, Params, register
from ..draft import Context

Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the closest matrix of that rank in the Frobenius norm (Eckart & Young, 1936), as two factors.

    Parameters
    ----------
    matrix
        Shape (m, n).
    rank
        1 to min(m, n).

    Returns
    -------
    left, right
        Shapes (m, rank) and (rank, n); their product is the approximation. Both carry the square root of the
        singular values, so that their magnitudes are alike and both quantise equally well.
    """
    u, s, vh = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * vh[:rank]).to(matrix.dtype)


def rank_for(m: int, n: int, fraction: float) -> int:
    """Return the rank that is ``fraction`` of the break-even rank ``mn / (m + n)``, at least 1.

    Rank r stores and multiplies ``r (m + n)`` numbers in place of ``mn``. Where that saves nothing, return 0.
    """
    rank = max(1, math.floor(fraction * m * n / (m + n)))
    return rank if rank * (m + n) < m * n else 0


def _linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    left, right = factors(layer.weight, rank)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return _filled(first, second, right, left, layer.bias)


def _conv(layer: nn.Conv1d | nn.Conv2d, rank: int) -> nn.Sequential:
    # The first factor keeps the kernel with its stride, padding and dilation; the second mixes channels.
    kind: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Conv1d
    left, right = factors(layer.weight.flatten(1), rank)
    geometry = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    first = kind(layer.in_channels, rank, bias=False, **geometry)
    second = kind(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled(first, second, right, left, layer.bias)


def _filled(first: Layer, second: Layer, inner: Tensor, outer: Tensor, bias: Tensor | None) -> nn.Sequential:
    pair = nn.Sequential(first, second).to(inner.device, inner.dtype)
    with torch.no_grad():
        first.weight.copy_(inner.reshape(first.weight.shape))
        second.weight.copy_(outer.reshape(second.weight.shape))
        if bias is not None and second.bias is not None:
            second.bias.copy_(bias)
    return pair


class SVD(LayerCompressor):
    """Replace a linear layer or convolution by two, through the singular value decomposition of its weight.

    A Linear (in, out) becomes (in, r), (r, out) (Denton et al., 2014); a convolution with an (out, in, k...)
    kernel becomes a k-sized one to r channels, then a 1-sized one to ``out`` (Zhang et al., 2015). The rank
    follows from the layer's shape when the step is applied, so it stays a saving after channels were removed.
    """

    name = "svd"
    kinds = frozenset({"linear", "attention", "conv1d", "conv2d"})
    summary = "factorise a layer into two of low rank"
    paper = "Denton et al., 2014, arXiv:1404.0736; Zhang et al., 2015, arXiv:1411.4229"

    def supports(self, site: Site) -> bool:
        """Whether some rank would save anything. A weight that layers share would be two after it."""
        if not super().supports(site) or len(site.members) > 1 or len(site.shape) < 2:
            return False
        return rank_for(site.shape[0], math.prod(site.shape[1:]), 0.0) > 0

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - a fraction fits every shape
        """Return ``fraction``, the rank as a share of the break-even rank ``mn / (m + n)``."""
        return (Knob("fraction", (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), bounds=(0.01, 1.0)),)

    def transform(self, layer: nn.Module, params: Params, context: Context) -> nn.Module:  # noqa: ARG002 - no data
        """Return the two factors as an `nn.Sequential`, or ``layer`` where no rank of that fraction saves."""
        if isinstance(layer, nn.Linear):
            rank = rank_for(layer.out_features, layer.in_features, float(params["fraction"]))
            return _linear(layer, rank) if rank else layer
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1:
            rank = rank_for(layer.out_channels, layer.weight[0].numel(), float(params["fraction"]))
            return _conv(layer, rank) if rank else layer
        return layer


register(SVD())
