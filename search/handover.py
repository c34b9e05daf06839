"""Results on disk between a worker and the journal, so that none is lost when the driver dies at the wrong moment.

A worker that can write into the run folder leaves each result there before it returns it; the driver removes the file
once the result is in the journal. What lies there when a run is resumed was finished and never told: it is taken over.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..compressors.draft import NoSaves
from ..spaces.errors import RunError
from .folder import CHECKPOINTS, PENDING
from .result import Result
from .store import write_atomically
from .training_saves import FileSaves
from .trial import Finished

_SUFFIX = ".trial"
#: Tells a worker that the folder it sees is the driver's, and not one of the same name on its own disk.
_MARK = "driver-"


@dataclass(frozen=True)
class Handover:
    """A run's folder of results that are not in its journal yet.

    Attributes
    ----------
    folder
        Of the run.
    driver
        Names the session.
    """

    folder: Path
    driver: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def place(self) -> Path:
        """Where the results are."""
        return self.folder / PENDING

    def open(self) -> None:
        """Make the folder, for the driver.

        Raises
        ------
        RunError
            If the disk is full or the folder can't be written.
        """
        write_atomically(self.place / f"{_MARK}{self.driver}", b"")

    def leave(self, finished: Finished) -> None:
        """Keep a worker's result, if the run's folder is there on its machine and can be written."""
        if self.here:
            data = finished.data or b""
            digest = hashlib.sha256(data).hexdigest() if finished.data is not None else ""
            head = {"trial": finished.result.to_json(), "attempt": finished.attempt, "sha256": digest}
            with suppress(RunError):  # it is returned as well
                # Not forced to the disk: it shall outlive the driver, and after a power cut the trial runs again.
                write_atomically(self._path(finished.attempt), json.dumps(head).encode() + b"\n" + data, force=False)

    @property
    def here(self) -> bool:
        """Whether this machine has the driver's folder, and not another one of the same name."""
        return (self.place / f"{_MARK}{self.driver}").exists()

    def saves(self, digest: str) -> FileSaves | NoSaves:
        """Return where a trial's training keeps its state."""
        return FileSaves(self.folder / CHECKPOINTS, digest) if self.here else NoSaves()

    def forget(self, digest: str) -> None:
        """Remove the state of a trial's training."""
        FileSaves(self.folder / CHECKPOINTS, digest).remove()

    def _path(self, attempt: str) -> Path:
        return self.place / f"{attempt}{_SUFFIX}"

    def left(self) -> Iterator[Finished]:
        """Yield what workers of earlier sessions left, for the driver; what can't be read is none."""
        for path in sorted(self.place.glob(f"*{_SUFFIX}")) if self.place.is_dir() else ():
            with suppress(OSError, ValueError, KeyError, TypeError):
                text, _, data = path.read_bytes().partition(b"\n")
                head = json.loads(text)
                whole = hashlib.sha256(data).hexdigest() == head["sha256"] if head["sha256"] else not data
                if whole:
                    yield Finished(Result.from_json(head["trial"]), data or None, str(head["attempt"]))

    def drop(self, ended: Iterable[Finished]) -> None:
        """Remove what is in the journal now; the training of a trial that failed may go on one day."""
        for end in ended:
            with suppress(OSError):
                self._path(end.attempt).unlink()
            if end.result.status != "failed":
                self.forget(end.result.recipe.digest)

    def close(self) -> None:
        """Remove everything: the run has its front."""
        for path in self.place.iterdir() if self.place.is_dir() else ():
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            os.rmdir(self.place)
