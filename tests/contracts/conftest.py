"""Small real models with every kind of site, and every technique at every kind of site it supports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.base import Compressor, Params, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.spaces.catalogue import techniques
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import Site
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task


class Residual(nn.Module):
    """A residual block with a depthwise and a grouped convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.grouped(self.depthwise(inner))))


class Images(nn.Module):
    """A residual network for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block1, self.block2 = Residual(8), Residual(8)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(F.relu(self.norm(self.stem(x)))))
        out: Tensor = self.head(F.relu(self.down(x)).mean((2, 3)))
        return out


class Signals(nn.Module):
    """One-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 8, 5, padding=2)
        self.norm = nn.BatchNorm1d(8)
        self.conv2 = nn.Conv1d(8, 10, 3, stride=2, padding=1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        out: Tensor = self.head(F.relu(self.conv2(x)).mean(2))
        return out


class Encoder(nn.Module):
    """A transformer encoder over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 4, 24, dropout=0.1, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x.mean(1))
        return out


class Recurrent(nn.Module):
    """An LSTM classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0].mean(1))
        return out


class Language(nn.Module):
    """A next-token model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.mix = nn.Linear(12, 12)
        self.out = nn.Linear(12, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.out(F.relu(self.mix(self.gru(self.embed(tokens))[0])))
        return scores.transpose(1, 2)


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def _floats(*shape: int) -> Tensor:
    return torch.randn(8, *shape)


def _tokens(*shape: int) -> Tensor:
    return torch.randint(0, 20, (8, *shape))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[int, ...]]] = {
    "images": (Images, lambda: _floats(3, 8, 8), ()),
    "signals": (Signals, lambda: _floats(2, 12), ()),
    "perceptron": (_perceptron, lambda: _floats(3, 6), ()),
    "encoder": (Encoder, lambda: _tokens(5), ()),
    "recurrent": (Recurrent, lambda: _floats(5, 6), ()),
    "language": (Language, lambda: _tokens(5), (5,)),
}


@functools.cache
def context_of(model: str) -> Context:
    """Return a task with that model, and its sites."""
    build, inputs, target = MODELS[model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build()
        for module in net.modules():  # statistics and affine terms as of a trained network
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (module.weight.data, module.get_buffer("running_var")):
                    tensor.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)
        batches = [(inputs(), torch.randint(0, 4, (8, *target))) for _ in range(2)]
        task = Task(net, batches, train=batches)
    sites, _ = find_sites(task.model, task.example)
    return Context(task, {s.name: s for s in sites}, seed=5)


def _params_of(technique: Compressor, site: Site, end: str) -> Params:
    """Return the first or the last value of every live knob; a training takes three steps."""
    params: Params = {}
    for knob in technique.knobs(site):
        if knob.alive(params):
            params[knob.name] = 3 if knob.name == "steps" else knob.values[0 if end == "gentlest" else -1]
    return params


@dataclass(frozen=True)
class Case:
    """One technique at one site of one model."""

    name: str
    model: str
    where: str

    @property
    def technique(self) -> Compressor:
        found = techniques()[self.name]
        assert isinstance(found, Compressor)
        return found

    @property
    def context(self) -> Context:
        return context_of(self.model)

    @property
    def site(self) -> Site:
        return self.context.sites[self.where]

    def params(self, end: str) -> Params:
        return _params_of(self.technique, self.site, end)

    def apply(self, params: Params) -> Draft:
        """Return a new draft with this one step."""
        draft = Draft.of(self.context.task.model)
        apply_step(self.technique, draft, Step.of(self.where, self.name, **params), self.context)
        self.technique.settle(draft, self.context, self.context.task.calibration)
        return draft

    @functools.cache  # noqa: B019 - a case lives as long as the tests do
    def applied(self, end: str) -> Draft:
        """Return the draft at one end of the range, the same every time: for tests that only look at it."""
        return self.apply(self.params(end))


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Return every technique at the first site of every kind it supports, in every model."""

    def found() -> Iterator[Case]:
        for name in techniques():
            for model in MODELS:
                kinds: set[str] = set()
                for site in context_of(model).sites.values():
                    case = Case(name, model, site.name)
                    if site.kind not in kinds and case.technique.supports(site):
                        kinds.add(site.kind)
                        yield case

    return tuple(found())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a ``case`` on all of them."""
    if "case" in metafunc.fixturenames:
        cases = all_cases()
        metafunc.parametrize("case", cases, ids=[f"{c.name}-{c.model}-{c.site.kind}" for c in cases])


@pytest.fixture(scope="session")
def cases() -> tuple[Case, ...]:
    """Every technique at every kind of site it supports."""
    return all_cases()


@pytest.fixture(scope="session")
def params_of() -> Callable[[Compressor, Site, str], Params]:
    """How to get the first or the last value of every live knob."""
    return _params_of


@pytest.fixture(params=list(MODELS))
def context(request: pytest.FixtureRequest) -> Context:
    """Each model's task and sites in turn."""
    return context_of(request.param)


@pytest.fixture(scope="session")
def refused() -> tuple[Case, ...]:
    """Every technique at every site that it doesn't support."""
    every = (Case(n, m, s) for n in techniques() for m in MODELS for s in context_of(m).sites)
    return tuple(c for c in every if not c.technique.supports(c.site))
