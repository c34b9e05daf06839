"""Coupled channels: what belongs together is found, proved, and refused where it can't be right."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import rnn

from paretopress.spaces.attention import convert_attention
from paretopress.spaces.coupling import Group, find_groups
from paretopress.spaces.proof import remove


class Residual(nn.Module):
    """Two stages of a ResNet: one identity shortcut, one convolution on the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.c1, self.b1 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.c2, self.b2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c3, self.b3 = nn.Conv2d(8, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10)
        self.down = nn.Conv2d(8, 10, 1, stride=2)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.b2(self.c2(F.relu(self.b1(self.c1(x))))))
        x = F.relu(self.b3(self.c3(x)) + self.down(x))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Dense(nn.Module):
    """A DenseNet in small: every layer reads all earlier ones, and the head reads flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.c0 = nn.Conv2d(3, 4, 3, padding=1)
        self.b1, self.c1 = nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)
        self.b2, self.c2 = nn.BatchNorm2d(9), nn.Conv2d(9, 6, 3, padding=1)
        self.fc = nn.Linear(15 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c0(x)
        x = torch.cat([x, self.c1(F.relu(self.b1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.b2(x)))], 1)
        out: Tensor = self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return out


class DenseNorm(Dense):
    """The same with a batch norm behind the last concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.b3 = nn.BatchNorm2d(15)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c0(x)
        x = torch.cat([x, self.c1(F.relu(self.b1(x)))], 1)
        x = F.relu(self.b3(torch.cat([x, self.c2(F.relu(self.b2(x)))], 1)))
        out: Tensor = self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return out


class Gated(nn.Module):
    """A gated linear unit: channel c of one half needs channel c of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(5, 12), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, -1)
        out: Tensor = self.head(x + self.down(value * torch.sigmoid(gate)))
        return out


class Recurrent(nn.Module):
    """Words, a hidden layer, a recurrent layer and a classifier with another hidden layer."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, layers: int = 2, packed: bool = False) -> None:
        super().__init__()
        self.emb, self.pre = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.rnn = kind(6, 6, num_layers=layers, bidirectional=True, batch_first=True)
        self.hidden, self.head = nn.Linear(12, 7), nn.Linear(7, 3)
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pre(self.emb(x)))
        if self.packed:
            output, _ = self.rnn(rnn.pack_padded_sequence(x, [5, 3], batch_first=True))
            x = rnn.pad_packed_sequence(output, batch_first=True)[0].mean(1)
        else:
            state = self.rnn(x)[1]
            state = state[0] if isinstance(state, tuple) else state
            x = torch.cat([state[-2], state[-1]], -1)
        out: Tensor = self.head(F.relu(self.hidden(x)))
        return out


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.position = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.emb(x) + self.position).mean(1))
        return out


def _seeded(make: type[nn.Module], seed: int = 0) -> nn.Module:
    """Return a model with random weights and random batch-norm statistics, in eval mode."""
    torch.manual_seed(seed)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def _image(size: int = 8) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)),)


TOKENS = (torch.tensor([[1, 4, 2, 9, 3], [7, 0, 5, 5, 8]]),)


def _by_root(groups: list[Group]) -> dict[str, Group]:
    return {g.root: g for g in groups}


def test_a_residual_stream_is_one_group() -> None:
    """Everything that is added together loses the same channels; the classifier's outputs are not offered."""
    groups, notes = find_groups(_seeded(Residual), _image())
    assert [g.root for g in groups] == ["stem", "c1", "c3"]
    assert notes == []
    sides = {(s.module, s.side) for s in groups[0].slices}
    assert sides == {
        ("stem", "out"),
        ("bn0", "out"),
        ("c1", "in"),
        ("c2", "out"),
        ("b2", "out"),
        ("c3", "in"),
        ("down", "in"),
    }
    assert {(s.module, s.side) for s in groups[2].slices} >= {("c3", "out"), ("down", "out"), ("fc", "in")}


@pytest.mark.parametrize("make", [Dense, DenseNorm])
def test_positions_follow_concatenation_and_flattening(make: type[nn.Module]) -> None:
    """The group of the second of two concatenated layers starts behind the first, four values a channel."""
    groups, _ = find_groups(_seeded(make), _image())
    found = _by_root(groups)
    assert set(found) == {"c0", "c1", "c2"}
    where = {(s.module, s.side): s.positions for s in found["c1"].slices}
    assert where["b2", "out"] == tuple((4 + c,) for c in range(5))
    assert where["fc", "in"] == tuple(tuple(range(16 + 4 * c, 20 + 4 * c)) for c in range(5))


def test_the_halves_of_a_gate_go_together() -> None:
    """Channel c of a gated linear unit owns rows c and c + n of the layer that makes both halves."""
    found = _by_root(find_groups(_seeded(Gated), (torch.randn(2, 5),))[0])
    assert found["up"].channels == 6
    assert {s.module: s.positions for s in found["up"].slices}["up"] == tuple((c, c + 6) for c in range(6))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("layers", "packed"), [(1, False), (2, False), (2, True)])
