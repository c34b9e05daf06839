"""The append-only record of a run: one JSON line a trial, written and flushed to disk before anybody is told.

The first line says what the run is of, so that it can't be continued with another model, data or space. A line
torn by a crash is cut off when the journal is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ..evaluators.base import Evaluator
from ..spaces.errors import RunError
from ..spaces.space import Space
from ..spaces.task import Task
from .folder import JOURNAL as FILE
from .folder import clear, in_use
from .result import Objective, Result

SCHEMA = 1


def identity(
    task: Task, space: Space, objectives: Sequence[Objective], metrics: Sequence[Evaluator] = ()
) -> dict[str, Any]:
    """Return the header that makes two runs the same; ``metrics`` is what is measured."""
    conditions = {m.name: m.conditions for m in metrics if m.conditions}
    return {
        "schema": SCHEMA,
        "name": task.name,
        "task": task.digest,
        "space": space.digest,
        "objectives": [[o.name, o.direction] for o in objectives],
        **({"conditions": conditions} if conditions else {}),
    }


class Journal:
    """The journal of one run folder, held under a lock by one process.

    Parameters
    ----------
    folder
        The run folder; made if it doesn't exist.
    header
        What the run is of, see `identity`.
    fresh
        Discard what an earlier run left in the folder, once the lock is held.

    Raises
    ------
    RunError
        If another process holds the folder, it can't be written, or its journal is of another run.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], fresh: bool = False) -> None:
        self.folder = folder
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(in_use(folder)) from None
        except OSError as error:
            raise RunError(
                f"{folder}: the run folder can't be written ({error.strerror}). Give a folder you may write to."
            ) from error
        try:
            if fresh:
                clear(folder)
            known, self.results = read(folder) if self.path.exists() else (None, [])
            self._file = self._open(header, known)
        except OSError as error:
            self._lock.release()
            raise RunError(f"{self.path}: can't be written ({error.strerror}).") from error
        except RunError:
            self._lock.release()
            raise

    def _open(self, header: Mapping[str, Any], known: Mapping[str, Any] | None) -> BinaryIO:
        if known is None:
            file: BinaryIO = self.path.open("ab")
            file.truncate(0)  # a header line torn by a crash
            self._write(file, {"run": dict(header)})
            _sync_folder(self.folder)
            return file
        for key, label in (
            ("schema", "journal format"),
            ("task", "task (model, validation data or metric)"),
            ("objectives", "objectives"),
            ("space", "search space"),
            ("conditions", "way of measuring"),
        ):
            if known.get(key) != header.get(key):
                raise RunError(
                    f"{self.path} is the journal of another run: its {label} is {known.get(key)!r}, this one's is "
                    f"{header.get(key)!r}. Resume with the settings it was started with, or start over in a new folder "
                    "(or with --fresh, which discards it)."
                )
        file = self.path.open("r+b")
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        return file

    @staticmethod
    def _write(file: BinaryIO, line: Mapping[str, Any]) -> None:
        file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

    def append(self, result: Result, sampler: Mapping[str, Any] | None = None) -> None:
        """Record a finished trial; on return it is on disk.

        Raises
        ------
        RunError
            If the disk is full or gone; a line half-written is cut off, what was recorded stays.
        """
        end = self._file.tell()
        try:
            self._write(self._file, {"trial": result.to_json(), "sampler": dict(sampler or {})})
        except OSError as error:
            with suppress(OSError):  # else the torn tail is cut off when the journal is opened again
                self._file.truncate(end)
            raise RunError(
                f"{self.path}: trial {result.number} can't be recorded ({error.strerror}). "
                "Free some space and resume: everything before it is kept."
            ) from error
        self.results.append((result, dict(sampler or {})))

    def close(self) -> None:
        """Release the folder."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(folder: Path) -> tuple[dict[str, Any] | None, list[tuple[Result, dict[str, Any]]]]:
    """Return the header and the results of a run folder; a torn last line is ignored.

    The header is None if not even that was written.

    Raises
    ------
    RunError
        If there is no journal, or a whole line in it can't be read.
    """
    path = folder / FILE
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        raise RunError(f"{folder}: there is no run here (no {FILE}). Start one with: paretopress search.") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read ({error.strerror}).") from error
    header: dict[str, Any] | None = None
    results: list[tuple[Result, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            if number == 1:
                header = dict(data["run"])
            else:
                results.append((Result.from_json(data["trial"]), dict(data.get("sampler", {}))))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}, line {number}: not a journal line ({error}). The file was changed from outside; remove that "
                "line, or start over with --fresh."
            ) from error
    return header, results


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
