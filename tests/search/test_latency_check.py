"""Predicted latencies beside those of real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paretopress.evaluators.latency import Latency
from paretopress.search import latency_check, stopwatch
from paretopress.search.latency_check import RECIPES, check_latency, estimate_latency_check
from paretopress.search.layer_latency import LayerLatency
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sensitivity import Profile, Profiler
from paretopress.search.trial import Bench
from paretopress.spaces.space import Space
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed for long."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)
    monkeypatch.setattr(latency_check, "SECONDS", 0.01)


def measured(task: Task, folder: Path, techniques: object) -> tuple[Profile, LayerLatency, Bench]:
    """Return a profile with a table, not checked."""
    space = Space.from_task(task, techniques)  # type: ignore[arg-type] # as a user writes it
    profiler = Profiler(task, space, ProfileStore(task, None), Latency(runtime="torch"))
    profiler.layers = layers = LayerLatency(profiler.survey, Latency(runtime="torch"), folder)
    return profiler.measure(10_000), layers, Bench(task, space.sites, (), ())


TECHNIQUES = {"svd": {"fraction": [0.2, 0.5]}, "magnitude": {"density": [0.5]}, "entropy": {}, "distillation": {}}


@pytest.mark.usefixtures("hasty")
def test_table_learns_how_far_it_is_off(task: Task, tmp_path: Path) -> None:
    """Recipes are compressed and timed once; a second check, and a later session, know what it found."""
    profile, layers, bench = measured(task, tmp_path, TECHNIQUES)
    assert not layers.is_checked(profile.choices)
    checked = check_latency(profile, layers, bench)
    assert checked.latency is not None
    assert len(checked.latency.checked) == RECIPES
    assert checked.latency.error is not None
    assert all(predicted > 0 and real > 0 for predicted, real in checked.latency.checked)
    assert check_latency(checked, layers, bench) is checked
    later, others, _ = measured(task, tmp_path, TECHNIQUES)
    assert later.latency == checked.latency
    assert others.is_checked(profile.choices)
    other, layers, _ = measured(task, tmp_path, {**TECHNIQUES, "magnitude": {"density": [0.3]}})
    assert other.latency is not None
    assert other.latency.error is None
    assert not layers.is_checked(other.choices)


def test_recipes_are_different_and_do_not_train(task: Task) -> None:
    """From hardly compressed to compressed everywhere; training changes no latency and would cost minutes."""
    choices = Profiler(task, Space.from_task(task), ProfileStore(task, None)).choices
    genomes = np.array(list(latency_check._drawn(choices, latency_check.RECIPES)))
    assert len(genomes) >= RECIPES
    assert len(np.unique(genomes, axis=0)) == len(genomes)
    assert np.array_equal(choices.legal(genomes), genomes)
    stages = np.array([d.stage for d in choices.decisions])
    assert not genomes[:, stages == Stage.RECOVERY].any()
    counts = np.count_nonzero(genomes[:RECIPES], axis=1)
    assert counts.min() > 0
    assert counts[RECIPES // 2 :].mean() > counts[: RECIPES // 2].mean()
    assert 0 < estimate_latency_check(0.0) < estimate_latency_check(1.0)


@pytest.mark.usefixtures("hasty")
def test_recipes_that_fail_are_passed_over(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be compressed the table stays unchecked, and says so."""
    profile, layers, bench = measured(task, tmp_path, {"svd": {"fraction": [0.5]}})

    def fails(*_: object) -> None:
        raise ValueError("not today")

    monkeypatch.setattr(Bench, "compress", fails)
    checked = check_latency(profile, layers, bench)
    assert checked.latency is not None
    assert checked.latency.error is None
    assert not layers.is_checked(profile.choices)
    plain = Profiler(task, profile.choices.space, ProfileStore(task, None)).measure(10_000)
    assert check_latency(plain, layers, bench) is plain
