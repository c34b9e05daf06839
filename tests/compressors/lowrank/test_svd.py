"""The truncated SVD is the best of its rank, computes the same layer, and really saves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.base import apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.lowrank.svd import SVD, factors, rank_for
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import Site
from paretopress.spaces.task import Task

GEOMETRIES: list[tuple[type[nn.Conv1d] | type[nn.Conv2d], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv2d, {"kernel_size": 3}, (2, 8, 9, 9)),
    (nn.Conv2d, {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2)}, (2, 8, 9, 9)),
    (
        nn.Conv2d,
        {"kernel_size": 3, "dilation": 2, "padding": "same", "padding_mode": "reflect"},
        (2, 8, 9, 9),
    ),
    (nn.Conv2d, {"kernel_size": 1, "stride": 2, "bias": False}, (2, 8, 9, 9)),
    (nn.Conv1d, {"kernel_size": 5, "stride": 3, "padding": 2, "padding_mode": "circular"}, (2, 8, 20)),
]


def _context(model: nn.Module, site: Site, *shape: int) -> Context:
    batches = [(torch.randn(2, *shape), torch.zeros(2, dtype=torch.long))]
    return Context(Task(model, batches), {site.name: site})


def _product(pair: nn.Module) -> Tensor:
    first, second = (pair.get_parameter(f"{i}.weight").detach().flatten(1) for i in (0, 1))
    return second @ first


def _macs(module: nn.Module, x: torch.Tensor) -> int:
    return int(FlopCountAnalysis(module, x).unsupported_ops_warnings(False).total())


@given(m=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_error_is_the_tail_of_the_singular_values(m: int, n: int, seed: int, data: st.DataObject) -> None:
    """Nothing of that rank is closer in the Frobenius norm (Eckart & Young)."""
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rank = data.draw(st.integers(1, min(m, n)))
    left, right = factors(matrix, rank)
    tail = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
    torch.testing.assert_close((matrix - left @ right).norm(), tail, atol=1e-10, rtol=1e-8)


def test_the_factors_are_of_equal_magnitude() -> None:
    """Singular values are split between both factors, so that neither loses more bits to quantisation."""
    left, right = factors(torch.randn(10, 30), 4)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def test_full_rank_is_exact() -> None:
    """With all singular values, the product is the matrix."""
    matrix = torch.randn(7, 11)
    left, right = factors(matrix, 7)
    torch.testing.assert_close(left @ right, matrix)


@given(m=st.integers(1, 300), n=st.integers(1, 300), fraction=st.floats(0.01, 1.0))
@settings(max_examples=200, deadline=None)
def test_no_rank_reaches_break_even(m: int, n: int, fraction: float) -> None:
    """A rank is given only where it stores less than the layer, and 0 only where no such rank is left."""
    rank = rank_for(m, n, fraction)
    assert rank * (m + n) < m * n
    assert rank > 0 or max(1, int(fraction * m * n / (m + n))) * (m + n) >= m * n


def test_a_linear_layer_computes_with_the_reconstruction() -> None:
    """The two layers are the original one with its weight replaced by the approximation, bias included."""
    layer, x = nn.Linear(20, 14), torch.randn(5, 20)
    pair = SVD().transform(layer, {"fraction": 0.5}, _context(nn.Sequential(nn.Linear(20, 14)), _site(), 20))
    assert isinstance(pair, nn.Sequential)
    assert pair.get_parameter("0.weight").shape == (int(0.5 * 20 * 14 / 34), 20)
    expected = nn.functional.linear(x, _product(pair), layer.bias)
    torch.testing.assert_close(pair(x), expected)


@pytest.mark.parametrize(("kind", "options", "shape"), GEOMETRIES)
def test_a_convolution_computes_with_the_reconstruction(
    kind: type[nn.Conv1d] | type[nn.Conv2d], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Stride, padding, its mode, and dilation are those of the original layer."""
    layer, x = kind(8, 16, **options), torch.randn(shape)
    pair = SVD().transform(layer, {"fraction": 0.6}, _context(nn.Sequential(nn.Linear(20, 14)), _site(), 20))
    assert isinstance(pair, nn.Sequential)
    dense = kind(8, 16, **options)
    with torch.no_grad():
        dense.weight.copy_(_product(pair).reshape(dense.weight.shape))
        if layer.bias is not None and dense.bias is not None:
            dense.bias.copy_(layer.bias)
    torch.testing.assert_close(pair(x), dense(x))
    assert pair(x).shape == layer(x).shape


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(24, 16), (1, 24)), *((k(8, 16, **o), (1, *s[1:])) for k, o, s in GEOMETRIES)],
)
def test_parameters_and_multiplications_fall_with_the_fraction(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Both are below the layer's at every value of the grid, and never rise along it."""
    context = _context(nn.Sequential(nn.Linear(20, 14)), _site(), 20)
    x = torch.randn(shape)
    sizes = [sum(p.numel() for p in layer.parameters())]
    macs = [_macs(layer, x)]
    for fraction in SVD().knobs(_site())[0].values:
        pair = SVD().transform(layer, {"fraction": fraction}, context)
        sizes.append(sum(p.numel() for p in pair.parameters()))
        macs.append(_macs(pair, x))
    for figures in (sizes, macs):
        assert figures[1] < figures[0]
        assert all(b <= a for a, b in itertools.pairwise(figures))
        assert figures[-1] < figures[0] / 2


def _site(shape: tuple[int, ...] = (14, 20), kind: str = "linear") -> Site:
    return Site("0", kind, ("0",), ("0.weight",), shape)


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((14, 20), "linear", True),
        ((2, 2), "linear", False),
        ((1, 500), "linear", False),
        ((3, 2), "attention", True),
        ((16, 3, 3, 3), "conv2d", True),
        ((16, 1, 3, 3), "depthwise", False),
        ((16, 4, 3, 3), "grouped", False),
        ((16, 8, 5), "conv1d", True),
    ],
)
def test_a_site_without_a_legal_rank_is_not_supported(shape: tuple[int, ...], kind: str, expected: bool) -> None:
    """Where mn/(m + n) is 1 or less no rank saves anything, and depthwise layers have none to reduce."""
    assert SVD().supports(_site(shape, kind)) is expected


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=8), nn.Linear(2, 2), nn.BatchNorm2d(8)])
def test_a_layer_that_would_not_shrink_is_returned_as_it_is(layer: nn.Module) -> None:
    """After channels were removed there may be no legal rank left; the layer then stays."""
    context = _context(nn.Sequential(nn.Linear(20, 14)), _site(), 20)
    assert SVD().transform(layer, {"fraction": 0.1}, context) is layer


