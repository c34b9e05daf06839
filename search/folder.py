"""The run folder: what is ours in it, and when it may be used."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from ..spaces.errors import RunError, SettingError

JOURNAL = "journal.jsonl"
#: What a run was started with, if that was a file.
SETTINGS = "config.json"
#: Held by the process that searches in the folder; and what names it.
LOCK, OWNER = ".lock", ".owner"
#: Results that workers left for a driver that was gone, and the state of training that was interrupted.
PENDING, CHECKPOINTS = "pending", "checkpoints"

#: What is said where there is nothing to go on with.
NO_RUN = "there is no run to resume. Start one: paretopress search, or existing='refuse' in Python."

#: What may lie beside a run without being part of it: starting over leaves it alone.
BESIDE = ("profile.html", "profile.json")

Existing = Literal["refuse", "resume", "fresh"]
Retry = Literal["unfinished", "errored", "restart-errored"]

#: Everything a run writes. Starting over removes these and nothing else, except the lock, which is held then.
OURS = (
    JOURNAL, SETTINGS, "front.json", "report.html", "models", "front", "front.new", "front.old", "baseline",
    PENDING, CHECKPOINTS, LOCK, OWNER,
)  # fmt: skip


def resumed_by(folder: Path) -> str:
    """Return how the run in a folder is resumed: settings are there where it was started from the command line."""
    return f"paretopress resume {folder}" if (folder / SETTINGS).is_file() else "search(..., existing='resume')"


def check(folder: Path, existing: Existing, recorded_here: bool = True) -> None:
    """Check that the folder may be used; nothing is written.

    Parameters
    ----------
    folder
        May not exist.
    existing
        What to do with a run in it.
    recorded_here
        Whether the run's record is in the folder; where it is elsewhere, a run can be resumed in an empty one.

    Raises
    ------
    RunError
        If it holds a run and ``existing`` is "refuse", holds none and it is "resume", is in use, is no folder, can't
        be written, or holds other people's files.
    """
    if existing not in ("refuse", "resume", "fresh"):
        raise SettingError("existing", existing, "must be 'refuse', 'resume' or 'fresh'")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder. Give another run folder.")
    has_run = (folder / JOURNAL).exists()
    if existing == "resume" and not has_run and recorded_here:
        raise RunError(f"{folder}: {NO_RUN}")
    if existing == "refuse" and has_run:
        raise RunError(
            f"{folder}: holds a run already. Continue it ({resumed_by(folder)}), start over (--fresh, or "
            "existing='fresh'; its results are discarded), or give another folder."
        )
    if folder.is_dir():
        # Without a record or a lock, which stays, a folder "models" or a file "config.json" is somebody's own.
        elsewhere = existing == "resume" and not recorded_here
        known = (*BESIDE, *(OURS if elsewhere or (folder / LOCK).exists() else ()))
        strange = sorted(p.name for p in folder.iterdir() if p.name not in known and OWNER not in p.name)
        if strange and not has_run:
            raise RunError(
                f"{folder}: is not empty and holds no run (it has {', '.join(strange[:3])}). "
                "Give an empty or new folder."
            )
    check_place(folder)
    lock = FileLock(folder / LOCK)
    try:
        if (folder / LOCK).exists():
            with lock.acquire(timeout=0):
                pass
    except Timeout:
        raise RunError(in_use(folder)) from None


def check_place(folder: Path, what: str = "the run folder") -> None:
    """Check that files can be written into a folder, whatever it holds.

    Parameters
    ----------
    folder
        May not exist.
    what
        Is it, in messages.

    Raises
    ------
    RunError
        If they can't.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".paretopress-", dir=nearest)).rmdir()  # rights alone don't tell, e.g. of /proc
    except OSError as error:
        raise RunError(
            f"{folder}: {what} can't be written ({error.strerror}). Give a folder that you may write to."
        ) from error


def in_use(folder: Path) -> str:
    """Return the message for a folder that another process searches in."""
    who = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError):  # it names itself a moment after it has the lock
        owner = json.loads((folder / OWNER).read_text())
        who = f"process {int(owner['process'])} on {owner['host']}"
    return f"{folder}: {who} is running a search in this folder. Wait for it, or give another folder."


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else.

    Raises
    ------
    RunError
        If something can't be removed.
    """
    try:
        for name in set(OURS) - {LOCK, OWNER}:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: an earlier run can't be removed ({error.strerror}: {error.filename}).") from error
