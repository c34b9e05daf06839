"""Whole plans: whatever a space samples can be built, run, saved, loaded and measured."""

from __future__ import annotations

import random

from paretopress.compressors.draft import Context
from paretopress.search.result import Objective
from paretopress.search.trial import Bench, Job, metrics_for
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.space import Space

#: For each of the six models; together more than a thousand plans.
PLANS = 170


def test_every_sampled_plan_becomes_a_model_that_reloads(context: Context) -> None:
    """Random stacks of all techniques at all sites succeed: compressed, saved, loaded bit-identical, measured."""
    task = context.task
    space = Space.from_task(task, dict.fromkeys(Space.from_task(task).techniques) | {"distillation": {"steps": [1]}})
    goals = (Objective("accuracy", "maximize"), Objective("size", "minimize"))
    bench = Bench(task, space.sites, metrics_for(task, ["accuracy", "size", "macs", "bops", "parameters"]), goals)
    rng = random.Random(0)
    baseline = bench.run(Job(0, Recipe())).result
    sizes = []
    for number in range(1, PLANS + 1):
        finished = bench.run(Job(number, space.sample(rng), seed=number))
        assert finished.result.status == "ok", f"{finished.result.recipe}: {finished.result.error}"
        assert finished.data is not None
        assert len(finished.data) == finished.result.value("size")
        assert finished.result.value("macs") <= baseline.value("macs")
        sizes.append(finished.result.value("size"))
    assert sorted(sizes)[PLANS // 2] < 0.8 * baseline.value("size")
