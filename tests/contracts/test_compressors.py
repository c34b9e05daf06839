"""What every technique must do, whoever wrote it: the same checks for all of them, on real models of every kind."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.base import Compressor, Params, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.encoding import Codec, Coder, Encoding, Float32
from paretopress.compressors.packing import pack_tensor, unpack_tensor
from paretopress.spaces.catalogue import techniques
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import LAYER_KINDS, Site
from paretopress.spaces.sites import find_sites
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task

KINDS = LAYER_KINDS | {"group", "heads", "block", "model"}
ENDS = ("gentlest", "strongest")


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


@dataclass(frozen=True)
class Case:
    """One technique at one site of one model."""

    technique: str
    model: str
    site: str
    kind: str

    @property
    def id(self) -> str:
        return f"{self.technique}-{self.model}-{self.kind}"


def own(name: str) -> Compressor:
    """Return a registered technique."""
    technique = techniques()[name]
    assert isinstance(technique, Compressor)
    return technique


def _cases() -> Iterator[Case]:
    for name in techniques():
        for model in MODELS:
            seen: set[str] = set()
            for site in context_of(model).sites.values():
                if site.kind not in seen and own(name).supports(site):
                    seen.add(site.kind)
                    yield Case(name, model, site.name, site.kind)


NAMES = sorted(techniques())
CASES = list(_cases())
SHRINKING = [c for c in CASES if own(c.technique).stage is not Stage.RECOVERY]
each_technique = pytest.mark.parametrize("name", NAMES)
each_case = pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
each_end = pytest.mark.parametrize("end", ENDS)


def params_of(technique: Compressor, site: Site, end: str) -> Params:
    """Return the first or the last value of every live knob; a training takes three steps."""
    params: Params = {}
    for knob in technique.knobs(site):
        if knob.alive(params):
            params[knob.name] = 3 if knob.name == "steps" else knob.values[0 if end == "gentlest" else -1]
    return params


def _apply(case: Case, params: Params) -> Draft:
    context = context_of(case.model)
    draft = Draft.of(context.task.model)
    apply_step(own(case.technique), draft, Step.of(case.site, case.technique, **params), context)
    return draft


@functools.cache
def applied(case: Case, end: str) -> Draft:
    """Return the draft after one step. Tests only look at it."""
    technique, site = own(case.technique), context_of(case.model).sites[case.site]
    return _apply(case, params_of(technique, site, end))


def stored(draft: Draft) -> dict[str, list[bytes]]:
    """Return what a file would hold of every parameter."""
    out: dict[str, list[bytes]] = {}
    for name, parameter in draft.model.named_parameters():
        _, parts = pack_tensor(parameter.detach(), draft.encoding(name))
        out[name] = [part.tobytes() for part in parts]
    return out


def size(draft: Draft) -> int:
    """Return the bytes of all parameters, each as it is stored."""
    return sum(len(part) for parts in stored(draft).values() for part in parts)


def outputs(model: nn.Module, task: Task) -> Tensor:
    """Return the model's outputs on the first validation batch."""
    args, _ = task.validation.first()
    with torch.no_grad():
        out: Tensor = model(*(a.clone() for a in args))
    return out


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two fp32 tensors hold the same bits."""
    return a.shape == b.shape and torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32))


def check_storable(draft: Draft) -> None:
    """Check that every encoded tensor lies on its grid, and comes back from its file bit for bit."""
    for name, encoding in draft.encodings.items():
        weight = draft.parameter(name).detach()
        assert same_bits(encoding.project(weight), weight), name
        assert encoding.mask is None or not weight[~encoding.mask].any(), name
        assert same_bits(unpack_tensor(*pack_tensor(weight, encoding)), weight), name


# --- what a technique says of itself --------------------------------------------------------------------


@each_technique
def test_it_says_what_it_is(name: str) -> None:
    """Tables, the command line and the documentation are made of these facts."""
    technique = own(name)
    assert technique.name == name
    assert name.replace("_", "").replace("-", "").isalnum()
    assert name == name.lower()
    assert technique.summary.strip()
    assert technique.paper.strip()
    assert "\n" not in technique.summary
    assert isinstance(technique.stage, Stage)
    assert technique.kinds
    assert technique.kinds <= KINDS
    assert technique.forbids <= set(NAMES) | {s.name.lower() for s in Stage}
    assert all(issubclass(f, Codec | Coder) for f in technique.formats)


@each_technique
def test_every_kind_it_declares_is_exercised_here(name: str) -> None:
    """A kind that no model of this suite has would be a claim that nothing checks."""
    assert {c.kind for c in CASES if c.technique == name} == own(name).kinds


@each_technique
def test_its_modules_can_be_built_from_their_attributes(name: str) -> None:
    """Files name an own module by its constructor's arguments, which must be attributes of the same names."""
    found = {m for c in CASES if c.technique == name for end in ENDS for m in applied(c, end).model.modules()}
    for kind in own(name).modules:
        examples = [m for m in found if type(m) is kind]
        assert examples, f"{kind.__name__} is declared but never used"
        accepted = inspect.signature(kind).parameters.values()
        named = [p.name for p in accepted if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for module in examples:
            kind(**{name: getattr(module, name) for name in named})


def test_each_technique_is_one_file_that_knows_no_other() -> None:
    """A technique can be read, tested and removed by itself."""
    homes = {type(own(n)).__module__: Path(inspect.getfile(type(own(n)))) for n in NAMES}
    assert len(homes) == len(NAMES)
    for module, path in homes.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join([*module.split(".")[: -node.level], *([node.module] if node.module else [])])
                imported = {base} | {f"{base}.{alias.name}" for alias in node.names}
                assert not imported & (set(homes) - {module}), f"{path.name} imports a sibling technique"


# --- parameters -----------------------------------------------------------------------------------------


@each_case
def test_its_knobs_are_consistent(case: Case) -> None:
    """Names are unique, every listed value is one that it takes, and a condition looks back at an earlier knob."""
    technique, site = own(case.technique), context_of(case.model).sites[case.site]
    knobs = technique.knobs(site)
    assert len({k.name for k in knobs}) == len(knobs)
    for place, knob in enumerate(knobs):
        for value in knob.values:
            knob.check(value)
        if knob.when is not None:
            earlier = {k.name: k for k in knobs[:place]}
            assert knob.when[1] in earlier[knob.when[0]].values


@each_case
def test_a_parameter_out_of_range_is_refused_by_name(case: Case) -> None:
    """Outside the bounds, not among the names, missing or unknown: each is a SettingError that says which."""
    technique, site = own(case.technique), context_of(case.model).sites[case.site]
    params = params_of(technique, site, "gentlest")
    with pytest.raises(SettingError, match="bogus"):
        _apply(case, {**params, "bogus": 1})
    for knob in technique.knobs(site):
        if knob.name not in params:
            continue
        wrong: list[str | float] = ["bogus"]
        if knob.bounds is not None:
            wrong += [knob.bounds[0] - 1, knob.bounds[1] + 1]
        for value in wrong:
            with pytest.raises(SettingError, match=f"{case.technique}.{knob.name}"):
                _apply(case, {**params, knob.name: value})
        with pytest.raises(SettingError, match=f"{case.technique}.{knob.name}"):
            _apply(case, {k: v for k, v in params.items() if k != knob.name})


@each_technique
def test_a_site_that_it_does_not_support_is_refused(name: str) -> None:
    """A recipe written by hand gets a message, not a broken model."""
    technique = own(name)
    refused = [(m, s) for m in MODELS for s in context_of(m).sites.values() if not technique.supports(s)]
    kinds: set[str] = set()
    for model, site in refused:
        if site.kind not in kinds:
            kinds.add(site.kind)
            with pytest.raises(SettingError, match=name):
                _apply(Case(name, model, site.name, site.kind), {})
    assert kinds


# --- what it does ---------------------------------------------------------------------------------------


@each_end
@each_case
def test_the_model_still_runs(case: Case, end: str) -> None:
    """At both ends of its range: finite outputs of the same shape, in eval mode, and the same again."""
    task, draft = context_of(case.model).task, applied(case, end)
    out = outputs(draft.model, task)
    assert out.shape == outputs(task.model, task).shape
    assert torch.isfinite(out).all()
    assert torch.equal(out, outputs(draft.model, task))
    assert not any(m.training for m in draft.model.modules())


@each_end
@each_case
def test_what_it_leaves_can_be_stored(case: Case, end: str) -> None:
    """Weights lie on their grid, files give them back bit for bit, and formats and modules are declared."""
    technique, draft = own(case.technique), applied(case, end)
    check_storable(draft)
    for encoding in draft.encodings.values():
        assert type(encoding.codec) in (Float32, *technique.formats)
        assert encoding.coder is None or type(encoding.coder) in technique.formats
    before = {type(m) for m in context_of(case.model).task.model.modules()}
    for kind in {type(m) for m in draft.model.modules()} - before:
        assert kind in technique.modules or kind.__module__.startswith("torch.nn."), kind


@each_case
def test_the_original_is_untouched(case: Case) -> None:
    """The task's model, its data and its sites are those of the next trial too, byte for byte."""
    context = context_of(case.model)
    task = context.task
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    batches = [t.clone() for args, target in task.calibration for t in (*args, target)]
    technique = own(case.technique)
    _apply(case, params_of(technique, context.sites[case.site], "strongest"))
    after = task.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], v) for k, v in after.items())
    assert all(p.grad is None for p in task.model.parameters())
    assert not task.model.training
    assert all(torch.equal(a, b) for a, b in zip(batches, (t for x, y in task.calibration for t in (*x, y))))


