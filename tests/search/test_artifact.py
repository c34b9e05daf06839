"""Saved models: bit-identical after loading in a fresh process, without pickle, refused when tampered with."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.draft import Draft
from paretopress.search import container
from paretopress.search.artifact import FILE, load, loads
from paretopress.search.graph import read_graph, write_graph
from paretopress.search.modules import build, describe
from paretopress.search.saving import dumps
from paretopress.spaces.attention import convert_attention
from paretopress.spaces.errors import ArtifactError, SettingError
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.tracing import UntraceableError


class Functional(nn.Module):
    """Uses functions, methods, slices, shapes, a buffer, a parameter of its own and a constant made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding="same", padding_mode="circular", bias=False)
        self.norm = nn.GroupNorm(2, 6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.register_buffer("shift", torch.rand(6, 1, 1), persistent=False)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 5), nn.Dropout(0.5), nn.PReLU(5))

    def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
        x = F.leaky_relu(self.norm(self.conv(x)), 0.2) * self.scale + self.shift
        x = torch.cat([x[:, :3].relu(), -x[:, 3:]], dim=1) / torch.tensor(factor)
        x = F.adaptive_avg_pool2d(x, (4, 4)).view(x.shape[0], 6, -1).transpose(1, 2)
        return self.head(x.contiguous())


class Recurrent(nn.Module):
    """Embedding -> LSTM -> tied output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True, bidirectional=False)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(tokens))[0])


class TwoInputs(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(self.a(x), self.b(y))


class Attending(nn.Module):
    """torch's own attention, in the other order of dimensions and masked."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.out(mixed.mean(0))


class Branching(nn.Module):
    """Its control flow depends on the data: it can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        return self.gru(self.fc(x)[:, None])[0][:, 0]


def transformer() -> nn.Module:
    """Return torch's own encoder, whose forward can't be traced."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(16 * 3, 4))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "functional": (Functional, (torch.randn(3, 1, 8, 8),)),
    "recurrent": (Recurrent, (torch.randint(0, 11, (3, 5)),)),
    "attending": (Attending, (torch.randn(5, 3, 16),)),
    "two inputs": (TwoInputs, (torch.randn(3, 4), torch.randn(3, 5))),
    "branching": (Branching, (torch.randn(3, 4),)),
    "transformer": (transformer, (torch.randn(3, 3, 16),)),
    "single layer": (lambda: nn.Linear(4, 2), (torch.randn(3, 4),)),
}


def saved(name: str) -> tuple[nn.Module, bytes, tuple[Tensor, ...], str]:
    """Return a case's model, its file, its inputs and why its class is needed."""
    make, inputs = CASES[name]
    torch.manual_seed(0)
    model = convert_attention(make()).eval()
    written = dumps(Draft.of(model), model, Recipe(), inputs)
    return model, written.data, inputs, written.needs_class


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_equal_after_loading(name: str) -> None:
    """Whatever the model, the loaded one computes the same bits, at another batch size too."""
    model, data, inputs, needs_class = saved(name)
    loaded = loads(data, model if needs_class else None)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), model(*inputs))
        single = tuple(x[:1] for x in inputs)
        assert torch.equal(loaded(*single), model(*single))


