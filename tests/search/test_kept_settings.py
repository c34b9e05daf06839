"""What a run folder says of its settings, and whose folder it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paretopress.search.cli import main
from paretopress.search.config import check
from paretopress.search.folder import SETTINGS
from paretopress.search.kept_settings import read_kept, save
from paretopress.spaces.errors import RunError

DIGITS = "paretopress.search.examples.digits:task"


def test_saved_settings_are_read_back(tmp_path: Path) -> None:
    """A run folder knows its settings, where its YAML file was, and that it is this user's."""
    config = check({"task": DIGITS, "techniques": {"integer": {"bits": [4]}}, "seed": 9}, "x")
    save(config, tmp_path / "r", tmp_path / "r.yaml")
    kept = read_kept(tmp_path / "r")
    assert (kept.config, kept.origin, kept.own) == (config, tmp_path, True)
    with pytest.raises(RunError, match="started from Python"):
        read_kept(tmp_path / "other")


@pytest.mark.parametrize("edit", ["task", "from", "seal", "home"])
def test_a_folder_that_another_made_or_edited_is_not_ones_own(
    edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task, another place for its module, a seal of another key or none: each is told apart."""
    save(check({"task": DIGITS}, "x"), tmp_path, tmp_path / "r.yaml")
    data = json.loads((tmp_path / SETTINGS).read_text())
    if edit == "task":
        data["config"]["task"] = "evil:task"
    elif edit == "from":
        data["from"] = "/elsewhere"
    elif edit == "seal":
        del data["seal"]
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / SETTINGS).write_text(json.dumps(data))
    assert not read_kept(tmp_path).own


def test_the_key_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can read it; without a place for it, settings are kept unsealed and are nobody's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    save(check({"task": DIGITS}, "x"), tmp_path / "a", tmp_path / "r.yaml")
    key = tmp_path / "home/paretopress/key"
    assert key.stat().st_mode & 0o077 == 0
    assert len(key.read_bytes()) == 32
    assert [p.name for p in key.parent.iterdir()] == ["key"]
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    save(check({"task": DIGITS}, "x"), tmp_path / "b", tmp_path / "r.yaml")
    assert not read_kept(tmp_path / "b").own


def test_what_a_foreign_folder_names_is_imported_only_when_the_user_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume, verify and export of a folder that was sent leave its module alone, and say what to do."""
    home = tmp_path / "theirs"
    home.mkdir()
    (home / "sent_by_others.py").write_text(
        "import pathlib\n"
        "pathlib.Path(__file__).with_name('ran').touch()\n"
        "from paretopress.search.examples.digits import task\n"
    )
    (home / "run.yaml").write_text(
        "task: sent_by_others:task\ntechniques: {integer: {bits: [8, 4]}}\nsampler: random\nexecutor: local\n"
        "budget: {trials: 2}\n"
    )
    assert command("search", home / "run.yaml") == 0
    mine = Path(shutil.copytree(home / "run", tmp_path / "mine"))
    (home / "ran").unlink()
    monkeypatch.delitem(__import__("sys").modules, "sent_by_others")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert command("resume", mine, "--trials", "3") == 2
    assert "name it: --task sent_by_others:task" in capsys.readouterr().err
    assert command("verify", mine) == 0
    told = capsys.readouterr().out
    assert "not checked: accuracy on test (somebody else started the run" in told
    assert "give --task" in told
    assert command("export", mine, "--point", "0") == 0
    assert "its task was not imported" in capsys.readouterr().out
    assert not (home / "ran").exists()
    monkeypatch.chdir(home)
    assert command("resume", mine, "--trials", "3", "--task", "sent_by_others:task") == 0
    assert (home / "ran").exists()
    monkeypatch.chdir(tmp_path)
    assert command("resume", mine, "--trials", "4") == 0  # it is this user's from now on


def command(*words: str | Path) -> object:
    """Run a command and return its status."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0
