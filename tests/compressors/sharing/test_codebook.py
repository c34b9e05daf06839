"""Codebooks: k-means does what k-means promises, zero keeps its code, and training moves the shared values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from paretopress.compressors.encoding import Encoding
from paretopress.compressors.packing import pack_tensor, unpack_tensor
from paretopress.compressors.sharing.codebook import (
    Codebook,
    CodebookCodec,
    Values,
    divide,
    kmeans,
    lloyd,
    merge,
)
from paretopress.spaces.catalogue import technique
from paretopress.spaces.site import LAYER_KINDS, Site
from paretopress.spaces.stage import Stage


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return weights as a layer might have them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def fit(weight: Tensor, bits: int, mask: Tensor | None = None) -> CodebookCodec:
    """Fit a codebook."""
    return Codebook().fit(weight, mask, 0, {"bits": bits}, 0)


def inertia(values: Values, centres: Values) -> float:
    """Return the squared distance of all values to their nearest centre, without using the code under test."""
    return float(np.square(values[:, None] - centres[None, :]).min(1).sum())


def sample(kind: str) -> Values:
    """Return weights of one kind of distribution."""
    rng = np.random.default_rng(0)
    if kind == "pruned":
        values = rng.normal(size=4500)
        return values[abs(values) > 1]
    draws = {
        "normal": rng.normal(size=1500),
        "laplace": rng.laplace(size=1500),
        "heavy": rng.standard_t(3, size=1500),
        "repeated": rng.choice(np.arange(40.0), size=1500),
    }
    return draws[kind]


def test_clusters_are_as_good_as_scikit_learns() -> None:
    """The fast one-dimensional k-means must not pay for its speed: as good as the best of three k-means++.

    On average, that is; never more than a tenth worse.
    """
    ratios = []
    for kind in ("normal", "laplace", "heavy", "pruned", "repeated"):
        values = sample(kind)
        for clusters in (4, 24):
            ours = kmeans(values, clusters)
            assert len(ours) == clusters
            reference = KMeans(clusters, n_init=3, random_state=0).fit(values[:, None])
            ratios.append(inertia(values, ours) / reference.inertia_)
    assert max(ratios) < 1.1
    assert np.mean(ratios) <= 1.01


def test_starting_runs_cover_all_values() -> None:
    """Runs that overlapped or left values out would give centres that are no means; merging keeps the best edges."""
    ordered = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 9.0])
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    edges = divide(ordered, sums, 4)
    assert edges[0] == 0
    assert edges[-1] == 6
    assert len(edges) == 5
    assert (np.diff(edges) > 0).all()
    assert merge(sums, np.arange(7), 3).tolist() == [0, 3, 5, 6]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 300), st.booleans())
def test_inertia_never_rises(seed: int, clusters: int, count: int, even: bool) -> None:
    """Each iteration of Lloyd's algorithm lowers the squared distance or leaves it, whatever it starts from."""
    rng = np.random.default_rng(seed)
    ordered = np.sort(rng.standard_t(2, size=count))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    edges = divide(ordered, sums, clusters)
    means = np.diff(sums[edges]) / np.diff(edges)
    centres = np.linspace(ordered[0], ordered[-1], clusters) if even else means
    before = inertia(ordered, centres)
    for _ in range(15):
        centres = lloyd(ordered, sums, centres)
        after = inertia(ordered, centres)
        assert after <= before * (1 + 1e-9) + 1e-12
        before = after


def test_an_iteration_moves_centres_to_the_means_of_their_values() -> None:
    """One step by hand: 0, 1, 2 are nearest to 1.5; 10, 12 to 9; 30 to 28; a centre without values stays."""
    ordered = np.array([0.0, 1.0, 2.0, 10.0, 12.0, 30.0])
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    moved = lloyd(ordered, sums, np.array([1.5, 9.0, 28.0, 50.0]))
    assert moved.tolist() == [1.0, 11.0, 30.0, 50.0]


@pytest.mark.parametrize("bits", range(1, 9))
def test_there_are_at_most_two_to_the_bits_values(bits: int) -> None:
    """More distinct values than codes could not be stored; with this many weights, every code is used."""
    weight = normal(64, 64)
    projected = fit(weight, bits).project(weight)
    assert len(torch.unique(projected)) == 2**bits
    assert fit(weight, bits).bits == bits


def test_every_weight_goes_to_its_nearest_value() -> None:
    """A codebook is only as good as its assignment."""
    weight = normal(20, 50)
    codec = fit(weight, 4)
    distances = (weight[..., None] - codec.centroids).abs()
    chosen = (codec.project(weight) - weight).abs()
    torch.testing.assert_close(chosen, distances.amin(-1))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_mask_reserves_the_code_of_zero(bits: int) -> None:
    """Pruned weights stay exact zeros, the codebook doesn't grow for it, and the values are fitted to the others."""
    weight = normal(32, 64) + 0.2
    mask = torch.rand(32, 64, generator=torch.Generator().manual_seed(1)) < 0.5
    masked = weight.masked_fill(~mask, 0.0)
    codec = fit(masked, bits, mask)
    assert len(codec.centroids) <= 2**bits
    assert codec.zero is not None
    projected = codec.project(masked)
    assert (projected[~mask] == 0).all()
    symbols, alphabet = codec.symbols(projected)
    assert alphabet == len(codec.centroids)
    assert np.array_equal(symbols == codec.zero, projected.numpy().reshape(-1) == 0)
    if bits == 1:
        assert codec.centroids[1] == pytest.approx(float(weight[mask].mean()), rel=1e-5)


