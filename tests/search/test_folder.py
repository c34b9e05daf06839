"""The run folder: whose files are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.search.folder import JOURNAL, LOCK, Existing, check
from paretopress.spaces.errors import RunError


@pytest.mark.parametrize("existing", ["refuse", "fresh", "resume"])
@pytest.mark.parametrize("name", ["models/mine.pt", "front/important.txt", "front.json", "config.json", "baseline/b"])
def test_files_that_no_run_wrote_are_somebodys(tmp_path: Path, name: str, existing: Existing) -> None:
    """A project may well have a folder "models": a search that starts there would clear it."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match="holds no run|no run to resume"):
        check(tmp_path, existing)
    assert [p.name for p in tmp_path.iterdir()] == [Path(name).parts[0]]


def test_what_a_run_left_is_its_own(tmp_path: Path) -> None:
    """With its record or its lock, which stays, a folder may be used again; without both where the record is in a
    database, and the run is resumed.
    """
    (tmp_path / "models").mkdir()
    check(tmp_path, "resume", recorded_here=False)
    (tmp_path / LOCK).touch()
    check(tmp_path, "refuse")
    check(tmp_path, "fresh")
    (tmp_path / JOURNAL).touch()
    (tmp_path / LOCK).unlink()
    check(tmp_path, "fresh")
    with pytest.raises(RunError, match="holds a run already"):
        check(tmp_path, "refuse")
