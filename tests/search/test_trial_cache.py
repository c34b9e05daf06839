"""Trials with a cache: the same files, faster; each says how often it found something, and the run says so too."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from paretopress.compressors.cache import LayerCache
from paretopress.search.api import search
from paretopress.search.layers import ModuleForm
from paretopress.search.result import Objective, Result
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


def bench(task: Task, space: Space, cache: LayerCache) -> Bench:
    """Return a bench with that cache."""
    goals = (Objective("accuracy", "maximize"), Objective("size", "minimize"))
    return Bench(task, space.sites, metrics_for(task, ["accuracy", "size"]), goals, cache=cache)


def test_found_or_computed_a_trial_is_the_same_file(task: Task, tmp_path: Path) -> None:
    """Every technique, training too, through a cold, a warm and another process's cache; hits are counted."""
    space = Space.from_task(task, dict.fromkeys(Space.from_task(task).techniques) | {"distillation": {"steps": [3]}})
    rng = random.Random(0)
    jobs = [Job(number, space.sample(rng), number) for number in range(8)]

    def cache() -> LayerCache:
        return LayerCache(str(tmp_path), worth=0, modules=ModuleForm())

    warm = cache()
    runs = []
    for kept in (LayerCache.none(), warm, warm, cache()):
        here = bench(task, space, kept)
        assert here.needs_class == ""
        runs.append([here.run(job).result for job in jobs])
    assert all(r.status == "ok" for results in runs for r in results)
    assert all([r.checksum for r in results] == [r.checksum for r in runs[0]] for results in runs)
    hits, misses = ([sum(r.cache[kind] for r in results) for results in runs] for kind in ("hits", "misses"))
    assert hits[0] == misses[0] == 0
    assert misses[1] > 0
    assert hits[2] >= misses[1]
    assert hits[3] > 0


def test_a_result_keeps_its_counts_and_old_journals_have_none() -> None:
    """The journal's line holds them; a line of an older version is read all the same."""
    data = Result.from_json({"number": 1, "recipe": [], "status": "ok"}).to_json() | {"cache": {"hits": 3, "misses": 2}}
    assert Result.from_json(data).cache == {"hits": 3, "misses": 2}
    assert Result.from_json(data).to_json()["cache"] == {"hits": 3, "misses": 2}
    del data["cache"]
    assert Result.from_json(data).cache == {}


def test_a_run_says_how_much_the_cache_gave(
    task: Task, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run on the same folder finds what the first one computed, and both name the rate."""
    monkeypatch.setenv("PARETOPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("paretopress.compressors.cache.WORTH", 0.0)
    front = search(task, space, budget=4, run=tmp_path / "run", executor="local", progress=False)
    counted = sum(n for r in front.results for n in r.cache.values())
    assert counted > 0
    [note] = [note for note in front.notes if "came from the cache" in note]
    assert f"of {counted} results for single layers" in note
