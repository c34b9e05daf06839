"""What every technique must do, whoever wrote it: the same checks for all of them, on real models of every kind."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from paretopress.compressors.base import Compressor, Params, apply_step
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.encoding import Codec, Coder, Encoding, Float32
from paretopress.compressors.packing import pack_tensor, unpack_tensor
from paretopress.search.modules import build, describe
from paretopress.spaces.catalogue import techniques
from paretopress.spaces.errors import SettingError
from paretopress.spaces.recipe import Step
from paretopress.spaces.site import LAYER_KINDS
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task

Case = Any  # a technique at a site of a model, from conftest.py, which can't be imported
KINDS = LAYER_KINDS | {"group", "heads", "block", "model"}
ENDS = ("gentlest", "strongest")
NAMES = sorted(techniques())
each_technique = pytest.mark.parametrize("name", NAMES)
each_end = pytest.mark.parametrize("end", ENDS)


def own(name: str) -> Compressor:
    """Return a registered technique."""
    technique = techniques()[name]
    assert isinstance(technique, Compressor)
    return technique


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


def shapes(draft: Draft) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer."""
    return {name: tuple(tensor.shape) for name, tensor in draft.model.state_dict().items()}


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
def test_every_kind_it_declares_is_exercised_here(name: str, cases: tuple[Case, ...]) -> None:
    """A kind that no model of this suite has would be a claim that nothing checks."""
    assert {c.site.kind for c in cases if c.name == name} == own(name).kinds


@each_technique
def test_its_modules_can_be_built_from_their_attributes(name: str, cases: tuple[Case, ...]) -> None:
    """Files name an own module by its constructor's arguments, which are attributes of the same names."""
    found = {m for c in cases if c.name == name for end in ENDS for m in c.applied(end).model.modules()}
    for kind in own(name).modules:
        examples = [m for m in found if type(m) is kind]
        assert examples, f"{kind.__name__} is declared but never used"
        for module in examples:
            described = describe(module)
            assert described, f"{kind.__name__} can't be described by its attributes"
            assert type(build(described)) is kind


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


def test_its_knobs_are_consistent(case: Case) -> None:
    """Names are unique, every listed value is one that it takes, and a condition looks back at an earlier knob."""
    knobs = case.technique.knobs(case.site)
    assert len({k.name for k in knobs}) == len(knobs)
    for place, knob in enumerate(knobs):
        for value in knob.values:
            knob.check(value)
        if knob.when is not None:
            earlier = {k.name: k for k in knobs[:place]}
            assert knob.when[1] in earlier[knob.when[0]].values


def test_a_parameter_out_of_range_is_refused_by_name(case: Case) -> None:
    """Outside the bounds, not among the names, missing or unknown: each is a SettingError that says which."""
    params: Params = case.params("gentlest")
    with pytest.raises(SettingError, match="bogus"):
        case.apply({**params, "bogus": 1})
    for knob in case.technique.knobs(case.site):
        if knob.name not in params:
            continue
        wrong: list[str | float] = ["bogus"]
        if knob.bounds is not None:
            wrong += [knob.bounds[0] - 1, knob.bounds[1] + 1]
        for value in wrong:
            with pytest.raises(SettingError, match=f"{case.name}.{knob.name}"):
                case.apply({**params, knob.name: value})
        with pytest.raises(SettingError, match=f"{case.name}.{knob.name}"):
            case.apply({k: v for k, v in params.items() if k != knob.name})


@each_technique
def test_a_site_that_it_does_not_support_is_refused(name: str, refused: tuple[Case, ...]) -> None:
    """A recipe written by hand gets a message, not a broken model."""
    by_kind = {case.site.kind: case for case in refused if case.name == name}
    assert by_kind
    for case in by_kind.values():
        with pytest.raises(SettingError, match=name):
            case.apply({})


# --- what it does ---------------------------------------------------------------------------------------


@each_end
def test_the_model_still_runs(case: Case, end: str) -> None:
    """At both ends of its range: finite outputs of the same shape, in eval mode, and the same again."""
    task, draft = case.context.task, case.applied(end)
    out = outputs(draft.model, task)
    assert out.shape == outputs(task.model, task).shape
    assert torch.isfinite(out).all()
    assert torch.equal(out, outputs(draft.model, task))
    assert not any(m.training for m in draft.model.modules())


@each_end
def test_what_it_leaves_can_be_stored(case: Case, end: str) -> None:
    """Weights lie on their grid, files give them back bit for bit, and formats and modules are declared."""
    technique, draft = case.technique, case.applied(end)
    check_storable(draft)
    for encoding in draft.encodings.values():
        assert type(encoding.codec) in (Float32, *technique.formats)
        assert encoding.coder is None or type(encoding.coder) in technique.formats
    before = {type(m) for m in case.context.task.model.modules()}
    new = {type(m) for m in draft.model.modules() if not isinstance(m, fx.GraphModule)} - before
    for kind in new:
        assert kind in technique.modules or kind.__module__.startswith("torch.nn."), kind


def test_the_original_is_untouched(case: Case) -> None:
    """The task's model, its data and its sites are those of the next trial too, byte for byte."""
    task = case.context.task
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    batches = [t.clone() for args, target in task.calibration for t in (*args, target)]
    case.apply(case.params("strongest"))
    after = task.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], v) for k, v in after.items())
    assert all(p.grad is None for p in task.model.parameters())
    assert not task.model.training
    assert all(torch.equal(a, b) for a, b in zip(batches, (t for x, y in task.calibration for t in (*x, y))))


def test_a_seed_repeats_it(case: Case) -> None:
    """The same step with the same seed stores the same bytes, and leaves the global generator alone."""
    state = torch.random.get_rng_state()
    repeated = case.apply(case.params("strongest"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert stored(repeated) == stored(case.applied("strongest"))


def test_knobs_run_from_gentle_to_strong(case: Case) -> None:
    """The strongest setting stores less than the model as it was, and no more than the gentlest one; training
    keeps every shape.
    """
    original, gentle, strong = Draft.of(case.context.task.model), case.applied("gentlest"), case.applied("strongest")
    if case.technique.stage is Stage.RECOVERY:
        assert shapes(strong) == shapes(original)
        return
    assert size(strong) <= size(gentle)
    if case.technique.stage is Stage.CONTAINER:  # floats may not code any shorter, but never longer
        assert size(strong) <= size(original)
    else:
        assert size(strong) < size(original)


# --- together -------------------------------------------------------------------------------------------

NUMERIC = [n for n in NAMES if own(n).stage is Stage.NUMERIC]


@pytest.mark.parametrize("numeric", NUMERIC)
def test_all_stages_stack(context: Context, numeric: str, params_of: Callable[..., Params]) -> None:
    """Remove, factorise, prune, quantise, code and train, one after the other: the result runs and can be stored."""
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
