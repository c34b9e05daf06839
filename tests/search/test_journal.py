"""The record of a run: nothing finished is lost, nothing foreign is taken for ours."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from paretopress.evaluators.base import Measurement
from paretopress.search.journal import FILE, Journal, read
from paretopress.search.record import SCHEMA, identity
from paretopress.search.result import Objective, Result
from paretopress.search.trial import Job
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
        journal.finish([(result(0), {"generation": 3})])
        journal.finish([(Result(1, Recipe(), {}, "failed", "it broke"), {})])
    header, record = read(tmp_path)
    assert header == HEADER
    assert record.results == [(result(0), {"generation": 3}), (Result(1, Recipe(), {}, "failed", "it broke"), {})]


def test_a_journal_torn_at_any_byte_opens_and_goes_on(tmp_path: Path) -> None:
    """Wherever a crash cut the file, whole lines are kept, the tail is dropped and writing continues."""
    whole = tmp_path / "whole"
    with Journal(whole, HEADER) as journal:
        journal.finish([(result(0), {})])
        journal.finish([(result(1), {})])
    data = (whole / FILE).read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in range(len(data) + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / FILE).write_bytes(data[:cut])
        kept = max(0, sum(end <= cut for end in ends) - 1)
        with Journal(folder, HEADER) as journal:
            assert len(journal.results) == kept
            journal.finish([(result(5), {})])
        assert [r.number for r, _ in read(folder)[1].results] == [*range(kept), 5]


@pytest.mark.parametrize(
    ("key", "label"),
    [("task", "task"), ("space", "search space"), ("objectives", "objectives")],
)
def test_the_journal_of_another_run_is_refused(tmp_path: Path, key: str, label: str) -> None:
    """The message says what differs, and the journal is left as it was."""
    with Journal(tmp_path, HEADER) as journal:
        journal.finish([(result(0), {})])
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(RunError, match=label):
        Journal(tmp_path, {**HEADER, key: "other"})
    assert (tmp_path / FILE).read_bytes() == before
    with Journal(tmp_path, HEADER) as journal:  # the refusal released the lock
        assert len(journal.results) == 1


def test_the_journal_of_a_newer_version_is_refused_and_one_of_an_older_goes_on(tmp_path: Path) -> None:
    """What a later version wrote isn't guessed at; what an earlier one wrote is continued."""
    for schema, refused in ((SCHEMA + 1, True), (1, False)):
        folder = tmp_path / str(schema)
        with Journal(folder, {**HEADER, "schema": schema}) as journal:
            journal.finish([(result(0), {})])
        if refused:
            with pytest.raises(RunError, match=f"journal format is {schema}"):
                Journal(folder, HEADER)
        else:
            with Journal(folder, HEADER) as journal:
                assert len(journal.results) == 1


def job(number: int, starts: int = 1) -> Job:
    """Return a job with the recipe of `result`."""
    known = result(number)
    return Job(number, known.recipe, known.seed, known.origin, None, starts, "abcd")


def test_what_was_started_and_has_no_end_is_unfinished(tmp_path: Path) -> None:
    """Starts, losses and blame survive the file; a result ends a trial."""
    with Journal(tmp_path, HEADER) as journal:
        journal.start([job(0), job(1), job(2)])
        journal.finish([(result(1), {})])
        journal.lose([job(0)], "its worker died", blame=True)
        journal.start([job(0, 2)])
        journal.lose([job(2)], "the session ended", blame=False)
        now = dict(journal.unfinished)
    for unfinished in (now, read(tmp_path)[1].unfinished):
        assert {u.number: (u.starts, u.losses) for u in unfinished.values()} == {0: (2, 1), 2: (0, 0)}
        assert unfinished[job(0).recipe.digest].recipe == job(0).recipe
        assert unfinished[job(0).recipe.digest].seed == job(0).seed


