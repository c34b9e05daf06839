"""Block removal: the model without a block is the model whose block adds nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from paretopress.compressors.base import apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.pruning.depth import Depth, PassThrough
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Step
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task


class Block(nn.Module):
    """A residual block of a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Tokens(nn.Module):
    """A pre-norm transformer over the columns of the image, called with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 12)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(12, 2, 20, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x, src_mask=torch.zeros(8, 8))
        out: Tensor = self.head(x.mean(1))
        return out


def _resnet() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Block(6), Block(6), *head)


def _context(make) -> Context:
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    task = Task(model, [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))])
    return Context(task, {s.name: s for s in find_sites(task.model, task.example)[0]})


@pytest.mark.parametrize(
    ("make", "site", "silenced"),
    [
        (_resnet, "block:3", ["3.bn2.weight", "3.bn2.bias"]),
        (
            Tokens,
            "block:layers.0",
            [f"layers.0.{n}" for n in ("self_attn.o.weight", "self_attn.o.bias", "linear2.weight", "linear2.bias")],
        ),
    ],
)
def test_the_model_without_a_block_is_the_one_whose_block_adds_nothing(make, site: str, silenced: list[str]) -> None:
    """On new inputs, removal equals zeroing the last layers of the block's branch."""
    context = _context(make)
    draft, zeroed = Draft.of(context.task.model), Draft.of(context.task.model)
    apply_step(Depth(), draft, Step.of(site, "depth"), context)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        for name in silenced:
            zeroed.parameter(name).zero_()
        torch.testing.assert_close(draft.model(x), zeroed.model(x), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(draft.model(x), context.task.model(x), rtol=1e-3, atol=1e-3)
    assert sum(p.numel() for p in draft.model.parameters()) < sum(p.numel() for p in context.task.model.parameters())


def test_all_blocks_can_go() -> None:
    """Removals don't get into each other's way, and the layers inside no longer exist."""
    context = _context(_resnet)
    draft = Draft.of(context.task.model)
    for site in ("block:2", "block:3"):
        apply_step(Depth(), draft, Step.of(site, "depth"), context)
    assert draft.model(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert not draft.has("2.conv1")
    assert isinstance(draft.module("2"), PassThrough)
    assert isinstance(context.task.model.get_submodule("2"), Block)


def test_the_result_can_be_traced() -> None:
    """A model without a block still has a graph for torch.fx."""
    context = _context(_resnet)
    draft = Draft.of(context.task.model)
    apply_step(Depth(), draft, Step.of("block:2", "depth"), context)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(fx.symbolic_trace(draft.model)(x), draft.model(x))


def test_only_blocks_are_supported() -> None:
    """A layer can't be left out, and there is nothing to set."""
    context = _context(_resnet)
    with pytest.raises(SettingError, match="does not support"):
        apply_step(Depth(), Draft.of(context.task.model), Step.of("0", "depth"), context)
    assert Depth().knobs(context.sites["block:2"]) == ()
