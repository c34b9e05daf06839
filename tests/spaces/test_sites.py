"""Sites: every layer once, with the right kind, sizes and costs, and a note where something isn't offered."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretopress.spaces.attention import Attention, convert_attention
from paretopress.spaces.errors import ModelError
from paretopress.spaces.site import LAYER_KINDS, MODEL, Site
from paretopress.spaces.sites import find_sites


def _named(model: nn.Module, *example: Tensor) -> tuple[dict[str, Site], tuple[str, ...]]:
    sites, notes = find_sites(model.eval(), example)
    assert len({s.name for s in sites}) == len(sites)
    return {s.name: s for s in sites}, notes


def test_layers_of_a_convolutional_network() -> None:
    """Kinds, kernels, bytes and multiply-accumulates for one example, whatever the batch."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 6, 1, groups=2),
        nn.Flatten(2),
        nn.Conv1d(6, 4, 3),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    for batch in (1, 3):
        sites, _ = _named(model, torch.randn(batch, 3, 16, 16))
        layers = {n: s for n, s in sites.items() if s.kind in LAYER_KINDS}
        assert [(n, s.kind) for n, s in layers.items()] == [
            ("0", "conv2d"), ("2", "depthwise"), ("3", "grouped"), ("5", "conv1d"), ("8", "linear"),
        ]  # fmt: skip
        assert [s.macs for s in layers.values()] == [64 * 8 * 27, 64 * 8 * 9, 64 * 6 * 4, 62 * 4 * 18, 4 * 5]
        assert [s.bytes for s in layers.values()] == [4 * n for n in (8 * 27, 8 * 9, 6 * 4, 4 * 18, 20)]
        assert (sites["0"].kernel, sites["5"].kernel, sites["8"].kernel) == ((3, 3), (3,), ())
        assert sites["0"].weights == ("0.weight",)
        assert sites["0"].shape == (8, 3, 3, 3)
        assert sites[MODEL].macs == sum(s.macs for s in layers.values())
        assert sites[MODEL].bytes == sum(s.bytes for s in layers.values())


class Text(nn.Module):
    """An embedding whose weight is also the output layer's, and an LSTM between."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(12, 6)
        self.lstm = nn.LSTM(6, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(6, 12)
        self.out.weight = self.emb.weight
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.lstm(self.emb(x))[0].mean(1))
        return out


def test_shared_recurrent_and_unreached_layers() -> None:
    """A tied weight is one site and counted once, an LSTM lists all its weights, an unreached layer gets a note."""
    sites, notes = _named(Text(), torch.randint(0, 12, (2, 5)))
    assert sites["emb"].members == ("emb", "out")
    assert sites["emb"].weights == ("emb.weight",)
    assert sites["emb"].bytes == 4 * 72
    assert sites["emb"].macs == 72
    assert "out" not in sites
    lstm = sites["lstm"]
    assert lstm.kind == "recurrent"
    assert len(lstm.weights) == 8
    assert lstm.macs == 5 * lstm.bytes // 4
    assert sites[MODEL].bytes == sites["emb"].bytes + lstm.bytes
    assert "unused" not in sites
    assert any("unused" in note and "not reached" in note for note in notes)


def test_a_module_at_two_paths_is_one_site() -> None:
    """A layer that is called twice counts its weight once and its work twice."""
    layer = nn.Linear(4, 4)
    sites, _ = _named(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 4))
    assert [n for n, s in sites.items() if s.kind in LAYER_KINDS] == ["0"]
    assert sites["0"].macs == 2 * 16
    assert sites["0"].bytes == 4 * 16


def test_attention_heads_groups_and_blocks() -> None:
    """A pre-norm transformer offers heads, feed-forward widths and blocks beside its layers."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(40, 3))
    sites, _ = _named(convert_attention(model), torch.randn(2, 5, 8))
    heads = sites["heads:0.layers.1.self_attn"]
    assert heads.shape == (2,)
    assert heads.members[0] == "0.layers.1.self_attn"
    assert [s.side for s in heads.slices] == ["out", "out", "out", "in"]
    assert heads.slices[0].positions == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert heads.macs == 4 * 5 * 64 + 2 * 5 * 5 * 8
    assert sites["0.layers.0.self_attn.q"].kind == "attention"
    group = sites["group:0.layers.0.linear1"]
    assert group.shape == (16,)
    assert group.bytes == 4 * 2 * 8 * 16
    block = sites["block:0.layers.1"]
    assert block.members[0] == "0.layers.1"
    assert heads.inside(block)
    assert sites["group:0.layers.1.linear1"].inside(block)
    assert not group.inside(block)
    assert block.bytes == 4 * (4 * 64 + 2 * 8 * 16)
    inner = [s for s in sites.values() if s.kind in LAYER_KINDS and s.inside(block)]
    assert block.macs == sum(s.macs for s in inner) + 2 * 5 * 5 * 8
    assert list(sites)[-1] == MODEL


