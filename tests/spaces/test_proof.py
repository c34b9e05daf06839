"""The proof that channels can be removed: it accepts what is right, and is able to fail."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from paretopress.spaces.proof import NotRemovableError, prove, remove
from paretopress.spaces.site import Slice


def _model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3)
    )
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.uniform_(norm.bias, 0.5, 1.0)
    return model.eval()


EXAMPLE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
SINGLE = tuple((c,) for c in range(5))
RIGHT = (
    Slice("0", "out", SINGLE),
    Slice("1", "out", SINGLE),
    Slice("5", "in", tuple(tuple(range(4 * c, 4 * c + 4)) for c in range(5))),
)


def test_a_right_group_passes() -> None:
    """A convolution, its batch norm with a shift and the flattened reader agree with the masked network."""
    prove(_model(), EXAMPLE, RIGHT)


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ((*RIGHT[:2], Slice("5", "in", (*RIGHT[2].positions[1:], RIGHT[2].positions[0]))), "differs"),
        ((RIGHT[0], Slice("1", "out", (*SINGLE[1:], SINGLE[0])), RIGHT[2]), "differs"),
        (RIGHT[:2], "doesn't run"),
        ((RIGHT[0], RIGHT[2]), "doesn't run"),
        ((Slice("5", "out", ((0,), (1,), (2,))),), "^$"),
    ],
)
def test_a_wrong_group_is_refused(slices: tuple[Slice, ...], reason: str) -> None:
    """Shifted positions, a forgotten reader or norm, and the model's own output don't pass."""
    with pytest.raises(NotRemovableError, match=reason):
        prove(_model(), EXAMPLE, slices)


@pytest.mark.parametrize("slices", [RIGHT, RIGHT[:2], RIGHT[1:]])
def test_the_model_is_put_back(slices: tuple[Slice, ...]) -> None:
    """Whether the proof holds or not, every tensor, size and flag is what it was."""
    model = _model()
    model[5].weight.requires_grad_(False)
    before, output = copy.deepcopy(model), model(*EXAMPLE)
    tensors = {name: id(p) for name, p in model.named_parameters()}
    try:
        prove(model, EXAMPLE, slices)
    except NotRemovableError:
        assert slices is not RIGHT
    assert str(model) == str(before)
    assert {name: id(p) for name, p in model.named_parameters()} == tensors
    assert torch.equal(model(*EXAMPLE), output)
    assert not model[5].weight.requires_grad


def test_remove_makes_smaller_layers() -> None:
    """What remains is dense layers of the smaller size, with the remaining rows and columns."""
    model, old = _model(), _model()
    remove(model, RIGHT, [1, 3])
    kept = torch.tensor([0, 2, 4])
    assert str(model[0]).startswith("Conv2d(3, 3,")
    assert torch.equal(model[0].weight, old[0].weight[kept])
    assert torch.equal(model[1].running_var, old[1].running_var[kept])
    columns = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19])
    assert torch.equal(model[5].weight, old[5].weight[:, columns])
    out: Tensor = model(*EXAMPLE)
    assert out.shape == (2, 3)
