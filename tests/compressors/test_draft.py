"""A draft is its own copy of the model, and every tensor that it stores lies on its grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from paretopress.compressors.base import with_mask
from paretopress.compressors.draft import Draft
from paretopress.compressors.encoding import Encoding, Float32
from paretopress.spaces.site import Site


@dataclass(frozen=True)
class Halves(Float32):
    """Multiples of one half."""

    def project(self, weight: Tensor) -> Tensor:
        return (weight * 2).round() / 2


class Shared(nn.Module):
    """One layer that stands at two places, an embedding tied to the output, and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.lstm(self.embed(tokens))[0]
        out: Tensor = self.out(self.again(torch.relu(self.first(x))))
        return out


def test_it_is_a_copy_in_eval_mode() -> None:
    """Whatever is done to a draft, the original model keeps its weights and its mode."""
    model = nn.Sequential(nn.Linear(3, 2)).train()
    before = model.get_parameter("0.weight").detach().clone()
    draft = Draft.of(model)
    draft.store("0.weight", Encoding(mask=torch.zeros(2, 3, dtype=torch.bool)))
    assert torch.equal(model.get_parameter("0.weight"), before)
    assert not draft.parameter("0.weight").any()
    assert model.training
    assert not draft.model.training


def test_a_copy_keeps_shared_weights_shared() -> None:
    """A tied tensor changes in both its places at once."""
    draft = Draft.of(Shared())
    draft.store("embed.weight", Encoding(Halves()))
    weight = draft.parameter("out.weight")
    assert weight is draft.parameter("embed.weight")
    assert torch.equal(weight * 2, (weight * 2).round())


@pytest.mark.parametrize(
    ("members", "names"),
    [
        (("embed", "out"), ["embed.weight"]),
        (("lstm",), ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
        (("first", "again"), ["first.weight"]),
        (("gone.layer", "out"), ["out.weight"]),
    ],
)
def test_a_sites_weights_are_named_once(members: tuple[str, ...], names: list[str]) -> None:
    """Biases don't count, tied tensors count once, and a member that is gone counts as none."""
    assert Draft.of(Shared()).weights(Site(members[0], "linear", members)) == names


def test_the_model_itself_can_be_the_layer() -> None:
    """A bare layer has the empty path; its weight is still found, and it can be replaced."""
    draft = Draft.of(nn.Linear(3, 2))
    assert draft.weights(Site("", "linear", ("",))) == ["weight"]
    new = nn.Linear(3, 2)
    draft.replace_module("", new)
    assert draft.model is new


def test_a_replaced_module_is_replaced_everywhere() -> None:
    """A layer used at two places must not survive at one of them; the new one takes over its mode."""
    draft = Draft.of(Shared())
    new = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4))
    draft.replace_module("first", new)
    assert draft.model.first is new
    assert draft.model.again is new
    assert not new[0].training


def test_has_tells_whether_a_module_is_still_there() -> None:
    """Layers of a removed block are gone, and later steps must notice."""
    draft = Draft.of(nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 2)))
    assert draft.has("0.0")
    draft.replace_module("0", nn.Identity())
    assert not draft.has("0.0")
    assert draft.has("0")


def test_store_moves_the_weight_onto_its_grid() -> None:
    """Inference uses exactly what the file will hold, masked positions being positive zeros."""
    draft = Draft.of(nn.Sequential(nn.Linear(3, 4)))
    mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    draft.store("0.weight", with_mask(Encoding(Halves()), mask))
    weight = draft.parameter("0.weight").detach()
    assert torch.equal(weight * 2, (weight * 2).round())
    assert not weight[~mask].view(torch.int32).any()
    assert draft.encoding("0.weight").codec == Halves()
    assert draft.encoding("0.bias") == Encoding()


def test_a_second_mask_can_only_remove() -> None:
    """What one mask dropped, a further one doesn't bring back."""
    a, b = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    joint = with_mask(with_mask(Encoding(), a), b).mask
    assert joint is not None
    assert joint.tolist() == [True, False, False]


def test_the_values_before_rounding_are_remembered() -> None:
    """Training starts from the weight before its first rounding, however many times it was stored."""
    draft = Draft.of(nn.Sequential(nn.Linear(3, 4)))
    original = draft.parameter("0.weight").detach().clone()
    draft.store("0.weight", Encoding(mask=torch.ones(4, 3, dtype=torch.bool)))
    draft.store("0.weight", replace(draft.encoding("0.weight"), codec=Halves()))
    draft.store("0.weight", draft.encoding("0.weight"))
    assert torch.equal(draft.latents["0.weight"], original)


def test_a_trained_weight_comes_with_its_codec() -> None:
    """What training reached replaces values and number format; the mask stays."""
    draft = Draft.of(nn.Sequential(nn.Linear(3, 4)))
    mask = torch.ones(4, 3, dtype=torch.bool)
    draft.store("0.weight", Encoding(mask=mask))
    draft.restore_codec("0.weight", torch.full((4, 3), 0.5), Halves())
    assert torch.equal(draft.parameter("0.weight"), torch.full((4, 3), 0.5))
    assert draft.encoding("0.weight").codec == Halves()
    assert draft.encoding("0.weight").mask is mask