@pytest.mark.parametrize("name", ["functional", "recurrent", "attending", "two inputs"])
def test_traced_models_load_without_their_class(name: str, tmp_path: Path) -> None:
    """A fresh process that has never seen the class gets the same outputs."""
    model, data, inputs, needs_class = saved(name)
    assert needs_class == ""
    (tmp_path / FILE).write_bytes(data)
    torch.save(inputs, tmp_path / "inputs.pt")
    script = (
        "import sys, torch; from paretopress.search import load\n"
        "m = load(sys.argv[1]); x = torch.load(sys.argv[1] + '/inputs.pt')\n"
        "torch.set_grad_enabled(False); torch.save(m(*x), sys.argv[1] + '/out.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=tmp_path)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "out.pt"), model(*inputs))


def test_what_needs_its_class_says_so() -> None:
    """Without the original model the message gives the reason and what to pass."""
    _, data, _, needs_class = saved("branching")
    assert "traced" in needs_class
    with pytest.raises(ArtifactError, match="Pass model="):
        loads(data)


def test_ties_are_kept_and_stored_once() -> None:
    """A weight that two layers share is one tensor in the file and one parameter after loading."""
    _, data, _, _ = saved("recurrent")
    loaded = loads(data)
    assert loaded.get_parameter("embed.weight") is loaded.get_parameter("out.weight")
    document, _ = container.read(data)
    assert sum("tied" in spec for _, spec, _ in document["tensors"]) == 1


def test_changed_layers_of_an_untraceable_model_are_rebuilt() -> None:
    """Where only the class knows the forward pass, layers that were replaced come back in their place."""
    model = Branching().eval()
    draft = Draft.of(model)
    draft.replace_module("fc", nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4)))
    data = dumps(draft, model, Recipe()).data
    loaded = loads(data, copy.deepcopy(model))
    x = torch.randn(5, 4)
    assert torch.equal(loaded(x), draft.model(x))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in draft.model.parameters())


def test_the_recipe_is_in_the_file() -> None:
    """The file says how it was made."""
    recipe = Recipe.of([Step.of("fc", "svd", fraction=0.5)])
    model = TwoInputs().eval()
    document, _ = container.read(dumps(Draft.of(model), model, recipe, (torch.zeros(1), torch.zeros(1))).data)
    assert Recipe.from_json(document["recipe"]) == recipe


def test_half_precision_and_integer_tensors_survive() -> None:
    """Untouched tensors of other types are stored in their own type."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).to(torch.bfloat16).eval()
    loaded = loads(dumps(Draft.of(model), model, Recipe()).data)
    x = torch.randn(2, 3).to(torch.bfloat16)
    assert loaded(x).dtype == torch.bfloat16
    assert torch.equal(loaded(x), model(x))


def edited(data: bytes, change: Callable[[dict], None]) -> bytes:
    """Return the file with an edited document and a valid checksum, as an attacker would write it."""
    document, reader = container.read(data)
    change(document)
    writer = container.PartWriter()
    for _, spec, references in document["tensors"]:
        if "tied" not in spec:
            for reference in references:
                writer.add(reader.take(reference))
    return container.write(document, writer)


HOSTILE: dict[str, Callable[[dict], None]] = {
    "a function outside the allow-list": lambda d: d["structure"]["nodes"].insert(
        1, ["call_function", "f", "torch.load", ["/etc/passwd"], {"d": {}}]
    ),
    "a shell": lambda d: d["structure"]["nodes"].insert(1, ["call_function", "f", "os.system", ["true"], {"d": {}}]),
    "a private method": lambda d: d["structure"]["nodes"].insert(
        1, ["call_method", "f", "__reduce__", [{"n": "x0"}], {"d": {}}]
    ),
    "an attribute walk": lambda d: d["structure"]["nodes"].insert(
        1, ["call_function", "f", "getattr", [{"n": "x0"}, "__class__"], {"d": {}}]
    ),
    "code in a node's name": lambda d: d["structure"]["nodes"][0].__setitem__(1, "x0;import os"),
    "code in a keyword": lambda d: d["structure"]["nodes"][1].__setitem__(4, {"d": {"a=1);import os#": 1}}),
    "code in a path": lambda d: d["structure"]["modules"].__setitem__("a');import os#", ["ReLU", {}]),
    "a class outside the allow-list": lambda d: d["structure"]["modules"].__setitem__("x", ["subprocess.Popen", {}]),
    "a huge layer": lambda d: d["structure"]["modules"]["a"].__setitem__(
        1, {"in_features": 10**12, "out_features": 10**12}
    ),
    "strange arguments": lambda d: d["structure"]["modules"]["a"].__setitem__(1, {"device": "cuda"}),
    "a missing tensor": lambda d: d["tensors"].pop(),
    "a huge shape": lambda d: d["tensors"][0][1].__setitem__("raw", [10**9, 10**9]),
    "no structure": lambda d: d.pop("structure"),
    "another kind": lambda d: d["structure"].__setitem__("kind", "pickle"),
    "deep nesting": lambda d: d["structure"]["nodes"][1].__setitem__(3, json.loads("[" * 900 + "]" * 900)),
    "unknown input": lambda d: d["structure"]["nodes"][1].__setitem__(3, [{"n": "nobody"}]),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_document_is_refused(attack: str) -> None:
    """Edits that reach for code, memory or missing parts end in ArtifactError."""
    _, data, _, _ = saved("two inputs")
    with pytest.raises(ArtifactError):
        loads(edited(data, HOSTILE[attack]))


@pytest.mark.parametrize(("arguments", "named"), [((None,), "path"), ((3,), "path"), (("x", "MyModel"), "model")])
def test_what_cannot_be_loaded_from_is_named(arguments: Any, named: str) -> None:
    """The argument is to blame, not the file."""
    with pytest.raises(SettingError, match=f"^{named} = "):
        load(*arguments)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message holds the path."""
    with pytest.raises(ArtifactError, match="there is no such model file"):
        load(tmp_path)


