"""The append-only file of a run: a JSON line for each start and each end of a trial, flushed to disk before anybody is
told.

The first line says what the run is of, so that it can't be continued with another model, data or space. A line torn by
a crash is cut off when the journal is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from ..spaces.errors import RunError
from .folder import JOURNAL as FILE
from .folder import clear
from .ownership import Ownership
from .record import Record, Unfinished, check_same, end_line, loss_line, start_line
from .result import Result
from .trial import Job


class Journal:
    """The journal of one run folder, owned by one process; see `Book`.

    Parameters
    ----------
    folder
        The run folder; made if it doesn't exist.
    header
        What the run is of, see `identity`.
    fresh
        Discard what an earlier run left in the folder, once it is owned.

    Raises
    ------
    RunError
        If another process owns the folder, it can't be written, or its journal is of another run.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], fresh: bool = False) -> None:
        self.path = folder / FILE
        self._owner = Ownership(folder)
        try:
            if fresh:
                clear(folder)
            known, self._record = read(folder) if self.path.exists() else (None, Record())
            self._file = self._open(header, known)
        except OSError as error:
            self._owner.release()
            raise RunError(f"{self.path}: can't be written ({error.strerror}).") from error
        except RunError:
            self._owner.release()
            raise

    def _open(self, header: Mapping[str, Any], known: Mapping[str, Any] | None) -> FileIO:
        if known is None:
            file = self.path.open("wb", buffering=0)  # over a header line torn by a crash, if there is one
            _write(file, [{"run": dict(header)}])
            _sync_folder(self.path.parent)
            return file
        check_same(known, header, self.path)
        file = self.path.open("r+b", buffering=0)
        file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        return file

    @property
    def results(self) -> list[tuple[Result, dict[str, Any]]]:
        """See `Record`."""
        return self._record.results

    @property
    def unfinished(self) -> dict[str, Unfinished]:
        """See `Record`."""
        return self._record.unfinished

    def _append(self, lines: Sequence[Mapping[str, Any]], what: str) -> None:
        self._owner.check()
        end = self._file.tell()
        try:
            _write(self._file, lines)
        except OSError as error:
            with suppress(OSError):  # else the torn tail is cut off when the journal is opened again
                self._file.truncate(end)
                self._file.seek(end)
            raise RunError(
                f"{self.path}: {what} can't be recorded ({error.strerror}). "
                "Free some space and resume: everything before it is kept."
            ) from error

    def start(self, jobs: Sequence[Job]) -> None:
        """Record that trials are about to run; on return it is on disk.

        Raises
        ------
        RunError
            If the disk is full or gone, or another process has taken the folder over. Of what was half-written nothing
            stays; what was recorded before does.
        """
        lines = [start_line(job) for job in jobs]
        self._append(lines, f"the start of trial {jobs[0].number}")
        for line in lines:
            self._record.started(line)

    def lose(self, jobs: Sequence[Job], reason: str, blame: bool) -> None:
        """Record that trials were given up before their end; raises as `start`.

        Parameters
        ----------
        jobs
            Their attempts.
        reason
            One line.
        blame
            Whether it may be their own doing, so that they aren't tried for ever.
        """
        self._append([loss_line(job, reason, blame) for job in jobs], f"the loss of trial {jobs[0].number}")
        for job in jobs:
            self._record.lost(job.recipe.digest, blame)

    def finish(self, entries: Sequence[tuple[Result, Mapping[str, Any]]]) -> None:
        """Record finished trials, each with what the sampler needs to know it again; raises as `start`."""
        self._append([end_line(*entry) for entry in entries], f"trial {entries[0][0].number}")
        for entry in entries:
            self._record.finished(*entry)

    def close(self) -> None:
        """Give the folder up."""
        self._file.close()
        self._owner.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(folder: Path) -> tuple[dict[str, Any] | None, Record]:
    """Return the header and what is recorded in a run folder; a torn last line is ignored.

    The header is None if not even that was written.

    Raises
    ------
    RunError
        If there is no journal, or a whole line in it can't be read.
    """
    path = folder / FILE
    header: dict[str, Any] | None = None
    record, number = Record(), 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - the number of the line is for the message
                if not line.endswith(b"\n"):
                    break
                data = json.loads(line)
                if header is None:
                    header = dict(data["run"])
                else:
                    record.read(data)
    except FileNotFoundError:
        raise RunError(f"{folder}: there is no run here (no {FILE}). Start one with: paretopress search.") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}, line {number}: not a journal line ({error}). The file was changed from outside; remove that "
            "line, or start over with --fresh."
        ) from error
    return header, record


def _write(file: FileIO, lines: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
    left = memoryview(text.encode())
    while left:  # a disk that is nearly full takes a part, and says so at the next
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
