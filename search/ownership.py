"""Who may write into a run folder: one process at a time, on whatever machine.

A lock keeps out other processes of this machine, and of others where the file system shares locks. Where it doesn't, a
file in the folder names the owner, who touches it now and then: an owner that is alive on another machine is respected,
and one whose folder was taken over writes nothing more. Ages are told by the file server's own clock.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..spaces.errors import RunError
from .folder import LOCK, OWNER, in_use

#: Every so many seconds the owner touches its file; one on another machine that hasn't for so long is gone.
TOUCH, GONE = 5.0, 60.0


class Ownership:
    """A run folder that is this process's own, until `release`.

    Parameters
    ----------
    folder
        Made if it doesn't exist.

    Raises
    ------
    RunError
        If another process owns it, or it can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / OWNER
        self.token = secrets.token_hex(8)
        self._released = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(in_use(folder)) from None
        except OSError as error:
            raise RunError(
                f"{folder}: the run folder can't be written ({error.strerror}). Give a folder you may write to."
            ) from error
        try:
            self._write()  # its age is the file server's "now"
            self._respect_others()
        except OSError as error:
            self._lock.release()
            raise RunError(f"{folder}: the run folder can't be written ({error.strerror}).") from error
        except RunError:
            self._lock.release()
            raise
        threading.Thread(target=self._touch, name="paretopress-owner", daemon=True).start()

    def _touch(self) -> None:
        while not self._released.wait(TOUCH):
            if self._is_mine():
                with suppress(OSError):  # a disk that is full or gone is told of by the next write
                    os.utime(self._file)

    def _is_mine(self) -> bool:
        owner = _owner(self._file)
        return owner is not None and owner.get("token") == self.token

    def _mine(self) -> Path:
        return self._file.with_name(f"{OWNER}.{self.token}")

    def _write(self) -> None:
        about = {"host": socket.gethostname(), "process": os.getpid(), "token": self.token}
        self._mine().write_text(json.dumps(about))

    def _respect_others(self) -> None:
        """Become the owner unless one is alive elsewhere."""
        mine = self._mine()
        try:
            owner = _owner(self._file)
            if owner is not None and owner.get("host") != socket.gethostname():
                age = mine.stat().st_mtime - self._file.stat().st_mtime
                if age < GONE:
                    raise RunError(
                        f"{self._folder}: process {owner.get('process')} on {owner.get('host')} is running a search in "
                        f"this folder (seen {max(0.0, age):.0f} s ago). Wait for it; if it was killed, try again in "
                        f"{GONE:.0f} s."
                    )
            mine.replace(self._file)
        except BaseException:
            mine.unlink(missing_ok=True)
            raise

    def check(self) -> None:
        """Check that the folder is still this process's own: before every write.

        Raises
        ------
        RunError
            If another process has taken it over, or it is gone.
        """
        if self._is_mine():
            return
        owner = _owner(self._file)
        now = f"process {owner.get('process')} on {owner.get('host')}" if owner else "nobody: it was removed or lost"
        raise RunError(
            f"{self._folder}: the run folder isn't this process's own any more (its owner is {now}). What was recorded "
            "is kept; resume when the folder is there and no other process searches in it."
        )

    def release(self) -> None:
        """Give the folder up."""
        self._released.set()
        with suppress(OSError):
            if self._is_mine():
                self._file.unlink()
        self._lock.release()


def _owner(file: Path) -> dict[str, object] | None:
    """Return what the file says of the owner; None if there is none, or it was killed while it wrote."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