def test_a_result_takes_the_place_of_an_earlier_one_of_its_recipe(tmp_path: Path) -> None:
    """A failed trial that was run again counts once, with its last result."""
    failed = Result(0, result(0).recipe, {}, "failed", "it broke")
    with Journal(tmp_path, HEADER) as journal:
        journal.finish([(failed, {}), (result(1), {})])
        journal.finish([(result(0), {"n": 1})])
        journal.flush()
        assert journal.results == read(tmp_path)[1].results == [(result(0), {"n": 1}), (result(1), {})]


def test_what_has_finished_is_written_with_what_starts_next(tmp_path: Path) -> None:
    """One write to the disk for both: on return of the start all is there, in order; closing leaves nothing out."""
    with Journal(tmp_path, HEADER) as journal:
        journal.finish([(result(0), {})])
        with mock.patch("os.fsync", wraps=os.fsync) as forced:
            journal.start([Job(1, result(1).recipe)])
            journal.flush()
        assert forced.call_count == 1
        assert [r.number for r, _ in read(tmp_path)[1].results] == [0]
        journal.finish([(result(1), {})])
    assert [r.number for r, _ in read(tmp_path)[1].results] == [0, 1]


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
    assert f"process {os.getpid()} on " in text


def test_a_line_changed_by_hand_is_named(tmp_path: Path) -> None:
    """A whole line that is no JSON is an error with its number, not silently dropped."""
    with Journal(tmp_path, HEADER) as journal:
        journal.finish([(result(0), {})])
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0], "oops", lines[1], ""]))
    with pytest.raises(RunError, match="line 2"):
        read(tmp_path)


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path: Path) -> None:
    """Reading nothing is a user's mistake, with advice."""
    with pytest.raises(RunError, match="paretopress search"):
        read(tmp_path)


def test_a_place_where_nothing_can_be_written_is_refused() -> None:
    """A read-only file system, with the reason and what to do; here one where not even root may write."""
    with pytest.raises(RunError, match=r"the run folder can't be written .*Give a folder you may write to"):
        Journal(Path("/proc/run"), HEADER)


def test_a_full_disk_stops_with_the_reason_and_keeps_the_rest(tmp_path: Path) -> None:
    """A line that can't be written is cut off; what was recorded before stays readable."""
    with Journal(tmp_path, HEADER) as journal:
        journal.finish([(result(0), {})])
        journal.flush()
        journal.finish([(result(1), {})])
        with (
            mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
            pytest.raises(RunError, match="trial 1 can't be recorded .No space left"),
        ):
            journal.flush()
    assert [r.number for r, _ in read(tmp_path)[1].results] == [0]


def test_a_limit_of_the_file_system_stops_with_the_reason_too(tmp_path: Path) -> None:
    """A real write that is cut short: closing says nothing more, and the next session goes on where this one was."""
    script = (
        "import sys, json, pathlib, resource\nsys.path.insert(0, sys.argv[3])\n"
        "from test_journal import result, HEADER\nfrom paretopress.search.journal import FILE, Journal\n"
        "from paretopress.spaces.errors import RunError\nfolder = pathlib.Path(sys.argv[1])\n"
        "with Journal(folder, HEADER) as journal:\n"
        "    journal.finish([(result(0), {})])\n"
        "    journal.flush()\n"
        "    size = (folder / FILE).stat().st_size\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), resource.RLIM_INFINITY))\n"
        "    journal.finish([(result(1), {})])\n"
        "    try: journal.flush()\n    except RunError as e: print(e)\n"
    )
    for number, more in enumerate((0, 1, 100)):
        folder = tmp_path / str(number)
        command = [sys.executable, "-c", script, str(folder), str(more), str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "trial 1 can't be recorded (File too large)" in done.stdout
        with Journal(folder, HEADER) as journal:
            assert [r.number for r, _ in journal.results] == [0]


def test_identity_changes_with_what_is_searched(task: Task, space: Space) -> None:
    """Another space or other objectives give another header; the same ones the same."""
    goals = (Objective("accuracy", "maximize"), Objective("size", "minimize"))
    base = identity(task, space, goals)
    assert base == identity(task, space, goals)
    assert base != identity(task, space.without("fc"), goals)
    assert base != identity(task, space, goals[:1])
