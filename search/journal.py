"""The append-only file of a run: a JSON line for each start and each end of a trial, flushed to disk before anybody is
told.

The first line says what the run is of, so that it can't be continued with another model, data or space. A line torn by
a crash is cut off when the journal is opened again. Where the record of a run is kept elsewhere, its lines go there
first, and the file is a copy.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..spaces.errors import RunError
from .folder import JOURNAL as FILE
from .folder import clear
from .ownership import Ownership
from .record import Record, Unfinished, check_same, end_line, loss_line, many, start_line
from .result import Result
from .trial import Job

#: Of the header of a copy: where the record is.
ELSEWHERE = "storage"
#: Of the header of a record elsewhere: tells whether a copy is of it.
_NONCE = "nonce"


class Storage(Protocol):
    """Another place for a run's record, owned by this process; see `StudyRecord`."""

    place: str
    header: dict[str, Any] | None

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What is recorded, in order."""
        ...

    def create(self, header: Mapping[str, Any]) -> None:
        """Begin the record of a new run."""
        ...

    def clear(self) -> None:
        """Discard the run, if there is one."""
        ...

    def append(self, lines: Sequence[Mapping[str, Any]], what: str) -> None:
        """Record lines, or raise RunError."""
        ...


class Journal:
    """The journal of one run folder, owned by one process; see `Book`.

    Parameters
    ----------
    folder
        The run folder; made if it doesn't exist.
    header
        What the run is of, see `identity`.
    fresh
        Discard what an earlier run left in the folder, and in the storage, once they are owned.
    storage
        Where the record is, if it isn't this file.

    Raises
    ------
    RunError
        If another process owns the folder, it can't be written, its journal is of another run, or the record is
        elsewhere.
    """

    def __init__(
        self, folder: Path, header: Mapping[str, Any], fresh: bool = False, storage: Storage | None = None
    ) -> None:
        self.path, self._storage = folder / FILE, storage
        self._held: list[dict[str, Any]] = []
        self._owner = Ownership(folder)
        try:
            if fresh:
                clear(folder)
            if storage is not None:
                self._copy(storage, header, fresh)
            known, self._record = read(folder) if self.path.exists() else (None, Record())
            self._file = self._open(header, known)
        except OSError as error:
            self._owner.release()
            raise RunError(f"{self.path}: can't be written ({error.strerror}).") from error
        except RunError:
            self._owner.release()
            raise

    def _copy(self, storage: Storage, header: Mapping[str, Any], fresh: bool) -> None:
        """Make the file what the storage has."""
        if fresh:
            storage.clear()
        here = read(self.path.parent)[0] if self.path.exists() else None
        there = storage.header
        if here is not None and (there is None or here.get(_NONCE) != there.get(_NONCE)):
            raise RunError(
                f"{self.path}: the run is recorded in {here.get(ELSEWHERE, 'this file')}, and {storage.place} has "
                f"{'none of that name' if there is None else 'another one of that name'}. Resume it as it was started, "
                "or give another folder."
            )
        if there is None:
            there = {**header, _NONCE: secrets.token_hex(8)}
            storage.create(there)
        check_same(there, header, storage.place)
        with self.path.open("wb", buffering=0) as file:
            _write(file, [{"run": {**there, ELSEWHERE: storage.place}}, *storage.lines])

    def _open(self, header: Mapping[str, Any], known: Mapping[str, Any] | None) -> FileIO:
        if known is None:
            file = self.path.open("wb", buffering=0)  # over a header line torn by a crash, if there is one
            _write(file, [{"run": dict(header)}])
            _sync_folder(self.path.parent)
            return file
        check_same(known, header, self.path)
        if self._storage is None and ELSEWHERE in known:
            raise RunError(
                f"{self.path}: is a copy: the run is recorded in {known[ELSEWHERE]}. Resume it with that storage "
                "(--storage; in Python: storage=)."
            )
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

    def _append(self, new: Sequence[Mapping[str, Any]], what: str) -> None:
        """Write what was held back, and new lines: one write to the disk for all."""
        lines = [*self._held, *new]
        self._held.clear()  # what can't be written isn't tried again: some of it may be recorded elsewhere
        if not lines:
            return
        self._owner.check()
        if self._storage is not None:
            self._storage.append(lines, what)
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
        """Record finished trials, each with what the sampler needs to know it again; see `Book`."""
        self._held += [end_line(*entry) for entry in entries]
        for entry in entries:
            self._record.finished(*entry)

    def flush(self) -> None:
        """Record what has finished, if that isn't done yet; raises as `start`."""
        self._append([], f"trial {self._held[0]['trial']['number']}" if self._held else "")

    def close(self) -> None:
        """Give the folder up, with what has finished in it if that can still be recorded."""
        with suppress(RunError):
            self.flush()
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
        with path.open("rb") as file, many():
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
    except NotADirectoryError:
        raise RunError(f"{folder}: is a file, and not a run's folder; try {folder.with_suffix('')}.") from None
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
