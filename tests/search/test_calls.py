"""A forward pass taken apart: every call of every module, as often as it happens, ready to be run again."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.evaluators.structure import structure
from paretopress.search.calls import Call, Pass, copied, name_of
from paretopress.search.examples.digits import DigitsNet


class Twice(nn.Module):
    """Calls one layer twice, at two shapes, and an LSTM with its state as a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.body = nn.Sequential(nn.ReLU(inplace=True), self.mix)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.mix(x[:, :2]))
        state = (torch.ones(1, len(x), 4), torch.zeros(1, len(x), 4))
        return self.lstm(x, hx=state)[0].sum(1)


def passed(model: nn.Module, *inputs: Tensor) -> Pass:
    """Return a pass of a copy."""
    return Pass(copy.deepcopy(model).eval(), inputs)


def run(found: Pass, call: Call) -> Any:
    """Run a call by itself."""
    with torch.no_grad():
        return found.runner(call)()()


def test_every_call_is_found_once() -> None:
    """A layer that is called twice has two calls under its first name; containers have no work of their own."""
    found = passed(Twice(), torch.randn(3, 5, 4))
    assert {path: len(calls) for path, calls in found.calls.items()} == {"": 1, "mix": 2, "body.0": 1, "lstm": 1}
    [root] = found.calls[""]
    assert [path for path, _ in root.inside] == ["mix", "body", "lstm"]
    assert found.calls["lstm"][0].kwargs["hx"][0].shape == (1, 3, 4)


def test_calls_run_again_by_themselves() -> None:
    """Each call gives what it gave in the model, again and again, even where the model works in place."""
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(3, 5, 4)
    before = x.clone()
    found = passed(model, x)
    with torch.no_grad():
        whole, first = model(x), model.mix(x[:, :2])
    for _ in range(2):
        assert torch.equal(run(found, found.calls[""][0]), whole)
        assert torch.equal(run(found, found.calls["mix"][0]), first)
        assert torch.equal(run(found, found.calls["body.0"][0]), F.relu(first))
    assert torch.equal(x, before)


def test_a_modules_own_work_leaves_out_what_it_calls() -> None:
    """With the layers inside answering from the record, it doesn't matter what they compute any more."""
    model, x = DigitsNet().eval(), torch.randn(1, 1, 8, 8)
    found = passed(model, x)
    expected = run(found, found.calls["block1"][0])
    with torch.no_grad():
        for parameter in found._modules["block1"].parameters():
            parameter.zero_()
    assert torch.equal(run(found, found.calls["block1"][0]), expected)


def test_equal_work_has_equal_keys() -> None:
    """Layers of one shape share a key whatever their weights; another width, stride or input doesn't."""
    model, x = DigitsNet(), torch.randn(2, 1, 8, 8)
    keys = {path: calls[0].key for path, calls in passed(model, x).calls.items()}
    assert keys["block1.conv1"] == keys["block2.conv2"]
    assert keys["block1.conv1"] != keys["block3.conv1"]
    assert keys["block1"] == keys["block2"]  # their own work; the layers inside are by themselves
    assert keys["bn"] == keys["block1.bn1"]
    again = {path: calls[0].key for path, calls in passed(DigitsNet(), x).calls.items()}
    assert again == keys
    other = {path: calls[0].key for path, calls in passed(model, x[:1]).calls.items()}
    assert all(other[path] != key for path, key in keys.items())


def test_what_is_no_module_belongs_to_the_module_around_it() -> None:
    """A layer whose weight is used without calling it has no call."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.called(F.linear(x, self.used.weight))

    found = passed(Around(), torch.randn(2, 4))
    assert found.calls.keys() == {"", "called"}
    assert run(found, found.calls[""][0]).shape == (2, 4)


def test_a_model_that_does_not_run_has_no_calls() -> None:
    """Whatever a forward pass raises while it is watched, nothing half is left."""

    class Watchful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out = self.fc(x)
            if "forward" in vars(self.fc):
                raise RuntimeError("somebody looks")
            return out

    assert passed(Watchful(), torch.randn(2, 4)).calls == {}


def test_copies_are_deep_in_what_holds_tensors() -> None:
    """Tensors in tuples, named tuples, lists and dictionaries are copied; everything else is the same thing."""
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    thing = object()
    value = {"a": [torch.ones(2)], "b": (thing, 3), "c": packed}
    again = copied(value)
    again["a"][0].zero_()
    again["c"].data.zero_()
    assert value["a"][0].sum() == 2
    assert packed.data.sum() == 10
    assert type(again["c"]) is type(packed)
    assert again["b"][0] is thing


@pytest.mark.parametrize("layer", ["nn.Conv2d(3, 4, 3)", "nn.TransformerEncoderLayer(8, 2)", "nn.LSTM(3, 3)"])
def test_names_of_structures_are_the_same_in_every_process(layer: str) -> None:
    """Workers and later sessions find the name that this process gives; another shape has another."""
    code = (
        "import torch\nfrom torch import nn\nfrom paretopress.evaluators.structure import structure\n"
        f"from paretopress.search.calls import name_of\nprint(name_of(structure({layer}, ())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = name_of(structure(eval(layer), ()))
    assert done.stdout.strip() == own
    assert name_of(structure(nn.Linear(3, 3), ())) != own
