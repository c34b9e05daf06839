"""The latency table of deployed files: what is measured, what is known, what is taken on trust."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopress.evaluators.latency import Latency
from paretopress.search.costs import CostModel
from paretopress.search.deploy import layer_latency
from paretopress.search.deploy.integer_latency import IntegerLatency
from paretopress.search.deploy.layer_latency import DeployedLatency
from paretopress.search.deploy.node_times import Marked, Times
from paretopress.search.effects import ON_INTEGERS, Effect
from paretopress.search.latency_check import check_latency
from paretopress.search.latency_table import LatencyTable
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.search.trial import Bench
from paretopress.spaces.choices import Choices
from paretopress.spaces.decision import Decision, Option
from paretopress.spaces.errors import ArtifactError
from paretopress.spaces.knob import Knob
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task


class Residual(nn.Module):
    """A stem, a block that may go, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.block = Block()
        self.fc = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.block(torch.relu(self.stem(x))).mean((2, 3)))
        return out


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(24, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 24, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(x))))


@pytest.fixture(scope="module")
def profiler() -> Profiler:
    """The profile of a network that can lose channels, a block, rank, and run on integers, but for latency."""
    torch.manual_seed(0)
    data = [(torch.randn(16, 3, 12, 12), torch.arange(16) % 4)]
    task = Task(Residual().eval(), data)
    ratios = {"ratio": [0.25, 0.5], "criterion": "l2"}
    space = Space.from_task(
        task, {"channels": ratios, "depth": {}, "svd": {"fraction": [0.3]}, "int8": {"bits": [7, 4]}}
    )
    return Profiler(task, space, ProfileStore(task, None))


@pytest.fixture(scope="module")
def profile(profiler: Profiler) -> Profile:
    """Its effects."""
    return profiler.measure(100_000)


