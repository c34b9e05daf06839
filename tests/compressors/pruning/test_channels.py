"""Channel removal: the smaller network is the masked network, and the weakest channels are the ones that go."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.base import apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.pruning.channels import Channels, importance, kept_count
from paretopress.compressors.pruning.depth import Depth
from paretopress.spaces.attention import Attention
from paretopress.spaces.errors import SettingError
from paretopress.spaces.metric import Metric
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import Site, Slice
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task


class Block(nn.Module):
    """A residual block, with a convolution on the shortcut where the shape changes."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.down = nn.Sequential()
        if stride > 1 or width != out:
            self.down = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.down(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def _resnet() -> nn.Module:
    blocks = (Block(8, 8), Block(8, 8), Block(8, 12, 2), Block(12, 12))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *blocks, *head)


def _separable() -> nn.Module:
    def pair(width: int, out: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        return [
            depthwise,
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, out, 1),
            nn.BatchNorm2d(out),
            nn.PReLU(out),
        ]

    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), *pair(6, 8), *pair(8, 10), *head)


def _temporal() -> nn.Module:
    body = (nn.Conv1d(3, 6, 5), nn.BatchNorm1d(6), nn.GELU(), nn.Conv1d(6, 9, 3, dilation=2), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.Linear(27, 7), nn.Tanh(), nn.Linear(7, 3))


def _flattened() -> nn.Module:
    body = (nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(45, 8), nn.ReLU())
    return nn.Sequential(*body, nn.BatchNorm1d(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


class Dense(nn.Module):
    """Every layer reads the concatenation of all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.c0 = nn.Conv2d(3, 4, 3, padding=1)
        self.b1, self.c1 = nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)
        self.b2, self.c2 = nn.BatchNorm2d(9), nn.Conv2d(9, 6, 3, padding=1)
        self.b3, self.fc = nn.BatchNorm2d(15), nn.Linear(15 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c0(x)
        x = torch.cat([x, self.c1(F.relu(self.b1(x)))], 1)
        x = F.relu(self.b3(torch.cat([x, self.c2(F.relu(self.b2(x)))], 1)))
        out: Tensor = self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return out


class Transformer(nn.Module):
    """Tokens are the columns of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 12)
        layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x.flatten(1, 2).transpose(1, 2))).mean(1))
        return out


