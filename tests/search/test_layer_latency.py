"""The latency table: every module has its share, and settings leave what their own modules were measured to take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.base import LayerCompressor, register
from paretopress.compressors.draft import Context
from paretopress.evaluators.latency import Latency
from paretopress.search import latency_source, layer_latency, stopwatch
from paretopress.search.costs import CostModel
from paretopress.search.effects import Effect
from paretopress.search.examples.digits import DigitsNet
from paretopress.search.latency_table import LatencyTable
from paretopress.search.layer_latency import LayerLatency
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.catalogue import REGISTRY
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task

TECHNIQUES: dict[str, dict[str, Any]] = {
    "integer": {"bits": [8, 4]},
    "magnitude": {"density": [0.5]},
    "codebook": {"bits": [4]},
    "svd": {"fraction": [0.5]},
    "channels": {"ratio": [0.25, 0.5]},
    "depth": {},
    "entropy": {},
}


class Mixed(nn.Module):
    """An embedding, attention, an LSTM, a layer that is called twice and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.twice = nn.Linear(32, 32)
        self.mix, self.again = nn.Linear(32, 32), nn.Linear(32, 32)
        self.again.weight = self.mix.weight
        self.head = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layer(self.embed(tokens))
        x = x + F.scaled_dot_product_attention(x, x, x)
        x = self.lstm(x, (torch.zeros(1, len(x), 32), torch.ones(1, len(x), 32)))[0].mean(1)
        x = self.twice(F.relu(self.twice(x)))
        return self.head(F.relu(self.again(F.relu(self.mix(x)))))


class Around(nn.Module):
    """Holds a layer that runs only while its parent does, beside two others."""

    running = False

    def __init__(self) -> None:
        super().__init__()
        self.shy, self.plain, self.head = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.shy.register_forward_pre_hook(not_alone)

    def forward(self, x: Tensor) -> Tensor:
        Around.running = True
        x = self.shy(x)
        Around.running = False
        return self.head(F.relu(self.plain(F.relu(x))))


def not_alone(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Refuse to run outside the parent."""
    if not Around.running:
        raise RuntimeError("not alone")


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "residual": (DigitsNet, lambda: torch.randn(8, 1, 8, 8)),
    "mixed": (Mixed, lambda: torch.randint(0, 40, (8, 5))),
    "shy": (Around, lambda: torch.randn(8, 32)),
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few turns: what is tested is what is timed, not how long it takes."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)


@functools.cache
def task_of(model: str) -> Task:
    """Return the task of a small untrained model."""
    build, inputs = MODELS[model]
    torch.manual_seed(0)
    batches = [(inputs(), torch.randint(0, 4, (8,)))]
    return Task(build(), batches, train=batches)


@functools.cache
def space_of(model: str) -> Space:
    """Return a space with all kinds of techniques that the model allows."""
    task = task_of(model)
    fitting = {option.technique for d in Space.from_task(task).decisions for option in d.options}
    return Space.from_task(task, {name: TECHNIQUES[name] for name in TECHNIQUES if name in fitting})


def profiler_of(model: str, metric: Latency | None = None) -> Profiler:
    """Return a profiler that keeps nothing."""
    task = task_of(model)
    return Profiler(task, space_of(model), ProfileStore(task, None), metric or Latency(runtime="torch"))


@functools.cache
def profile_of(model: str) -> Profile:
    """Return the measured profile."""
    return profiler_of(model).measure(100_000)


def effects_of(profile: Profile) -> Iterator[tuple[str, Stage, str, Effect]]:
    """Yield site, stage, technique and effect of every setting."""
    choices = profile.choices
    for decision, settings, effects in zip(choices.decisions, choices.settings, profile.effects):
        for setting, effect in zip(settings, effects):
            yield decision.site, decision.stage, setting.technique, effect


@pytest.mark.parametrize("model", MODELS)
def test_every_module_has_a_share(model: str) -> None:
    """All modules that are called, and all that multiply, have a share; together they are no more than the whole."""
    table = profile_of(model).latency
    assert table is not None
    macs = {path for path, unit in profile_of(model).units.items() if unit.macs}
    assert macs <= table.units.keys()
    called = {"residual": {"", "block1", "bn", "fc"}, "mixed": {"", "layer", "lstm", "twice", "again", "embed"}}
    assert called.get(model, set()) <= table.units.keys()
    assert all(share >= 0 for share in table.units.values())
    assert 0 < sum(table.units.values()) <= 1 + 1e-9
    assert table.milliseconds > 0
    assert (table.metric, table.conditions, table.error) == ("latency", "torch eager, batch 1, 1 thread", None)


@pytest.mark.parametrize("model", MODELS)
def test_the_original_costs_what_it_costs(model: str) -> None:
    """The empty recipe is predicted to take the original's time, and so is one that computes the same."""
    profile = profile_of(model)
    costs = CostModel(profile)
    place = costs.metrics.index("latency")
    genomes = np.zeros((2, len(profile.choices)), dtype=np.int64)
    stages = np.array([d.stage for d in profile.choices.decisions])
    genomes[1, (stages == Stage.MASK) | (stages == Stage.CONTAINER)] = 1
    assert costs.predict(genomes)[:, place] == pytest.approx([1.0, 1.0])
    # And what the table says of single steps is what is predicted for them.
    for i, settings in enumerate(profile.choices.settings):
        for k in range(1, len(settings) + 1):
            genome = genomes[:1].copy()
            genome[0, i] = k
            saved = profile.time_saved(profile.choices.decisions[i].site, profile.effects[i][k - 1])[0]
            assert saved is not None
            assert costs.predict(genome)[0, place] == pytest.approx(1 - saved)


@pytest.mark.parametrize("model", ["residual", "mixed"])
def test_unchanged_work_is_not_timed(model: str) -> None:
    """Masks, number formats and codebooks leave the work as it is; factors, channels and blocks don't."""
    profile = profile_of(model)
    table = profile.latency
    assert table is not None
    changing = set()
    for site, stage, name, effect in effects_of(profile):
        assert not effect.error
        if stage in (Stage.MASK, Stage.NUMERIC, Stage.CONTAINER, Stage.RECOVERY):
            assert effect.work == ""
            assert table.shares(site, effect) == {}
        else:
            assert effect.work
            changing.add(name)
            assert table.shares(site, effect), (site, name)
            assert not table.is_guess(site, effect)
    assert changing == {"svd", "channels"} | ({"depth"} if model == "residual" else set())


def test_only_what_changes_has_another_share() -> None:
    """Channels change the modules on both sides of them, factors the layer itself, and a removed block all it held."""
    profile = profile_of("residual")
    table = profile.latency
    assert table is not None
    by_site = {(site, name): table.shares(site, effect) for site, _, name, effect in effects_of(profile)}
    assert by_site["block3.conv1", "svd"].keys() == {"block3.conv1"}
    group = by_site["group:block3.conv1", "channels"]
    assert group.keys() <= {"block3.conv1", "block3.bn1", "block3.conv2", "block3"}
    assert {"block3.conv1", "block3.conv2"} <= group.keys()
    block = by_site["block:block1", "depth"]
    assert {p for p, share in block.items() if share == 0} == {
        "block1.conv1", "block1.bn1", "block1.conv2", "block1.bn2"
    }  # fmt: skip
    assert all(p.startswith("block1") for p in block)


class Narrow(LayerCompressor):
    """Puts a bottleneck in the place of a Linear, shared or not."""

    name = "narrow"
    kinds = frozenset({"linear"})
    summary = "a test's"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return ()

    def transform(self, layer: nn.Module, params: dict[str, Any], context: Context) -> nn.Module:
        assert isinstance(layer, nn.Linear)
        return nn.Sequential(nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features))