@pytest.fixture(scope="module")
def measured(
    profiler: Profiler, profile: Profile, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LatencyTable, Path]:
    """The table, and where it is kept."""
    folder = tmp_path_factory.mktemp("tables")
    source = DeployedLatency(profiler.survey, Latency(), folder)
    shares: list[float] = []
    assert source.estimate(len(source.missing(profile.choices, profile.effects))) > 0
    table = source.table(profile.choices, profile.effects, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return table, folder


def keys(profile: Profile, technique: str) -> list[str]:
    """Return the keys of a technique's settings that change what is computed."""
    found = zip(profile.choices.decisions, profile.choices.settings, profile.effects)
    return [
        LatencyTable.key(decision.site, effect)
        for decision, settings, effects in found
        for setting, effect in zip(settings, effects)
        if setting.technique == technique and effect.work
    ]


def test_every_setting_that_changes_the_work_is_in_the_table(
    profile: Profile, measured: tuple[LatencyTable, Path]
) -> None:
    """Channels, rank and integers are timed, not guessed; fewer channels take less of their own layers' time."""
    table, _ = measured
    assert set(table.units) == {"stem", "block.a", "block.b", "fc"}
    assert 0.5 < sum(table.units.values()) <= 1.000001
    timed = {key for name in ("channels", "svd", "int8", "depth") for key in keys(profile, name)}
    assert table.left.keys() == timed
    assert not table.guessed
    for key in keys(profile, "channels"):
        assert table.left[key].get("block.a", 1.0) > 0
    assert {"block.a"} < set().union(*(table.left[k] for k in keys(profile, "int8")))


def test_what_is_removed_takes_no_time(profile: Profile, measured: tuple[LatencyTable, Path]) -> None:
    """A block that goes is known without a measurement, and leaves the others as they are."""
    [key] = keys(profile, "depth")
    assert measured[0].left[key] == {"block.a": 0.0, "block.b": 0.0}


def test_bits_of_integers_take_the_same_time(profile: Profile) -> None:
    """They only pack the file: one measurement serves them all."""
    found = keys(profile, "int8")
    assert len(set(found)) * 2 == len(found)
    assert all(key.endswith(ON_INTEGERS) for key in found)


def test_conversions_are_paid_between_neighbours(profile: Profile, measured: tuple[LatencyTable, Path]) -> None:
    """Where one side runs on integers and the other doesn't, and nowhere else."""
    table, _ = measured
    assert table.borders
    for path, (_, readers) in table.borders.items():
        assert readers
        assert path not in readers


def test_other_techniques_are_timed_beside_integers(profile: Profile, measured: tuple[LatencyTable, Path]) -> None:
    """Every one that makes layers smaller, for all of its settings, and nothing else."""
    table, _ = measured
    assert table.alongside.keys() == {*keys(profile, "channels"), *keys(profile, "svd")}
    assert all(share > 0 for shares in table.alongside.values() for share in shares.values())
    assert {"block.a", "block.b"} <= set().union(*table.alongside.values())


def test_settings_between_those_that_were_timed_are_between_them() -> None:
    """The mildest comes first, and what computes the same is timed once; what no model had, its neighbours tell."""
    sites = [Site("a", "linear", ("a",)), Site("g", "group", ("a",))]
    ratios = Knob("ratio", tuple(n / 10 for n in range(9, 0, -1)))
    criterion = Knob("criterion", ("l1", "l2"), ordered=False)
    decisions = [
        Decision("g", Stage.STRUCTURE, (Option("channels", (ratios, criterion)),)),
        Decision("a", Stage.NUMERIC, (Option("int8", (Knob("bits", (7, 4)),)),)),
    ]
    choices = Choices(Space(sites, decisions))
    kept = [1 - float(dict(s.params)["ratio"]) for s in choices.settings[0]]
    effects = (
        tuple(Effect(shares={"a": (k, k, 1.0)}, work=f"{k:.1f}") for k in kept),
        tuple(Effect(shares={"a": (0.2, 1.0, 0.25)}, work=ON_INTEGERS) for _ in choices.settings[1]),
    )
    left = {f"g/{k:.1f}": {"a": k} for k in kept} | {f"a/{ON_INTEGERS}": {"a": 0.5}}

    def beside(recipe: Recipe) -> list[Times]:
        [step] = recipe.at("g")
        share = 0.5 * (0.1 + 0.9 * (1 - float(step.options["ratio"])))
        tried.append(float(step.options["ratio"]))
        return [Times({"a": seconds}, 1.0) for seconds in (2.0, 2.0 * share)]

    tried: list[float] = []
    own = IntegerLatency({s.name: s for s in sites}, lambda recipe: recipe, beside, lambda _: 1.0)  # type: ignore[arg-type] # no file
    steps = {"a": (choices.settings[1][0], f"a/{ON_INTEGERS}")}
    found = own.alongside(steps, choices, effects, left)
    assert tried == sorted(tried) == [0.1, 0.4, 0.6, 0.9]
    assert {key: shares["a"] for key, shares in found.items()} == pytest.approx(
        {f"g/{k:.1f}": 0.1 + 0.9 * k for k in kept}, abs=1e-3
    )


def test_integers_are_weighed_by_whole_passes() -> None:
    """Notes say that integers halve each layer; passes say that they save a fifth as much, and what mixing costs: the
    table follows the passes, and no model is timed twice.
    """
    names = [str(n) for n in range(8)]
    sites = {name: Site(name, "linear", (name,)) for name in names}
    choices = Choices(Space(sites.values(), [Decision(n, Stage.NUMERIC, (Option("int8"),)) for n in names]))
    steps = {name: (choices.settings[place][0], name) for place, name in enumerate(names)}
    readers = {a: (b,) for a, b in pairwise(names)}
    made: list[frozenset[str]] = []

    def taken(integer: frozenset[str]) -> float:
        differ = sum((a in integer) != (b in integer) for a, b in pairwise(names))
        return 1 - 0.1 * len(integer) / len(names) + 0.02 * differ

    def file(recipe: Recipe) -> Marked:
        made.append(frozenset(step.site for step in recipe.steps))
        return Marked(bytes(len(made) - 1), (), readers)

    def beside(*files: Marked) -> list[Times]:
        def noted(integer: frozenset[str]) -> dict[str, float]:
            return {a: (0.5 if a in integer else 1) / 8 + 0.02 * ((a in integer) != (b in integer)) for a, b in pairs}

        pairs = [*pairwise(names), (names[-1], names[-1])]
        own = [made[len(f.data)] for f in files]
        return [Times(noted(i), taken(i)) for i in (frozenset[str](), *own)]

    found = IntegerLatency(sites, file, beside, lambda own: taken(made[len(own.data)]))
    units = dict.fromkeys(names, 1 / 8)
    left, borders = found.weighed(steps, units, {name: {name: 0.5} for name in names})
    assert len(set(made)) == len(made) > 3
    saved = sum(units[n] * (1 - left[n][n]) for n in names)
    assert abs(saved - 0.1) < 0.25 * abs(0.5 - 0.1)
    assert borders.keys() == readers.keys()
    assert all(0.01 < cost < 0.03 and own == readers[path] for path, (cost, own) in borders.items())


def test_what_is_known_is_not_measured_again(
    profiler: Profiler, profile: Profile, measured: tuple[LatencyTable, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second search of a model starts at once, on this machine and for this runtime and batch only."""
    table, folder = measured
    monkeypatch.setattr(layer_latency, "node_times", lambda *_: pytest.fail("timed again"))
    again = DeployedLatency(profiler.survey, Latency(), folder)
    assert again.missing(profile.choices, profile.effects) == {}
    assert again.estimate(0) == 0
    assert again.table(profile.choices, profile.effects) == table
    other = DeployedLatency(profiler.survey, Latency(32), folder)
    assert other.missing(profile.choices, profile.effects)


def test_an_interrupted_table_goes_on(profiler: Profiler, profile: Profile, tmp_path: Path) -> None:
    """What was timed before an interruption is kept."""

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DeployedLatency(profiler.survey, Latency(), tmp_path).table(profile.choices, profile.effects, stop)
    left = DeployedLatency(profiler.survey, Latency(), tmp_path).missing(profile.choices, profile.effects)
    assert 0 < len(left) < len({k for name in ("channels", "svd", "int8", "depth") for k in keys(profile, name)})


def test_a_model_that_cannot_be_made_is_divided_until_it_can(
    profiler: Profiler, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site that spoils the others' model costs that site its time, which is guessed by MACs; nothing else."""
    source = DeployedLatency(profiler.survey, Latency(), tmp_path)
    whole = source._file

    def shy(recipe: object) -> object:
        if "fc: int8" in str(recipe):
            raise ArtifactError("not this one")
        return whole(recipe)  # type: ignore[arg-type] # it is a recipe

    monkeypatch.setattr(source, "_file", shy)
    table = source.table(profile.choices, profile.effects)
    assert all(key in table.left for key in keys(profile, "int8"))
    assert any(table.left[key] for key in keys(profile, "int8"))


def test_the_tables_error_is_that_of_deployed_files(
    profiler: Profiler, profile: Profile, measured: tuple[LatencyTable, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some recipes are exported and timed for real beside what was predicted of them."""
    monkeypatch.setattr("paretopress.search.latency_check.RECIPES", 3)
    monkeypatch.setattr("paretopress.search.latency_check.SECONDS", 0.05)
    table, folder = measured
    source = DeployedLatency(profiler.survey, Latency(), folder)
    checked = check_latency(replace(profile, latency=table), source, Bench(profiler.task, profiler.space.sites, (), ()))
    assert checked.latency is not None
    assert len(checked.latency.checked) == 3
    costs = CostModel(checked)
    assert costs.metrics[-1] == "latency"
    assert source.is_checked(profile.choices)


def test_large_linear_layers_of_4_bits_are_timed(tmp_path: Path) -> None:
    """The runtime computes with their weights as they are where that is faster; other bits are unfolded, and small
    layers too, so that there is nothing to time.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    task = Task(model.eval(), [(torch.randn(16, 64), torch.arange(16) % 10)])
    bits = {"bits": [8, 4], "granularity": "channel"}
    space = Space.from_task(task, {"integer": {**bits, "layers": ["2", "4"]}})
    profiler = Profiler(task, space, ProfileStore(task, None))
    found = profiler.measure(100_000)
    [key] = keys(found, "integer")
    assert key.startswith("2/")
    table = DeployedLatency(profiler.survey, Latency(), tmp_path).table(found.choices, found.effects)
    assert key in table.left
    assert not table.is_guess("2", next(e for own in found.effects for e in own if e.work))
    assert "4" not in table.left[key]