class Gated(nn.Module):
    """A gated linear unit with a residual stream around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.head = nn.Linear(192, 6), nn.Linear(6, 16), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        value, gate = self.up(x).chunk(2, -1)
        out: Tensor = self.head(x + self.down(value * torch.sigmoid(gate)))
        return out


#: Each network with the widths that it offers.
ZOO = {
    _resnet: [8, 8, 8, 12, 12, 12],
    _separable: [6, 8, 10],
    _temporal: [6, 9, 7],
    _flattened: [5, 8, 6],
    Dense: [4, 5, 6],
    Transformer: [20, 20, 4, 4],
    Gated: [6, 8],
}


def _prepared(make) -> tuple[Context, tuple[Site, ...]]:
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    shape = (4, 3, 16) if make is _temporal else (4, 3, 8, 8)
    task = Task(model, [(torch.randn(shape), torch.tensor([0, 1, 2, 0]))])
    sites, _ = find_sites(task.model, task.example)
    return Context(task, {s.name: s for s in sites}), tuple(s for s in sites if Channels().supports(s))


def _step(site: Site, ratio: float, **other: object) -> Step:
    params: dict[str, object] = {"ratio": ratio}
    if site.kind == "group":
        params |= {"criterion": "l2", "round_to": 1}
    return Step.of(site.name, "channels", **{**params, **other})  # type: ignore[arg-type]  # scalars of several types


def _masked(model: nn.Module, kept: dict[tuple[str, str], Tensor]) -> nn.Module:
    """Return a full-size copy in which every reader of a removed channel has zeros in its place."""
    masked = Draft.of(model).model
    with torch.no_grad():
        for (path, side), stays in kept.items():
            if side == "in":
                weight = masked.get_submodule(path).get_parameter("weight")
                gone = torch.ones(weight.shape[1], dtype=torch.bool)
                gone[stays] = False
                weight[:, gone] = 0
    return masked


@pytest.mark.parametrize("make", ZOO)
def test_the_removed_network_is_the_masked_network(make) -> None:
    """All groups and heads at once, at random ratios and in random order, on inputs that were never seen."""
    context, sites = _prepared(make)
    assert [site.shape[0] for site in sites] == ZOO[make]
    rng = random.Random(0)
    full = sum(p.numel() for p in context.task.model.parameters())
    for _ in range(4):
        draft = Draft.of(context.task.model)
        for site in rng.sample(sites, len(sites)):
            apply_step(Channels(), draft, _step(site, rng.choice([0.25, 0.5, 0.75])), context)
        x = torch.randn(5, *context.task.example[0].shape[1:])
        with torch.no_grad():
            masked = _masked(context.task.model, draft.kept)(x)
            torch.testing.assert_close(draft.model(x), masked, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(masked, context.task.model(x), rtol=1e-3, atol=1e-3)
        assert sum(p.numel() for p in draft.model.parameters()) < full
    assert sum(p.numel() for p in context.task.model.parameters()) == full


@pytest.mark.parametrize("make", ZOO)
def test_layers_state_their_real_sizes(make) -> None:
    """A module built anew from the attributes of a cut one takes its tensors: nothing is a disguise."""
    context, sites = _prepared(make)
    draft = Draft.of(context.task.model)
    for site in sites:
        apply_step(Channels(), draft, _step(site, 0.5), context)
    for module in draft.model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            assert module.weight.shape == shape
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert len(module.weight) == len(module.running_mean) == module.num_features
        elif isinstance(module, Attention):
            assert module.heads == 2
            assert module.q.out_features == module.o.in_features == module.heads * module.head_dim


@pytest.mark.parametrize("criterion", ["l2", "l1"])
def test_the_weakest_channels_go(criterion: str) -> None:
    """Each norm ranks by its own measure: one large weight wins under l2, many middling ones under l1."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0, 0, 0], [1, 1, 1, 1], [0.1, 0, 0, 0]]))
        model[2].weight.fill_(1.0)
    slices = [Slice("0", "out", ((0,), (1,), (2,))), Slice("2", "in", ((0,), (1,), (2,)))]
    scores = importance(Draft.of(model), slices, criterion)
    rows = torch.tensor([3.0, 2.0, 0.1] if criterion == "l2" else [3.0, 4.0, 0.1], dtype=torch.float64)
    torch.testing.assert_close(scores, rows / rows.mean() + 1)
    task = Task(model, [(torch.randn(2, 4), torch.zeros(2, 1))], metric=Metric("mse", F.mse_loss, "minimize"))
    sites, _ = find_sites(task.model, task.example)
    context = Context(task, {s.name: s for s in sites})
    for ratio, stay in ((0.34, [0, 1]), (0.67, [0] if criterion == "l2" else [1])):
        draft = Draft.of(task.model)
        apply_step(Channels(), draft, _step(context.sites["group:0"], ratio, criterion=criterion), context)
        assert draft.kept["0", "out"].tolist() == stay


