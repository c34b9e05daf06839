"""Encodings: masks, raw floats and straight-through training."""

from __future__ import annotations

import numpy as np
import torch

from paretopress.compressors.encoding import Encoding, Float32, StraightThrough
from paretopress.compressors.quantization.integer import Integer


def four_bits(weight: torch.Tensor) -> Encoding:
    """Return 4-bit integers fitted to a tensor."""
    return Encoding(Integer().fit(weight, None, 0, {"bits": 4, "granularity": "channel"}, 0))


def test_an_encoding_without_settings_keeps_the_tensor() -> None:
    """A tensor that nobody compressed must come out of `project` as the same bits, negative zeros included."""
    weight = torch.tensor([[1e-40, -0.0, 3.5], [float(np.finfo(np.float32).max), -1.0, 0.1]])
    assert torch.equal(Encoding().project(weight).view(torch.int32), weight.view(torch.int32))
    assert Encoding().codec.bits == 32
    assert Encoding().codec.zero is None


def test_masked_weights_are_positive_zeros() -> None:
    """A pruned negative weight must become +0.0: -0.0 has other bits, and a file would have to store it."""
    weight = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    mask = torch.tensor([[False, True], [False, True]])
    projected = Encoding(mask=mask).project(weight)
    assert projected.tolist() == [[0.0, 2.0], [0.0, -4.0]]
    assert not torch.signbit(projected[:, 0]).any()


def test_project_masks_before_it_rounds() -> None:
    """With a mask and a codec together, masked weights are exact zeros and the others are on the grid."""
    torch.manual_seed(0)
    weight = torch.randn(8, 16)
    mask = torch.rand(8, 16) > 0.5
    plain = four_bits(weight)
    projected = Encoding(plain.codec, mask).project(weight)
    assert torch.equal(projected[~mask], torch.zeros(int((~mask).sum())))
    assert torch.equal(projected[mask], plain.project(weight)[mask])


def test_straight_through_rounds_forward_and_passes_the_gradient() -> None:
    """Recovery training needs the rounded weight in the forward pass and an untouched gradient in the backward."""
    torch.manual_seed(1)
    weight = torch.randn(4, 8)
    encoding = four_bits(weight)
    training = StraightThrough(encoding.codec, weight)
    out = training()
    torch.testing.assert_close(out.detach(), encoding.project(weight))
    upstream = torch.randn(4, 8)
    out.backward(upstream)
    assert training.latent.grad is not None
    assert torch.equal(training.latent.grad, upstream)


def test_straight_through_finishes_on_the_grid_of_its_latent_weights() -> None:
    """What training hands back must be the grid point of where the latent weights ended, not of where they began."""
    torch.manual_seed(2)
    weight = torch.randn(4, 8)
    encoding = four_bits(weight)
    training = StraightThrough(encoding.codec, weight)
    with torch.no_grad():
        training.latent.add_(0.5)
    dense, codec = training.finish()
    assert torch.equal(dense, encoding.project(weight + 0.5))
    assert torch.equal(codec.project(dense), dense)
    assert not torch.equal(dense, encoding.project(weight))


def test_float32_reads_back_the_bits_it_was_given() -> None:
    """Raw floats keep every bit pattern, denormals and negative zeros too."""
    floats = np.array([1e-45, -0.0, 0.0, -3.25, 3e38, 1 / 3], dtype=np.float32)
    read = Float32.restore({}, [floats], None, (2, 3))
    assert read.shape == (2, 3)
    assert np.array_equal(read.numpy().reshape(-1).view(np.uint32), floats.view(np.uint32))
