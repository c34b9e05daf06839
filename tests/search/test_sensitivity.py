"""The profile as a whole: what it measures, what it reads from disk, and what it says of either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretopress.compressors.base import Compressor, register
from paretopress.compressors.draft import Context, Draft
from paretopress.evaluators.latency import Latency
from paretopress.search import sensitivity, stopwatch
from paretopress.search.effects import Effect
from paretopress.search.fisher import Fisher
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sample import Sample
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.spaces.catalogue import REGISTRY
from paretopress.spaces.choices import Setting
from paretopress.spaces.knob import Knob
from paretopress.spaces.metric import Metric
from paretopress.spaces.site import MODEL, Site
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task


class Shrink(Compressor):
    """Acts on the model as a whole: every weight loses a share of its size."""

    name = "shrink"
    stage = Stage.MASK
    kinds = frozenset({"model"})
    summary = "a test's"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return (Knob("by", (0.1, 0.9)),)

    def apply(self, draft: Draft, site: Site, params: dict[str, Any], context: Context) -> None:
        with torch.no_grad():
            for parameter in draft.model.parameters():
                parameter.mul_(1 - float(params["by"]))


@pytest.fixture
def shrink() -> Iterator[None]:
    """The technique, for the time of a test."""
    register(Shrink())
    yield
    del REGISTRY.members["shrink"]


def measured(task: Task, space: Space, folder: Path | None = None, **more: Any) -> Profile:
    """Return the profile, kept in a folder."""
    return Profiler(task, space, ProfileStore(task, None, folder), **more).measure(10_000)


@pytest.mark.usefixtures("shrink")
def test_steps_at_the_whole_model_are_no_gift(task: Task) -> None:
    """What a newcomer does to the model as a whole is measured by the outputs, and has rows like any other step."""
    space = Space.from_task(task, {"shrink": {}, "integer": {"bits": [4]}, "entropy": {}, "distillation": {}})
    profile = measured(task, space)
    places = {d.name: i for i, d in enumerate(profile.choices.decisions)}
    mild, strong = profile.effects[places[f"{MODEL}/mask"]]
    assert mild.method == strong.method == "outputs"
    assert 0 < mild.damage < strong.damage
    rows = [r for r in profile.rows() if r.site == MODEL]
    assert [(r.technique, r.damage) for r in rows] == [("shrink", mild.damage), ("shrink", strong.damage)]
    held = profile.held(MODEL)
    assert held.bytes == sum(unit.bytes for unit in profile.units.values())
    assert Profiler(task, space, ProfileStore(task, None)).count == len(profile.rows())


def test_known_profiles_are_read_and_say_the_same(
    task: Task, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is measured, neither single steps nor what they do together, and nothing is lost."""
    first = measured(task, space, tmp_path)

    def never(*_: Any, **__: Any) -> Fisher:
        raise AssertionError("measured again")

    monkeypatch.setattr(sensitivity, "measure_fisher", never)
    monkeypatch.setattr(Sample, "bytes", never)
    profiler = Profiler(task, space, ProfileStore(task, None, tmp_path))
    assert profiler.missing == []
    assert profiler.estimate() == 0
    assert profiler.estimate_latency() == 0
    again = profiler.measure(10_000)
    assert again.effects == first.effects
    assert again.together == first.together
    assert len(first.together) > 0
    assert (again.by_loss, again.classes) == (first.by_loss, first.classes) == (True, True)


def test_a_profile_prints_as_a_summary(task: Task, space: Space) -> None:
    """Printing it says how much there is, which layers are sensitive and what is cheap, not every figure."""
    lines = repr(measured(task, space)).splitlines()
    assert lines[0].startswith("Profile(")
    assert lines[0].endswith(" sites, a file of 10,000 bytes)")
    assert [line.split()[0] for line in lines[1:]] == ["most", "most", "rows()"]
    assert "conv1 (" in lines[1]
    assert max(map(len, lines)) < 200