def test_a_shared_weight_has_one_share_at_all_its_places() -> None:
    """Layers that share a weight are one decision: what it leaves is the same for each."""
    task = task_of("mixed")
    register(Narrow())
    try:
        space = Space.from_task(task, {"narrow": {"layers": ["mix", "twice"]}})
        profile = Profiler(task, space, ProfileStore(task, None), Latency(runtime="torch")).measure(100_000)
    finally:
        del REGISTRY.members["narrow"]
    assert profile.latency is not None
    shares = {site: profile.latency.shares(site, effect) for site, _, _, effect in effects_of(profile)}
    assert shares["mix"].keys() == {"mix", "again"}
    assert len(set(shares["mix"].values())) == 1
    assert shares["twice"].keys() == {"twice"}


def test_what_can_not_be_timed_alone_goes_by_multiplications() -> None:
    """A layer that runs only inside its parent has a share by its MACs, and so have the steps there; that is said."""
    profile = profile_of("shy")
    table = profile.latency
    assert table is not None
    assert table.units["shy"] > 0
    pace = {p: table.units[p] / profile.units[p].macs for p in ("shy", "plain", "head")}
    timed = (table.units["plain"] + table.units["head"]) / (profile.units["plain"].macs + profile.units["head"].macs)
    assert pace["shy"] == pytest.approx(timed)
    found = {(site, name): effect for site, _, name, effect in effects_of(profile)}
    factors, other = found["shy", "svd"], found["plain", "svd"]
    assert table.shares("shy", factors) == {"shy": pytest.approx(factors.shares["shy"][1])}
    assert table.is_guess("shy", factors)
    assert table.shares("group:shy", found["group:shy", "channels"])["shy"] == 0.5
    assert not table.is_guess("plain", other)
    assert not table.is_guess("shy", found["shy", "integer"])
    rows = {(r.site, r.technique): r for r in profile.rows()}
    assert rows["shy", "svd"].latency_guessed
    assert not rows["plain", "svd"].latency_guessed


