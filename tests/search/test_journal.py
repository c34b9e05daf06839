"""The record of a run: nothing finished is lost, nothing foreign is taken for ours."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.journal import FILE, Journal, identity, read
from paretopress.search.result import Objective, Result
from paretopress.spaces.errors import RunError
from paretopress.spaces.recipe import Recipe, Step
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task

HEADER = {"schema": 1, "name": "t", "task": "aa", "space": "bb", "objectives": [["accuracy", "maximize"]]}


def result(number: int) -> Result:
    """Return a result with everything a line can hold."""
    recipe = Recipe.of([Step.of("conv.é", "integer", bits=number + 2, granularity="channel")])
    figures = {"accuracy": Measurement(0.5 + number / 100, "", (0.4, 0.7), 100, {"note": "ü\n"})}
    return Result(number, recipe, figures, "ok", "", 0.25, 7, "tpe", {"train": 0.1})


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    """Every field of a result survives the file, and so does what the sampler needs."""
    with Journal(tmp_path, HEADER) as journal:
        journal.append(result(0), {"generation": 3})
        journal.append(Result(1, Recipe(), {}, "failed", "it broke"))
    header, lines = read(tmp_path)
    assert header == HEADER
    assert lines == [(result(0), {"generation": 3}), (Result(1, Recipe(), {}, "failed", "it broke"), {})]


def test_a_journal_torn_at_any_byte_opens_and_goes_on(tmp_path: Path) -> None:
    """Wherever a crash cut the file, whole lines are kept, the tail is dropped and writing continues."""
    whole = tmp_path / "whole"
    with Journal(whole, HEADER) as journal:
        journal.append(result(0))
        journal.append(result(1))
    data = (whole / FILE).read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in range(len(data) + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / FILE).write_bytes(data[:cut])
        kept = max(0, sum(end <= cut for end in ends) - 1)
        with Journal(folder, HEADER) as journal:
            assert len(journal.results) == kept
            journal.append(result(5))
        assert [r.number for r, _ in read(folder)[1]] == [*range(kept), 5]


@pytest.mark.parametrize(
    ("key", "label"),
    [("task", "task"), ("space", "search space"), ("objectives", "objectives"), ("schema", "journal format")],
)
def test_the_journal_of_another_run_is_refused(tmp_path: Path, key: str, label: str) -> None:
    """The message says what differs, and the journal is left as it was."""
    with Journal(tmp_path, HEADER) as journal:
        journal.append(result(0))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(RunError, match=label):
        Journal(tmp_path, {**HEADER, key: "other"})
    assert (tmp_path / FILE).read_bytes() == before
    with Journal(tmp_path, HEADER) as journal:  # the refusal released the lock
        assert len(journal.results) == 1


def test_a_second_process_is_refused_at_once(tmp_path: Path) -> None:
    """Two drivers never write to one folder."""
    script = (
        "import sys, json, pathlib\nfrom paretopress.search.journal import Journal\n"
        "from paretopress.spaces.errors import RunError\n"
        "try: Journal(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))\nexcept RunError as e: print(e)\n"
    )
    with Journal(tmp_path, HEADER):
        command = [sys.executable, "-c", script, str(tmp_path), json.dumps(HEADER)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "another process" in text


def test_a_line_changed_by_hand_is_named(tmp_path: Path) -> None:
    """A whole line that is no JSON is an error with its number, not silently dropped."""
    with Journal(tmp_path, HEADER) as journal:
        journal.append(result(0))
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0], "oops", lines[1], ""]))
    with pytest.raises(RunError, match="line 2"):
        read(tmp_path)


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path: Path) -> None:
    """Reading nothing is a user's mistake, with advice."""
    with pytest.raises(RunError, match="paretopress search"):
        read(tmp_path)


def test_a_full_disk_stops_with_the_reason_and_keeps_the_rest(tmp_path: Path) -> None:
    """A line that can't be written is cut off; what was recorded before stays readable."""
    with Journal(tmp_path, HEADER) as journal:
        journal.append(result(0))
        with (
            mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
            pytest.raises(RunError, match="No space left"),
        ):
            journal.append(result(1))
    assert [r.number for r, _ in read(tmp_path)[1]] == [0]


def test_identity_changes_with_what_is_searched(task: Task, space: Space) -> None:
    """Another space or other objectives give another header; the same ones the same."""
    goals = (Objective("accuracy", "maximize"), Objective("size", "minimize"))
    base = identity(task, space, goals)
    assert base == identity(task, space, goals)
    assert base != identity(task, space.without("fc"), goals)
    assert base != identity(task, space, goals[:1])