def test_a_shared_weight_is_not_factorised() -> None:
    """Each sharer would get factors of its own, and the embedding its full table besides: larger, not smaller."""
    site = Site("out", "linear", ("out", "embed"), ("out.weight",), (30, 20))
    assert SVD().supports(replace(site, members=("out",)))
    assert not SVD().supports(site)


def test_it_replaces_the_layer_in_the_draft_only() -> None:
    """The draft holds two factors, both known as the site's weights; the task's model keeps its layer."""
    site = _site()
    context = _context(nn.Sequential(nn.Linear(20, 14)), site, 20)
    before = context.task.model.get_parameter("0.weight").detach().clone()
    draft = Draft.of(context.task.model)
    apply_step(SVD(), draft, Step.of("0", "svd", fraction=0.3), context)
    assert draft.weights(site) == ["0.0.weight", "0.1.weight"]
    assert torch.equal(context.task.model.get_parameter("0.weight"), before)
    assert not draft.model.training


def test_a_weight_of_low_rank_is_recovered() -> None:
    """A layer whose weight already has the rank loses nothing."""
    layer = nn.Linear(20, 14, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(14, 2) @ torch.randn(2, 20))
    context = _context(nn.Sequential(nn.Linear(20, 14)), _site(), 20)
    pair = SVD().transform(layer, {"fraction": 0.3}, context)
    x = torch.randn(5, 20)
    assert pair is not layer
    torch.testing.assert_close(pair(x), layer(x), atol=1e-5, rtol=1e-5)