def test_how_damages_were_measured_is_kept(task: Task, tmp_path: Path) -> None:
    """A profile that is read from disk still says that its loss couldn't be evaluated."""

    def broken(output: Tensor, target: Tensor) -> Tensor:
        raise ValueError("no labels here")

    error = Metric("mse", lambda output, _: float(output.square().mean()), direction="minimize")
    images = [(args, F.one_hot(target, 10).float()) for args, target in task.validation]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()  # without batch norm, which would need the loss
    unlabelled = Task(model, images, loss=broken, metric=error)
    space = Space.from_task(unlabelled, {"integer": {"bits": [4]}})
    for _ in range(2):
        found = measured(unlabelled, space, tmp_path)
        assert (found.by_loss, found.classes) == (False, False)
        assert all(e.damage > 0 and not e.error for effects in found.effects for e in effects)
    assert found.to_json()["unit"] == "variance of the outputs"


def test_latency_is_measured_where_it_is_asked_for(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the profile has a table, its estimate, and what each row saves; effects are not measured again for it."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)
    monkeypatch.setenv("PARETOPRESS_CACHE", str(tmp_path / "cache"))
    space = Space.from_task(task, {"svd": {"fraction": [0.5]}, "integer": {"bits": [4]}})
    plain = measured(task, space, tmp_path)
    assert plain.latency is None
    assert plain.to_json()["latency"] is None
    profiler = Profiler(task, space, ProfileStore(task, None, tmp_path), Latency(runtime="torch"))
    assert profiler.estimate() == 0
    assert profiler.estimate_latency() > 0
    shares: list[float] = []
    found = profiler.measure(10_000, tell=lambda share, _: shares.append(share))
    assert found.effects == plain.effects
    assert found.latency is not None
    assert shares[-1] == 1
    assert found.to_json()["latency"]["units"] == found.latency.units
    rows = {(r.site, r.technique): r for r in found.rows()}
    assert rows["fc", "integer"].latency_saved == 0
    assert rows["fc", "svd"].latency_saved == pytest.approx(
        found.latency.units["fc"] * (1 - found.latency.shares("fc", found.effects[_place(found, "fc")][0])["fc"])
    )
    assert Profiler(task, space, ProfileStore(task, None, tmp_path), Latency(runtime="torch")).estimate_latency() == 0


def _place(profile: Profile, site: str) -> int:
    return next(i for i, d in enumerate(profile.choices.decisions) if d.site == site and d.stage is Stage.OPERATOR)


def test_progress_never_goes_back(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single steps and times are one piece of work, from nothing to all."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)
    shares: list[float] = []
    left: list[float] = []

    def tell(share: float, seconds: float) -> None:
        shares.append(share)
        left.append(seconds)

    space = Space.from_task(task, {"svd": {"fraction": [0.5]}})
    Profiler(task, space, ProfileStore(task, None), Latency(runtime="torch")).measure(10_000, tell=tell)
    assert np.all(np.diff(shares) >= 0)
    assert shares[-1] == 1
    assert min(left) == left[-1] == 0


def test_the_estimate_costs_nothing(task: Task, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured to foretell the time is kept: no step is measured twice, and the gradients neither."""
    profiler = Profiler(task, space, ProfileStore(task, None))
    calls: list[tuple[str, str]] = []
    one, gradients = profiler.survey.effect, sensitivity.measure_fisher

    def effect(site: str, setting: Setting, fisher: Fisher) -> Effect:
        calls.append((site, str(setting)))
        return one(site, setting, fisher)

    def fisher(*given: Any) -> Fisher:
        calls.append(("", "gradients"))
        return gradients(*given)

    monkeypatch.setattr(profiler.survey, "effect", effect)
    monkeypatch.setattr(sensitivity, "measure_fisher", fisher)
    assert profiler.estimate() > 0
    assert 0 < len(calls) < profiler.count
    profiler.measure(10_000)
    assert len(calls) == len(set(calls)) == profiler.count + 1