def test_few_distinct_values_are_the_codebook() -> None:
    """Weights that are shared already must be stored exactly, with no more codes than there are values."""
    weight = torch.tensor([[0.5, -0.25, 0.5], [0.125, -0.25, 0.5]])
    codec = fit(weight, 4)
    assert codec.centroids.tolist() == [-0.25, 0.125, 0.5]
    assert torch.equal(codec.project(weight), weight)
    assert codec.zero is None


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(3, 5),
        torch.full((3, 5), -0.7),
        torch.tensor([[0.3]]),
        normal(3, 50) * 1e-30,
        normal(3, 50) * 1e30,
        torch.tensor([[1.0, 1.0 + 2**-23, 1.0 + 2**-22, 1.0 + 3 * 2**-23]]),
        torch.tensor([[-0.0, 0.0, -0.0]]),
    ],
    ids=["zero", "constant", "one element", "tiny", "huge", "neighbouring floats", "negative zero"],
)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_odd_tensors_round_trip(weight: Tensor, bits: int) -> None:
    """Dead layers, constants and extreme scales occur in real models; all must come back as they were measured."""
    for mask in (None, torch.zeros_like(weight, dtype=torch.bool), torch.ones_like(weight, dtype=torch.bool)):
        kept = weight if mask is None else weight.masked_fill(~mask, 0.0)
        codec = fit(kept, bits, mask)
        projected = codec.project(kept)
        assert torch.isfinite(projected).all()
        assert torch.equal(codec.project(projected), projected)
        read = unpack_tensor(*pack_tensor(projected, Encoding(codec, mask)))
        assert torch.equal(read.view(torch.int32), projected.view(torch.int32))


def test_the_gradient_of_a_value_is_the_sum_of_its_members() -> None:
    """Han et al. (2016), equation 3; the value zero has none, so that pruned weights stay pruned."""
    weight = normal(24, 30)
    mask = weight.abs() > 0.02
    masked = weight.masked_fill(~mask, 0.0)
    codec = fit(masked, 3, mask)
    training = codec.trainable(masked)
    out = training()
    assert torch.equal(out.detach(), codec.project(masked))
    upstream = normal(24, 30, seed=1)
    out.backward(upstream)
    (centroids,) = training.parameters()
    assert centroids.grad is not None
    index = codec.indices(masked)
    for code in range(len(codec.centroids)):
        expected = 0.0 if code == codec.zero else float(upstream[index == code].double().sum())
        assert float(centroids.grad[code]) == pytest.approx(expected, abs=1e-6)


def test_training_keeps_assignments_and_zeros_and_ends_storable() -> None:
    """Values may cross while they are trained: the codebook that is handed back is in order and holds the weight."""
    weight = normal(16, 16)
    mask = weight.abs() > 0.03
    masked = weight.masked_fill(~mask, 0.0)
    codec = fit(masked, 3, mask)
    training = codec.trainable(masked)
    (centroids,) = training.parameters()
    with torch.no_grad():
        centroids.copy_(centroids.flip(0) + 0.01)
    dense, after = training.finish()
    assert isinstance(after, CodebookCodec)
    assert (dense[~mask] == 0).all()
    for code in range(len(codec.centroids)):
        assert len(torch.unique(dense[codec.indices(masked) == code])) == 1
    assert (after.centroids.diff() > 0).all()
    assert torch.equal(after.project(dense), dense)
    assert torch.equal(unpack_tensor(*pack_tensor(dense, Encoding(after, mask))), dense)


def test_training_reaches_the_mean_of_a_cluster() -> None:
    """The optimum of the squared error is known in closed form: each shared value is the mean of its members."""
    weight = normal(40, 40)
    codec = fit(weight, 2)
    target = weight + 0.02
    training = codec.trainable(weight)
    optimizer = torch.optim.SGD(training.parameters(), lr=0.5)
    sizes = torch.bincount(codec.indices(weight).reshape(-1))
    for _ in range(60):
        optimizer.zero_grad()
        (training() - target).square().sum().div(2 * int(sizes.max())).backward()
        optimizer.step()
    dense, _ = training.finish()
    for code in range(4):
        members = codec.indices(weight) == code
        torch.testing.assert_close(dense[members].mean(), target[members].mean(), rtol=1e-3, atol=1e-5)


def test_the_technique_is_offered_for_every_layer() -> None:
    """It is found by name, supports all kinds of weighted layer, and takes 1 to 8 bits."""
    found = technique("codebook")
    assert found.stage is Stage.NUMERIC
    for kind in LAYER_KINDS:
        assert found.supports(Site("a", kind, ("a",)))
    (bits,) = found.knobs(Site("a", "linear", ("a",)))
    assert bits.values == (8, 6, 5, 4, 3, 2)
    bits.check(1)