def test_a_model_with_a_strange_argument_is_untraceable() -> None:
    """A graph that a file can't hold is refused when writing, with the reason."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).to(torch.device("cpu"))

    with pytest.raises(UntraceableError, match="device"):
        write_graph(Odd().eval(), 1)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False, padding_mode="reflect"),
        nn.ConvTranspose1d(4, 2, 3, output_padding=1, stride=2),
        nn.BatchNorm1d(5, eps=1e-3, momentum=None, affine=False),
        nn.LayerNorm((3, 4), elementwise_affine=False),
        nn.Embedding(7, 3, padding_idx=2),
        nn.LSTM(3, 4, 2, bias=False, batch_first=True, bidirectional=True, proj_size=2),
        nn.RNN(3, 4, nonlinearity="relu"),
        nn.AdaptiveAvgPool2d((1, None)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Softmax(dim=1),
        nn.GELU("tanh"),
        nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True),
        nn.Bilinear(2, 3, 4),
    ],
    ids=lambda m: type(m).__name__,
)
def test_layers_are_described_by_their_arguments(module: nn.Module) -> None:
    """A layer and the one built from its description have the same settings and shapes."""
    description = json.loads(json.dumps(describe(module)))
    again = build(description)
    assert again.extra_repr() == module.extra_repr()
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == shapes


def test_graph_text_is_stable() -> None:
    """Writing the same model twice gives the same JSON, and reading it gives the same graph."""
    model = TwoInputs().eval()
    first, tensors = write_graph(model, 2)
    again, _ = write_graph(model, 2)
    assert json.dumps(first) == json.dumps(again)
    assert [n.name for n in read_graph(first, tensors).graph.nodes] == [n[1] for n in first["nodes"]]


def test_another_model_than_the_original_is_told_apart() -> None:
    """Given a model that the file was not made from, the message says that, and not that the file is damaged."""
    _, data, _, _ = saved("branching")
    with pytest.raises(ArtifactError, match="not the one that this file was made from"):
        loads(data, nn.Linear(3, 3))
    model = Branching().eval()
    draft = Draft.of(model)
    for path in [name for name, _ in model.named_children()]:  # the file brings every layer with it
        draft.replace_module(path, nn.Sequential(copy.deepcopy(model.get_submodule(path))))
    other = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ArtifactError, match=r"not the one .* \(it has 0\.weight, 0\.bias, and the file has not\)"):
        loads(dumps(draft, model, Recipe()).data, other)
