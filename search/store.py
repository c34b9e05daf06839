"""The files of the run's best models so far, by recipe."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from ..spaces.errors import RunError

#: What a disk says that has no room left, or a user's share of it.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, data: bytes, force: bool = True) -> None:
    """Write a file so that it is there whole or not at all; without ``force``, a power cut may leave less of it.

    Raises
    ------
    RunError
        If the disk is full or the folder can't be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            if force:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        advice = "Free some space and resume." if error.errno in _FULL else "Give a place that you may write to."
        raise RunError(f"{path}: can't be written ({error.strerror}). {advice}") from error


class Store:
    """``<run>/models/<digest>.safetensors`` for the trials that are on the front."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"

    def path(self, digest: str) -> Path:
        """Return where the model of a recipe is kept."""
        return self.folder / f"{digest}.safetensors"

    def save(self, digest: str, data: bytes) -> None:
        """Keep a model."""
        write_atomically(self.path(digest), data)

    def keep_only(self, digests: Iterable[str]) -> None:
        """Remove every model that is not named."""
        names = {f"{d}.safetensors" for d in digests}
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                if file.name not in names:
                    file.unlink(missing_ok=True)
