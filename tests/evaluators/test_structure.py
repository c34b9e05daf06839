"""The key of a structure: equal for copies, different for whatever changes the operators."""

import copy
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from paretopress.evaluators.structure import structure

X = (torch.zeros(1, 4, 8, 8),)


def test_copies_with_other_weights_are_one_structure() -> None:
    """Trials get deep copies with changed weights; their costs must be found again."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert structure(model, X) is not None
    assert structure(model, X) == structure(other, X)


def test_recurrent_models_have_a_key() -> None:
    """LSTMs keep weak references to their weights, which must not make them incomparable."""
    x = (torch.zeros(1, 3, 4),)
    model = nn.LSTM(4, 5)
    assert structure(model, x) is not None
    assert structure(model, x) == structure(copy.deepcopy(model), x)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Conv2d(4, 4, 3).half(),
        nn.ConvTranspose2d(4, 4, 3),
    ],
)
def test_what_changes_the_work_changes_the_key(other: nn.Module) -> None:
    """Equal weights with another stride do other work: shapes alone are no key."""
    assert structure(nn.Conv2d(4, 4, 3), X) != structure(other, X)


def test_the_example_belongs_to_the_key() -> None:
    """The same network on a larger image does more work."""
    assert structure(nn.Conv2d(4, 4, 3), X) != structure(nn.Conv2d(4, 4, 3), (torch.zeros(1, 4, 9, 9),))


@dataclass
class Settings:
    repeats: int


class Configured(nn.Module):
    def __init__(self, settings: object) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_models_own_settings_belong_to_the_key() -> None:
    """Networks are often built from a settings object: its values decide what runs."""
    assert structure(Configured(Settings(2)), X) == structure(Configured(Settings(2)), X)
    assert structure(Configured(Settings(2)), X) != structure(Configured(Settings(3)), X)
    assert structure(Configured(1), X) != structure(Configured(True), X)


def test_sharing_a_layer_belongs_to_the_key() -> None:
    """Counts are listed under a shared layer's first name, so sharing changes the answer."""
    layer = nn.Conv2d(4, 4, 1)
    assert structure(nn.Sequential(layer, layer), X) != structure(nn.Sequential(layer, nn.Conv2d(4, 4, 1)), X)


def test_what_cant_be_compared_has_no_key() -> None:
    """Where equality can't be told, counting again is right and remembering is not."""
    itself = Settings(1)
    itself.repeats = itself  # type: ignore[assignment] # an object that contains itself
    assert structure(Configured(threading.Lock()), X) is None
    assert structure(Configured(itself), X) is None
    assert structure(Configured(nn.Linear(2, 2).forward), X) is None