@each_case
def test_a_seed_repeats_it(case: Case) -> None:
    """The same step with the same seed stores the same bytes, and leaves the global generator alone."""
    again = params_of(own(case.technique), context_of(case.model).sites[case.site], "strongest")
    state = torch.random.get_rng_state()
    repeated = _apply(case, again)
    assert torch.equal(state, torch.random.get_rng_state())
    assert stored(repeated) == stored(applied(case, "strongest"))


@pytest.mark.parametrize("case", SHRINKING, ids=[c.id for c in SHRINKING])
def test_knobs_run_from_gentle_to_strong(case: Case) -> None:
    """The strongest setting stores less than the model as it was, and no more than the gentlest one."""
    original = size(Draft.of(context_of(case.model).task.model))
    gentle, strong = size(applied(case, "gentlest")), size(applied(case, "strongest"))
    assert strong <= gentle
    if own(case.technique).stage is Stage.CONTAINER:  # floats may not code any shorter, but never longer
        assert strong <= original
    else:
        assert strong < original


# --- together -------------------------------------------------------------------------------------------

NUMERIC = [n for n in NAMES if own(n).stage is Stage.NUMERIC]


@pytest.mark.parametrize("numeric", NUMERIC)
@pytest.mark.parametrize("model", MODELS)
def test_all_stages_stack(model: str, numeric: str) -> None:
    """Remove, factorise, prune, quantise, code and train, one after the other: the result runs and can be stored."""
    context = context_of(model)
    draft = Draft.of(context.task.model)
    taken: dict[str, list[Compressor]] = {}
    for name, technique in techniques().items():  # in stage order
        if technique.stage is Stage.TOPOLOGY or (technique.stage is Stage.NUMERIC and name != numeric):
            continue
        for site in context.sites.values():
            here = taken.setdefault(site.name, [])
            if technique.supports(site) and all(_stack(own(name), other) for other in here):
                params = params_of(own(name), site, "strongest")
                apply_step(own(name), draft, Step.of(site.name, name, **params), context)
                here.append(own(name))
    check_storable(draft)
    assert torch.isfinite(outputs(draft.model, context.task)).all()
    assert size(draft) < size(Draft.of(context.task.model))
    assert any(e.mask is not None and not isinstance(e.codec, Float32) for e in draft.encodings.values())


def _stack(technique: Compressor, other: Compressor) -> bool:
    names = {technique.name, technique.stage.name.lower()}, {other.name, other.stage.name.lower()}
    return technique.stage != other.stage and not (names[0] & other.forbids or names[1] & technique.forbids)


def test_an_encoding_of_nothing_is_plain_floats() -> None:
    """Where no technique acts, a tensor is stored as it is."""
    weight = torch.randn(3, 4)
    assert same_bits(unpack_tensor(*pack_tensor(weight, Encoding())), weight)
