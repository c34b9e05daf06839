"""Settings: what is accepted, and that every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.search.config import Config, check, import_function, read_yaml
from paretopress.spaces.errors import PressError, SettingError

DIGITS = "paretopress.search.examples.digits:task"


def written(folder: Path, text: str) -> Path:
    """Return a YAML file with this text."""
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_everything_that_can_be_set_is_read(tmp_path: Path) -> None:
    """A file with every section gives settings equal to the ones written."""
    config = read_yaml(
        written(
            tmp_path,
            f"""
            task: {DIGITS}
            techniques:
              integer: {{bits: [8, 4], layers: ["block*", "!block1*"]}}
              magnitude:
            layers: "*"
            objectives: [accuracy, latency]
            constraints: [accuracy drop <= 1%]
            budget: {{trials: 10, minutes: 0.5}}
            metrics: {{phone: {{device: "./phone.sh {{model}} {{baseline}}"}}, latency: {{runtime: torch, batch: 8}}}}
            sampler: nsga2
            seed: 3
            executor: local
            ray: {{address: null, workers: 2, cpus: 1.5}}
            """,
        )
    )
    assert config.techniques == {"integer": {"bits": [8, 4], "layers": ["block*", "!block1*"]}, "magnitude": None}
    assert config.budget.minutes == 0.5
    assert config.resources().cpus == 1.5
    assert [m.conditions for m in config.build_metrics()] == [
        "./phone.sh {model} {baseline}, batch 1, 1 thread",
        "torch eager, batch 8, 1 thread",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: a:b\nsampeler: tpe", "Did you mean 'sampler'"),
        ("task: a:b\nbudget: {trails: 3}", "Did you mean 'trials'"),
        ("task: a:b\nbudget: {trials: 0}", "must be at least 1. Use minutes"),
        ("task: a:b\nbudget: 30", "budget = 30: must hold keys and values. Write {trials: 50}"),
        ("task: a:b\nray: auto", "must hold keys and values. Write {workers: 4}"),
        ("task: a:b\nmetrics: [latency]", "must hold keys and values. Write {latency_batch32: {batch: 32}}"),
        ("task: a:b\nmetrics: {latency: {bach: 3}}", "Did you mean 'batch'"),
        ("task: a:b\nmetrics: {latency: {batch: 0}}", "must be at least 1"),
        ("task: a:b\nobjectives: accuracy", "must be a list. Write [accuracy, size]"),
        ("task: a:b\nconstraints: size <= 3 kB", "must be a list. Write ['size <= 3 kB']"),
        ("task: a:b\nconstraints: 3", "must be a list. Write ['accuracy drop <= 1%']"),
        ("task: a:b\ntechniques: 3", "a list of names, or names with their settings"),
        ("task: a:b\nseed: one", "must be a whole number"),
        ("task: a:b\nbudget: {trials: many}", "budget.trials = 'many'"),
        ("task: a:b\nbudget: {minutes: .inf}", "budget.minutes = inf: must be a finite number. Leave it out"),
        ("task: a:b\nray: {workers: 1.5}", "ray.workers"),
        ("task: a:b\nray: {memory: 3 KB}", "run.yaml: ray.memory = '3 KB': must be the bytes of a trial"),
        ("task: a:b\nray: {custom: {CPU: 1}}", "run.yaml: ray.custom = 'CPU': is none of the cluster's own"),
        ("task: a:b\nstorage: mysql://x", "run.yaml: storage = 'mysql://x': must be the address"),
        ("task: a:b\nmetrics: {lat: {runtime: x}}", "run.yaml: metrics.lat.runtime = 'x': is unknown"),
        ("task: a:b\nbudget: {evaluations: 0}", "budget.evaluations = 0"),
        ("task: a:b\nracing: maybe", "racing = 'maybe'"),
        ("objectives: [a]", "task"),
        ("task: a:b\nexecutor: cloud", "'ray' or 'local'"),
        ("- 1\n- 2", "keys and values"),
        ("", "keys and values"),
        ("task: a:b\nobjectives: [accuracy, size\nseed: 1", "line 3"),
        ("task: a:b\nseed: 1\nseed: 2", "'seed' is written twice"),
        ("task: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """Unknown keys get the nearest known one, wrong values their key, syntax errors their line; no code runs."""
    with pytest.raises(PressError) as caught:
        read_yaml(written(tmp_path, text))
    assert expected in str(caught.value)
    assert "run.yaml" in str(caught.value)
    assert "Section" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_colon", "module:function"),
        ("nowhere.at_all:task", "no module 'nowhere'"),
        ("paretopress.search.examples.digits:tusk", "Did you mean 'task'"),
        ("broken:task", "importing it fails: ZeroDivisionError"),
        ("needy:task", "needs 'not_installed_here'"),
    ],
)
def test_a_task_that_cannot_be_imported_says_why(tmp_path: Path, name: str, expected: str) -> None:
    """A missing module, a missing function, a module that breaks and one whose needs are missing are told apart."""
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needy.py").write_text("import not_installed_here")
    with pytest.raises(SettingError) as caught:
        import_function(name, "task", tmp_path)
    assert expected in str(caught.value)
    if name.startswith("nowhere"):
        assert f"in {tmp_path} or {Path.cwd()}, and none is installed" in str(caught.value)


def test_a_function_that_returns_no_task_is_refused(tmp_path: Path) -> None:
    """The message says what came instead."""
    (tmp_path / "odd_tasks.py").write_text("def number():\n    return 3\n")
    with pytest.raises(SettingError, match="returned a int"):
        Config(task="odd_tasks:number").build_task(tmp_path)
    (tmp_path / "failing_tasks.py").write_text("def task():\n    return open('/nowhere')\n")
    with pytest.raises(SettingError, match=r"FileNotFoundError.*failing_tasks\.py, line 2"):
        Config(task="failing_tasks:task").build_task(tmp_path)
    with pytest.raises(SettingError, match="arguments"):
        Config(task="odd_tasks:number", arguments={"x": 1}).build_task(tmp_path)


def test_techniques_beside_a_preset_override_its_settings() -> None:
    """A preset names the techniques, and settings beside it narrow some of them."""
    config = check({"task": DIGITS, "preset": "quantize", "techniques": {"integer": {"bits": [4]}, "svd": None}}, "x")
    space = config.build_space(config.build_task())
    assert set(space.techniques) == {"integer", "codebook", "entropy", "svd"}
    assert space.dimensions["fc/integer.bits"].values == (4,)
    wrong = check({"task": DIGITS, "preset": "quantise"}, "x")
    with pytest.raises(SettingError, match="Did you mean 'quantize'"):
        wrong.build_space(wrong.build_task())
