"""``paretopress profile`` and `search.profile`: on the real digits, as a user runs them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from paretopress.search import latency_check, profile, stopwatch
from paretopress.search.cli import main
from paretopress.search.profile_run import measure
from paretopress.search.resources import Resources
from paretopress.spaces.errors import SettingError
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

YAML = """
task: paretopress.search.examples.digits:task
techniques:
  integer: {bits: [8, 4], granularity: [channel], layers: ["block4*", "fc"]}
  channels: {ratio: [0.25], criterion: [l2], layers: ["group:block4*"]}
  entropy: {}
objectives: [accuracy, size]
budget: {trials: 2}
executor: local
"""


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run ``paretopress`` with these words in this process; return what it wrote to the two outputs."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 0
    return capsys.readouterr()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a YAML file in it, and a cache of its own."""
    (tmp_path / "d.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETOPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_command_prints_and_writes_the_profile(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says its cost first, prints the table and the check, and writes the page and the data beside each other."""
    out, err = run("profile", "d.yaml", capsys=capsys)
    first, then = err.splitlines()[:2]
    assert first == "7 single steps to measure: gradients and a few of each technique come first"
    assert then.startswith("7 single steps, ")
    assert "a check on 7 of them" in err
    for word in ("block4.conv1", "group:block4.conv1", "integer", "channels", "most sensitive", "checked on 7 steps"):
        assert word in out
    assert out.endswith("map: d/profile.html\n")
    data = json.loads((place / "d/profile.json").read_text())
    assert len(data["rows"]) == 7
    assert len(data["check"]["steps"]) == 7
    assert data["name"] == "digits"
    assert "block4.conv2" in (place / "d/profile.html").read_text()
    _, err = run("profile", "d.yaml", capsys=capsys)
    assert err.startswith("all 7 single steps are known from an earlier run")
    (place / "d.yaml").write_text(YAML.replace("[8, 4]", "[8, 4, 2]"))
    _, err = run("profile", "d.yaml", "--technique", "integer", "--layers", "fc", capsys=capsys)
    assert "\n3 of 10 single steps, " in err


def test_latency_is_timed_on_request(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the option, or where the file asks for latency, layers are timed and the error of that is stated; once."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)
    monkeypatch.setattr(latency_check, "SECONDS", 0.01)
    _, err = run("profile", "d.yaml", capsys=capsys)
    assert "layers take" not in err
    out, err = run("profile", "d.yaml", "--latency", capsys=capsys)
    assert err.startswith("all 7 single steps are known")
    assert "; how long the layers take, " in err
    assert "; a check on 8 recipes, " in err
    assert "latency: measured per layer (ONNX Runtime, batch 1, 1 thread); its prediction was off by " in out
    assert " % (median of 8 recipes)" in out
    assert "of the time in percent" in out
    data = json.loads((place / "d/profile.json").read_text())
    assert data["latency"]["median_error"] >= 0
    assert data["latency"]["units"]["fc"] > 0
    saved = {row["technique"]: row["latency_saved"] for row in data["rows"]}
    assert saved.keys() == {"integer", "channels"}
    assert saved["integer"] == 0  # exactly; what fewer channels save is a moment's timing, and may be nothing
    assert saved["channels"] is not None
    page = (place / "d/profile.html").read_text()
    assert "Where the time goes" in page
    assert "latency saved" in page
    (place / "d.yaml").write_text(YAML.replace("[accuracy, size]", "[accuracy, latency]"))
    out, err = run("profile", "d.yaml", capsys=capsys)
    assert "how long the layers take, known from an earlier run" in err
    assert "recipes" not in err
    assert "its prediction was off by" in out
    out, _ = run("profile", "d.yaml", "--no-latency", capsys=capsys)
    assert "its prediction was off by" not in out
    (place / "d.yaml").write_text(YAML + 'constraints: ["latency <= 0.9x"]\n')
    out, _ = run("profile", "d.yaml", capsys=capsys)
    assert "its prediction was off by" in out


def test_profile_and_run_share_a_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A search starts in a folder that only a profile is in, and neither it nor starting over disturbs the profile."""
    run("profile", "d.yaml", capsys=capsys)
    page = (place / "d/profile.html").read_bytes()
    run("search", "d.yaml", capsys=capsys)
    journal = (place / "d/journal.jsonl").read_bytes()
    run("profile", "d.yaml", capsys=capsys)
    assert (place / "d/journal.jsonl").read_bytes() == journal
    run("search", "d.yaml", "--fresh", capsys=capsys)
    assert (place / "d/profile.html").stat().st_size == pytest.approx(len(page), rel=0.01)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--technique", "intger"], "Did you mean 'integer'"),
        (["--layers", "blok4.conv1"], "Did you mean 'block4.conv1'"),
        (["--executor", "cloud"], "executor"),
        (["--workers", "0"], "workers"),
        (["--output", "d.yaml"], "can't be written"),
    ],
)
def test_slips_are_named_before_anything_is_measured(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    """One message, status 2, no traceback, and no folder."""
    with pytest.raises(SystemExit) as stopped:
        main(["profile", "d.yaml", *words])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert expected in err
    assert "Traceback" not in err
    assert not (place / "d").exists()
    assert not (place / "cache" / "profiles").exists()


def test_ray_measures_the_same(task: Task, space: Space) -> None:
    """Workers find what this process finds, to the last bit."""
    here = profile(task, space, progress=False)
    there = profile(task, space, executor="ray", resources=Resources(workers=2), progress=False)
    assert there.rows() == here.rows()


def test_python_function_times_layers_on_request(task: Task, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``latency`` the profile has a table that knows its error; without it, none."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)
    monkeypatch.setattr(latency_check, "SECONDS", 0.01)
    found = profile(task, space, latency=True, progress=False)
    assert found.latency is not None
    assert found.latency.error is not None
    assert profile(task, space, progress=False).latency is None


def test_python_function_refuses_what_it_can_not_use(task: Task, space: Space) -> None:
    """Wrong kinds of arguments are named, not tripped over."""
    with pytest.raises(SettingError, match="must be a Task"):
        profile("digits")  # type: ignore[arg-type] # the mistake that is tested
    with pytest.raises(SettingError, match="must be a Space"):
        profile(task, "full")  # type: ignore[arg-type] # the mistake that is tested
    with pytest.raises(SettingError, match="'ray' or 'local'"):
        profile(task, space, executor="cluster")
    with pytest.raises(SettingError, match="latency = 'yes': must be True or False"):
        profile(task, space, latency="yes")  # type: ignore[arg-type] # the mistake that is tested
    with pytest.raises(SettingError, match="resources = 3: must be Resources"):
        profile(task, space, resources=3)  # type: ignore[arg-type] # the mistake that is tested


def test_a_space_without_layer_steps_is_said(task: Task) -> None:
    """Coding and recovery change no layer: there is nothing to measure, which is no error."""
    console = Console(file=io.StringIO(), width=200)
    found, check = measure(task, Space.from_task(task, {"entropy": {}}), "local", Resources(), console)
    assert found.rows() == []
    assert check is not None
    assert check.rows == ()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "the space has no step that changes a layer\n"