def test_layers_weigh_alike_whatever_their_scale() -> None:
    """Scaling one tensor of the group leaves the ranking as it is."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    single = tuple((c,) for c in range(6))
    slices = [Slice("0", "out", single), Slice("2", "in", single)]
    before = importance(Draft.of(model), slices, "l2")
    with torch.no_grad():
        model[0].weight.mul_(1000)
    torch.testing.assert_close(importance(Draft.of(model), slices, "l2"), before, rtol=1e-5, atol=1e-6)


def test_what_other_groups_removed_does_not_move_the_ranking() -> None:
    """A layer that reads a concatenation and lost other channels still shows each remaining one its own weights."""
    context, sites = _prepared(Dense)
    draft = Draft.of(context.task.model)
    first, second = sites[0], [s for s in sites[1].slices if s.side == "in"]
    before = importance(draft, second, "l2")
    apply_step(Channels(), draft, _step(first, 0.5), context)
    torch.testing.assert_close(importance(draft, second, "l2"), before)


def test_a_channel_of_several_positions_is_ranked_by_all() -> None:
    """Behind a flattening, a channel counts every weight that reads it."""
    model = nn.Sequential(nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0, 2.9, 2.9]]))
    scores = importance(Draft.of(model), [Slice("0", "in", ((0, 1), (2, 3)))], "l2")
    assert scores[1] > scores[0]


@given(st.integers(1, 600), st.floats(0, 0.95), st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_the_kept_count_is_a_multiple_within_the_width(total: int, ratio: float, round_to: int) -> None:
    """At least one channel stays, a multiple if the group is wide enough, within half a multiple of the ratio."""
    count = kept_count(total, ratio, round_to)
    assert 1 <= count <= total
    if count < total:
        assert count % round_to == 0
        assert count == round_to or abs(count - (1 - ratio) * total) <= round_to / 2 + 1e-6
    assert kept_count(total, 0.0, 1) == total


@given(st.integers(2, 300), st.sampled_from(["group", "heads"]))
@settings(max_examples=100, deadline=None)
def test_every_offered_ratio_makes_a_difference(total: int, kind: str) -> None:
    """No two ratios of the default grid leave the same number, and none leaves all."""
    ratio, *rest = Channels().knobs(Site("s", kind, ("m",), shape=(total,)))
    multiple = int(rest[1].values[0]) if rest else 1
    counts = [kept_count(total, float(value), multiple) for value in ratio.values]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[0] < total


def test_a_single_channel_or_head_is_not_offered() -> None:
    """There is nothing to choose from."""
    assert not Channels().supports(Site("s", "group", ("m",), shape=(1,)))
    assert not Channels().supports(Site("s", "heads", ("m",), shape=(1,)))
    assert Channels().supports(Site("s", "heads", ("m",), shape=(2,)))


def test_settings_outside_their_range_are_refused() -> None:
    """A ratio of one and an unknown norm name the setting."""
    context, sites = _prepared(_flattened)
    for wrong in (_step(sites[0], 1.0), _step(sites[0], 0.5, criterion="l3"), _step(sites[0], 0.5, round_to=0)):
        with pytest.raises(SettingError, match="channels"):
            apply_step(Channels(), Draft.of(context.task.model), wrong, context)


def test_widths_are_rounded_to_a_multiple() -> None:
    """With round_to = 4, twelve channels lose four or eight, never six."""
    context, _ = _prepared(_resnet)
    site = next(s for s in context.sites.values() if s.kind == "group" and s.shape == (12,))
    draft = Draft.of(context.task.model)
    apply_step(Channels(), draft, _step(site, 0.6, round_to=4), context)
    assert len(draft.kept[site.slices[0].module, "out"]) == 4


def test_modules_of_a_removed_block_are_skipped() -> None:
    """After a block is gone, the stream that ran through it can still lose channels."""
    context, sites = _prepared(_resnet)
    draft = Draft.of(context.task.model)
    apply_step(Depth(), draft, Step.of("block:4", "depth"), context)
    stream = next(s for s in sites if any(m == "4.conv1" for m in s.members) and "0" in s.members)
    apply_step(Channels(), draft, _step(stream, 0.5), context)
    inner = next(s for s in sites if s.members[0] == "4.conv1")
    apply_step(Channels(), draft, _step(inner, 0.5), context)
    assert draft.model(context.task.example[0]).shape == (1, 3)
    assert not any(path.startswith("4.") for path, _ in draft.kept)
    assert draft.module("3.conv1").in_channels == 4


def test_all_but_one_head_can_go() -> None:
    """The strongest head stays, and projections shrink with it."""
    context, sites = _prepared(Transformer)
    site = next(s for s in sites if s.kind == "heads")
    draft = Draft.of(context.task.model)
    attention = draft.module(site.members[0])
    assert isinstance(attention, Attention)
    with torch.no_grad():
        for layer in (attention.q, attention.k, attention.v):
            layer.weight[3:6] *= 10
        attention.o.weight[:, 3:6] *= 10
    apply_step(Channels(), draft, _step(site, 0.95), context)
    assert (attention.heads, attention.q.out_features, attention.o.in_features) == (1, 3, 3)
    assert draft.kept[site.members[0] + ".v", "out"].tolist() == [3, 4, 5]


def test_frozen_parameters_stay_frozen() -> None:
    """Removal keeps which parameters train."""
    context, sites = _prepared(_flattened)
    draft = Draft.of(context.task.model)
    draft.module("0").get_parameter("weight").requires_grad_(False)
    apply_step(Channels(), draft, _step(sites[0], 0.5), context)
    flags = {n: p.requires_grad for n, p in draft.model.named_parameters()}
    assert [n for n, flag in flags.items() if not flag] == ["0.weight"]
