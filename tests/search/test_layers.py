"""New layers in the cache: built again bit for bit, or not kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from paretopress.compressors.forms import Entry, UnstorableError
from paretopress.search.layers import ModuleForm
from paretopress.spaces.attention import Attention

FORM = ModuleForm()


def again(module: nn.Module) -> nn.Module:
    """Return the module as another process would build it."""
    return FORM.build(Entry.from_bytes("k", Entry.of(FORM.flatten(module)).to_bytes("k")).tree())


def frozen(module: nn.Module) -> nn.Module:
    """Freeze the first parameter."""
    next(module.parameters()).requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1, bias=False), nn.Conv2d(2, 8, 1)), (2, 3, 8, 8)),
        (nn.Sequential(nn.Linear(4, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 5))), (3, 4)),
        (nn.GRU(4, 3, num_layers=2, batch_first=True), (2, 5, 4)),
        (frozen(nn.Linear(4, 2)), (3, 4)),
        (Attention(8, 2, 4, 8, 8), (3, 2, 8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_module_comes_back_bit_for_bit(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Structure, tensors, what trains, and what it computes."""
    module, x = module.eval(), torch.randn(shape)
    found, inputs = again(module), (x, x, x) if isinstance(module, Attention) else (x,)
    assert repr(found) == repr(module)
    assert not found.training
    assert list(found.state_dict()) == list(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), module.state_dict().values()))
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in module.parameters()]
    with torch.no_grad():
        ours, theirs = found(*inputs), module(*inputs)
    assert torch.equal(*(out[0] if isinstance(out, tuple) else out for out in (ours, theirs)))


def test_modules_that_would_lose_something_are_refused() -> None:
    """A tie, a hook or a class of the user's own has no place in a description."""
    tied, hooked = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)
    tied[1].weight = tied[0].weight
    hooked.register_forward_hook(lambda *_: None)
    layer = nn.Linear(2, 2)
    own = copy.deepcopy(layer)
    own.__class__ = type("Own", (nn.Linear,), {})
    more = nn.Linear(2, 2)
    more.scale = 2.0  # type: ignore[assignment]  # not a module, which is the point
    for module in (tied, hooked, nn.Sequential(layer, layer), own, nn.Sequential(own), more):
        with pytest.raises(UnstorableError):
            FORM.flatten(module)