def test_a_model_that_can_not_be_watched_goes_by_multiplications() -> None:
    """There is always a table: in the worst case it says what MACs say."""

    class Watchful(DigitsNet):
        def forward(self, x: Tensor) -> Tensor:
            if "forward" in vars(self.fc):
                raise RuntimeError("somebody looks")
            return super().forward(x)

    torch.manual_seed(0)
    batches = [(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,)))]
    task = Task(Watchful(), batches)
    space = Space.from_task(task, {"svd": {"fraction": [0.5]}, "channels": {"ratio": [0.5]}})
    profile = Profiler(task, space, ProfileStore(task, None), Latency(runtime="torch")).measure(100_000)
    assert profile.latency is not None
    costs = CostModel(profile)
    genomes = np.vstack([np.zeros(len(profile.choices), dtype=np.int64), np.ones(len(profile.choices), dtype=np.int64)])
    macs, latency = (costs.predict(genomes)[:, costs.metrics.index(m)] for m in ("macs", "latency"))
    assert latency == pytest.approx(macs / macs[0], rel=1e-4)
    assert all(profile.latency.is_guess(site, effect) for site, _, _, effect in effects_of(profile))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of works of every timing."""
    timings: list[int] = []

    def beside(whole: Any, works: Mapping[Hashable, Any], context: Any, clock: Any) -> Any:
        timings.append(len(works))
        return stopwatch.beside(whole, works, context, clock)

    monkeypatch.setattr(layer_latency, "beside", beside)
    return timings


def test_each_shape_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of the same shape and input share one measurement, before a step and after it."""
    timings = counted(monkeypatch)
    profile = profiler_of("residual").measure(100_000)
    assert profile.latency is not None
    # stem, 16 and 32 channels, the strided and the last layer; batch norm at both sizes; a block's own work; the model
    assert timings[0] == len({"stem", "16", "down", "32", "fc", "bn16", "bn32", "block16", "block32", "model"})
    units = profile.latency.units
    assert units["block1.conv1"] == units["block1.conv2"] == units["block2.conv1"]
    assert len(profile.latency.left) > sum(timings[1:]) / 3


def test_tables_are_kept_for_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads the table; another machine, batch or model measures its own."""
    timings = counted(monkeypatch)
    profiler = profiler_of("residual")
    profile = profiler.measure(100_000)

    def table(metric: Latency) -> LatencyTable:
        layers = LayerLatency(profiler.survey, metric, tmp_path)
        return layers.table(profile.choices, profile.effects)

    timings.clear()
    first = table(Latency(runtime="torch"))
    assert timings
    timings.clear()
    assert table(Latency(runtime="torch")) == first
    assert timings == []
    again = LayerLatency(profiler.survey, Latency(runtime="torch"), tmp_path)
    assert again.missing(profile.choices, profile.effects) == {}
    assert again.estimate(0) == 0
    assert table(Latency(batch=4, runtime="torch")).conditions == "torch eager, batch 4, 1 thread"
    assert timings
    timings.clear()
    monkeypatch.setattr(latency_source, "machine", lambda: ["another"])
    assert table(Latency(runtime="torch")).metric == "latency"
    assert timings


def test_an_interrupted_table_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was timed before an interruption is not timed again."""
    profiler = profiler_of("residual")
    profile = profiler.measure(100_000)
    layers = LayerLatency(profiler.survey, Latency(runtime="torch"), tmp_path)
    monkeypatch.setattr(layer_latency, "TOGETHER", 5)

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layers.table(profile.choices, profile.effects, stop)
    layers = LayerLatency(profiler.survey, Latency(runtime="torch"), tmp_path)
    left = layers.missing(profile.choices, profile.effects)
    whole = {LatencyTable.key(s, e) for s, _, _, e in effects_of(profile) if e.work}
    assert 0 < len(left) < len(whole)
    assert layers.estimate(len(left)) > 0
    shares: list[float] = []
    assert layers.table(profile.choices, profile.effects, shares.append).left.keys() == whole
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_damaged_tables_are_measured_again(tmp_path: Path) -> None:
    """A torn file costs time, nothing else."""
    profiler = profiler_of("shy")
    profile = profiler.measure(100_000)
    layers = LayerLatency(profiler.survey, Latency(runtime="torch"), tmp_path)
    layers.table(profile.choices, profile.effects)
    assert layers.lines.file is not None
    text = layers.lines.file.read_bytes()
    layers.lines.file.write_bytes(text[: len(text) // 2])
    again = LayerLatency(profiler.survey, Latency(runtime="torch"), tmp_path).table(profile.choices, profile.effects)
    assert again.left.keys() == {LatencyTable.key(s, e) for s, _, _, e in effects_of(profile) if e.work}


def test_no_table_unless_somebody_asks() -> None:
    """Without a latency nothing is timed, and nothing is predicted of it."""
    task = task_of("shy")
    profile = Profiler(task, space_of("shy"), ProfileStore(task, None)).measure(100_000)
    assert profile.latency is None
    assert CostModel(profile).metrics == ("size", "macs", "bops")
    assert all(row.latency_saved is None for row in profile.rows())
