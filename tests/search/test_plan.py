"""Settings that are checked together: metrics of a user's own, and what ends a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.evaluators.base import Evaluator
from paretopress.evaluators.latency import Latency
from paretopress.search.plan import make_plan
from paretopress.spaces.errors import SettingError
from paretopress.spaces.task import Task

FAST = Latency(32)
PHONE = Latency(device="./phone.sh {model} {baseline}", name="phone")


def test_objectives_and_limits_are_measured_in_trials_and_columns_at_the_end(task: Task, tmp_path: Path) -> None:
    """A column takes seconds a model: trials don't pay for it."""
    plan = make_plan(
        task, ["accuracy", "phone"], metrics=[FAST, PHONE], constraints=["size <= 0.5x"], run=tmp_path / "run"
    )
    assert {m.name for m in plan.metrics} == {"accuracy", "phone", "size", "macs", "bops", "parameters"}
    assert PHONE in plan.metrics
    assert {m.name for m in plan.columns} == {"latency_batch32", "latency", "memory", "onnx_size"}
    assert [(o.name, o.direction) for o in plan.objectives] == [("accuracy", "maximize"), ("phone", "minimize")]


def test_limit_on_a_metric_of_ones_own(task: Task, tmp_path: Path) -> None:
    """It has that metric's units, and makes trials measure it."""
    plan = make_plan(task, metrics=[PHONE], constraints=["phone <= 0.5x"], run=tmp_path / "run")
    assert PHONE in plan.metrics
    with pytest.raises(SettingError, match="'kB' is no unit of phone"):
        make_plan(task, metrics=[PHONE], constraints=["phone <= 5 kB"], run=tmp_path / "run")
    with pytest.raises(SettingError, match="names no metric"):
        make_plan(task, constraints=["phone <= 0.5x"], run=tmp_path / "run")


def test_everybodys_metric_can_be_replaced(task: Task, tmp_path: Path) -> None:
    """Who wants another runtime keeps the name."""
    own = Latency(runtime="torch")
    plan = make_plan(task, ["accuracy", "latency"], metrics=[own], run=tmp_path / "run")
    assert [m for m in plan.metrics if m.name == "latency"] == [own]
    assert [m for m in plan.columns if m.name == "latency"] == []


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (FAST, "a list of metrics"), (["latency"], "a list of metrics"), ([FAST, Latency(32)], "another metric"),
        ([Latency(name="size")], "another metric"), ([Latency(name="accuracy")], "another metric"),
    ],
)  # fmt: skip
def test_names_that_are_taken_are_refused(task: Task, tmp_path: Path, metrics: list[Evaluator], expected: str) -> None:
    """Two metrics of one name would overwrite each other's figures."""
    with pytest.raises(SettingError, match=expected):
        make_plan(task, metrics=metrics, run=tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "trials"),
    [({}, 50), ({"minutes": 1}, None), ({"evaluations": 9}, None), ({"budget": 7, "minutes": 1}, 7)],
)
def test_trials_are_limited_by_who_says_so_or_if_nothing_else_is(
    task: Task, tmp_path: Path, given: dict[str, int], trials: int | None
) -> None:
    """Ten minutes are ten minutes, however many trials that are; a run without any limit ends, too."""
    plan = make_plan(task, run=tmp_path / "run", **given)  # type: ignore[arg-type] # limits are numbers
    assert plan.budget.trials == trials
