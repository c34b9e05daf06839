"""The state of a trial's training on disk, so that an attempt goes on where one that was lost had come to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..spaces.errors import RunError
from .store import write_atomically

#: Seconds between two saves at least, and how many times as long as the last one took.
EVERY, SHARE = 30.0, 20.0


@dataclass
class FileSaves:
    """``<folder>/<digest>.<technique>.safetensors``; see `Saves`.

    Attributes
    ----------
    folder
        Of all trials.
    digest
        Of the trial's recipe.
    """

    folder: Path
    digest: str

    def __post_init__(self) -> None:
        self._next = time.monotonic() + EVERY

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.digest}.{name}.safetensors"

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what an earlier attempt saved under this version; a file that can't be read is none."""
        with (
            suppress(OSError, ValueError, KeyError, TypeError, SafetensorError),
            safe_open(self._path(name), framework="pt") as file,
        ):
            about = json.loads(file.metadata()["state"])
            if about["version"] == version("paretopress"):
                return {key: file.get_tensor(key) for key in file.keys()}, about["facts"]  # noqa: SIM118 - no dictionary
        return None

    def due(self) -> bool:
        """Whether the last save is long ago, for what one takes."""
        return time.monotonic() >= self._next

    def save(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep a state; where the disk is full, training goes on without."""
        start = time.monotonic()
        about = json.dumps({"version": version("paretopress"), "facts": dict(facts)})
        # Copied: tensors that share memory can't be written, and a worker may have them on a device.
        data = save({key: t.detach().cpu().clone().contiguous() for key, t in tensors.items()}, {"state": about})
        with suppress(RunError):
            write_atomically(self._path(name), data)
        end = time.monotonic()
        self._next = end + max(EVERY, SHARE * (end - start))

    def remove(self) -> None:
        """Remove all that the trial kept."""
        for path in self.folder.glob(f"{self.digest}.*") if self.folder.is_dir() else ():
            with suppress(OSError):
                path.unlink()