def test_a_recurrent_layer_does_not_stop_the_rest(kind: type[nn.RNNBase], layers: int, packed: bool) -> None:
    """Layers that don't touch the recurrent one have groups, and what feeds it gets a note, in a bounded time."""
    torch.manual_seed(0)
    groups, notes = find_groups(Recurrent(kind, layers, packed).eval(), TOKENS)
    assert "hidden" in _by_root(groups)
    # Where not even the trace succeeds, what lies in front of the recurrent layer is lost with it.
    assert "emb" in _by_root(groups) or any("emb" in note for note in notes)
    assert "pre" not in _by_root(groups)
    assert any("pre" in note for note in notes)


def test_layers_in_front_of_an_lstm_have_groups() -> None:
    """Where the trace succeeds, a recurrent layer costs only the channels that it reads itself."""
    torch.manual_seed(0)
    assert set(_by_root(find_groups(Recurrent(packed=True).eval(), TOKENS)[0])) == {"emb", "hidden"}


class Halves(nn.Module):
    """The sum of one layer and the concatenation of two: its halves belong to different ones."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.left, self.right = nn.Linear(5, 10), nn.Linear(5, 4), nn.Linear(5, 6)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.both(x) + torch.cat([self.left(x), self.right(x)], 1)))
        return out


def test_one_layer_in_two_groups() -> None:
    """Channels that meet different layers make different groups, with names of their own and no position twice."""
    groups, notes = find_groups(_seeded(Halves), (torch.randn(2, 5),))
    assert notes == []
    assert [(g.root, g.channels) for g in groups] == [("both", 4), ("both#2", 6)]
    held = [(s.module, s.side, i) for g in groups for s in g.slices for own in s.positions for i in own]
    assert len(held) == len(set(held)) == 10 + 4 + 6 + 10


def test_layer_norm_and_raw_parameters_are_refused_with_a_note() -> None:
    """A residual stream with layer norm can't equal its masked form, so only the feed-forward layers are offered."""
    groups, notes = find_groups(convert_attention(_seeded(Transformer)).eval(), TOKENS)
    assert [g.root for g in groups] == ["encoder.layers.0.linear1", "encoder.layers.1.linear1"]
    assert len(notes) == len(set(notes))
    assert any("emb" in note and ("LayerNorm" in note or "parameter outside" in note) for note in notes)
    assert not any(f"{p} can't" in note for note in notes for p in ("self_attn.q", "self_attn.k", "self_attn.v"))


@pytest.mark.parametrize(
    ("layers", "culprit"),
    [
        (lambda: [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)], "GroupNorm"),
        (lambda: [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 4, 3)], "Conv2d"),
        (lambda: [nn.Conv2d(3, 8, 3), nn.Softmax(1), nn.Conv2d(8, 4, 3)], "differs"),
        (lambda: [nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3)], "rearranges"),
        (lambda: [nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3), nn.Conv2d(6, 4, 3)], "ConvTranspose2d"),
    ],
)
def test_what_mixes_channels_is_refused(layers, culprit: str) -> None:
    """Operations in which a channel depends on its neighbours are found out, and the note names them."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    groups, notes = find_groups(model, _image())
    assert "0" not in _by_root(groups)
    assert any(culprit in note for note in notes if note.startswith("Channels of 0"))


def test_shared_weights_are_refused() -> None:
    """Two layers that hold one tensor can't be cut apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    model[4].weight = model[2].weight
    groups, notes = find_groups(model.eval(), (torch.randn(2, 4),))
    assert groups == []
    assert any("shares a tensor" in note for note in notes)


@pytest.mark.parametrize("make", [Residual, Recurrent, Transformer])
def test_the_users_model_is_untouched(make: type[nn.Module]) -> None:
    """Training mode, frozen parameters, gradients, hooks and weights stay what they were."""
    model = _seeded(make).train()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    flags = [p.requires_grad for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    find_groups(model, _image() if make is Residual else TOKENS)
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_frozen_models_have_groups_too() -> None:
    """A model whose parameters need no gradients is traced all the same."""
    model = _seeded(Residual).requires_grad_(False)
    assert [g.root for g in find_groups(model, _image())[0]] == ["stem", "c1", "c3"]


def test_all_groups_at_once_still_run() -> None:
    """Groups don't share positions: a model that loses a channel of every group runs and is smaller."""
    model, example = _seeded(Residual), _image()
    weights = sum(p.numel() for p in model.parameters())
    for group in find_groups(model, example)[0]:
        remove(model, group.slices, [0, group.channels - 1])
    assert model(*example).shape == (2, 4)
    assert sum(p.numel() for p in model.parameters()) < weights


def test_a_model_that_cannot_be_traced_gets_a_note() -> None:
    """A forward pass without gradients has no graph: no groups, and a note names the layers."""

    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x))
            return out

    groups, notes = find_groups(Closed().eval(), (torch.randn(2, 3),))
    assert groups == []
    assert any("the trace back" in note and " a " in note for note in notes)


class Ordered(Halves):
    """The same, with the layer of both halves between the two others."""

    def __init__(self) -> None:
        super().__init__()
        del self.both, self.right
        self.both, self.right = nn.Linear(5, 10), nn.Linear(5, 6)


def test_what_one_group_holds_is_not_offered_again() -> None:
    """A layer of which one half is taken offers the other half only."""
    groups, notes = find_groups(_seeded(Ordered), (torch.randn(2, 5),))
    assert notes == []
    assert [(g.root, g.channels) for g in groups] == [("left", 4), ("both", 6)]