def test_heads_are_refused_where_the_model_counts_them() -> None:
    """A mask with one layer a head can't lose heads, and the note says so."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(len(x) * 2, x.shape[1], x.shape[1])
            out: Tensor = self.head(self.attention(x, x, x, attn_mask=mask)[0].mean(1))
            return out

    sites, notes = _named(convert_attention(Masked()), torch.randn(3, 5, 8))
    assert "heads:attention" not in sites
    assert any(note.startswith("Heads of attention") for note in notes)


def test_heads_with_shared_projections_are_refused() -> None:
    """Two attentions that share a weight would have to lose the same heads."""
    torch.manual_seed(0)
    first, second = Attention(8, 2, 4, 8, 8), Attention(8, 2, 4, 8, 8)
    second.q.weight = first.q.weight

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = first, second, nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.first(x, x, x)[0]
            out: Tensor = self.head((x + self.second(x, x, x)[0]).mean(1))
            return out

    sites, notes = _named(Both(), torch.randn(3, 5, 8))
    assert not any(s.kind == "heads" for s in sites.values())
    assert sum("shares its weight" in note for note in notes) == 2


class Centred(nn.Conv2d):
    """A convolution that standardises its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Named(nn.Linear):
    """A linear layer in all but name."""


def test_layers_that_compute_something_else_are_left_out() -> None:
    """A subclass with its own forward and a parametrized layer get a note; a mere subclass is a layer."""
    model = nn.Sequential(Centred(3, 4, 3), nn.Flatten(), nn.Linear(144, 6), Named(6, 6), nn.Linear(6, 2))
    parametrize.register_parametrization(model[2], "weight", nn.Tanh())
    sites, notes = _named(model, torch.randn(2, 3, 8, 8))
    assert [n for n, s in sites.items() if s.kind in LAYER_KINDS] == ["3", "4"]
    assert any(note.startswith("0: ") and "Centred" in note for note in notes)
    assert any(note.startswith("2: ") and "parametrization" in note for note in notes)


def test_unsupported_weights_are_named() -> None:
    """What no technique supports is listed with its type: transposed convolutions, raw parameters, fused attention."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(4, 4, 3)
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)
            self.shift, self.fc = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x).transpose(1, 2)
            out: Tensor = self.fc(self.attention(x, x, x)[0].mean(1) + self.shift)
            return out

    sites, notes = _named(Mixed(), torch.randn(2, 4, 6))
    assert [n for n, s in sites.items() if s.kind in LAYER_KINDS] == ["fc"]
    assert any(note.startswith("up: ") and "ConvTranspose1d" in note for note in notes)
    assert any(note.startswith("attention: ") and "add_bias_kv" in note for note in notes)
    assert any(note.startswith(MODEL) for note in notes)


def test_a_model_without_layers_is_an_error() -> None:
    """The message says what is supported and what the model has instead."""
    with pytest.raises(ModelError, match=r"Supported are Linear.*1 ConvTranspose2d"):
        find_sites(nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.ReLU()), (torch.randn(1, 3, 8, 8),))
    with pytest.raises(ModelError, match="no parameters at all"):
        find_sites(nn.Sequential(nn.ReLU()), (torch.randn(1, 3),))
    with pytest.raises(ModelError, match="forward pass fails"):
        find_sites(nn.Sequential(nn.Linear(3, 4)), (torch.randn(1, 5),))


def test_a_single_layer_is_a_model() -> None:
    """A layer at the root has a name, too."""
    sites, _ = _named(nn.Linear(3, 4), torch.randn(2, 3))
    assert list(sites) == ["Linear", MODEL]
    assert sites["Linear"].members == ("",)
    assert sites["Linear"].weights == ("weight",)


def test_sites_survive_json_and_leave_the_model_alone() -> None:
    """A site is plain data, slices included, and finding it changes nothing."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).train()
    state = copy.deepcopy(model.state_dict())
    sites, _ = find_sites(model, (torch.randn(8, 4),))
    assert any(s.slices for s in sites)
    for site in sites:
        assert Site.from_json(json.loads(json.dumps(site.to_json()))) == site
    assert model.training
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
