"""Removable blocks: residual ones are found however they are written, and nothing else is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from paretopress.spaces.attention import convert_attention
from paretopress.spaces.blocks import PassThrough, find_blocks


class Basic(nn.Module):
    """relu(shortcut(x) + f(x)), as in a ResNet."""

    def __init__(self, width: int, shortcut: nn.Module | None = None, affine: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width, affine=affine)
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class PreActivation(nn.Module):
    """x + f(relu(x)), with a relu that writes into its input's copy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(self.relu(self.norm(x)))
        return out


class Twice(nn.Module):
    """Calls one residual block twice, with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.block = PreActivation(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.block(x))
        return out


class Reader(nn.Module):
    """Looks into its block, so that it can't do without it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = PreActivation(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x) * self.block.conv.weight.mean()
        return out


def _net(*body: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    return model.eval()


IMAGE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ([Basic(4), Basic(4)], ["2", "3"]),
        ([PreActivation(4)], ["2"]),
        ([nn.Sequential(Basic(4), Basic(4)), nn.Sequential(Basic(4))], ["2.0", "2.1", "3.0"]),
        ([Basic(4, nn.Conv2d(4, 4, 1))], []),
        ([Basic(4, affine=False)], []),
        ([nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())], []),
        ([Twice()], ["2"]),
    ],
    ids=["resnet", "pre-activation", "stages", "conv-shortcut", "shift-left", "plain", "shared"],
)
def test_which_blocks_are_removable(body: list[nn.Module], found: list[str]) -> None:
    """A block is one whose shortcut is the identity; only the smallest that is called once counts."""
    blocks, notes = find_blocks(_net(*body), IMAGE)
    assert blocks == found
    assert notes == []


@pytest.mark.parametrize(("norm_first", "found"), [(True, ["layers.0", "layers.1"]), (False, [])])
def test_transformer_blocks(norm_first: bool, found: list[str]) -> None:
    """A transformer layer is removable with the norm before, not with the norm behind the sum."""
    torch.manual_seed(0)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first) for _ in range(2)
            )
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x, src_mask=torch.zeros(5, 5))
            out: Tensor = self.head(x.mean(1))
            return out

    assert find_blocks(convert_attention(Stack()).eval(), (torch.randn(2, 5, 8),))[0] == found


def test_the_first_layer_of_a_torch_encoder_stays_with_a_note() -> None:
    """`nn.TransformerEncoder` reads its first layer's attributes, so only the others can go."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    encoder = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(8, 2))
    blocks, notes = find_blocks(convert_attention(encoder).eval(), (torch.randn(2, 5, 8),))
    assert blocks == ["0.layers.1", "0.layers.2"]
    assert len(notes) == 1
    assert "0.layers.0" in notes[0]


def test_a_block_that_others_look_into_stays() -> None:
    """Where the model breaks without a block, it isn't offered and the note says so."""
    blocks, notes = find_blocks(_net(Reader()), IMAGE)
    assert blocks == []
    assert "doesn't run without it" in notes[0]


def test_an_input_of_zeros_proves_nothing() -> None:
    """A plain layer on zeros returns zeros, which isn't a shortcut."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 2)).eval()
    assert find_blocks(model, (torch.zeros(2, 4),)) == ([], [])


def test_the_users_model_is_untouched() -> None:
    """Weights, mode and hooks stay what they were."""
    model = _net(Basic(4)).train()
    state = copy.deepcopy(model.state_dict())
    find_blocks(model, IMAGE)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert isinstance(model[2], Basic)


def test_a_pass_through_can_be_traced() -> None:
    """torch.fx sees through it, whatever arguments the block had."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = PassThrough(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.block(x))
            return out

    model = Holder()
    x = torch.randn(2, 3)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))
    assert PassThrough()(x, 1, mask=None) is x
