"""Measured effects on disk, one file for a task: a profile is measured once, and an interrupted one goes on.

A line of JSON for each site; readers ignore a line that is torn or damaged, and measure that site again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..compressors.cache import LayerCache, cache_folder
from ..compressors.fingerprint import fingerprint
from ..spaces.catalogue import technique
from ..spaces.choices import Setting
from ..spaces.recipe import Step
from ..spaces.task import Task
from .effects import VERSION, Effect

#: Profiles that are kept; the oldest-used go first.
KEPT = 32


class ProfileStore:
    """Effects by site and setting.

    Parameters
    ----------
    task
        Its model, calibration data and loss decide which file it is.
    coder
        The container step that bytes are counted with.
    folder
        Of all caches; None keeps nothing.
    """

    def __init__(self, task: Task, coder: Step | None, folder: Path | None = None) -> None:
        self._found: dict[str, Effect] = {}
        self.file: Path | None = None
        if folder is None:
            return
        loss = getattr(task.loss, "__qualname__", type(task.loss).__qualname__)
        content = [VERSION, LayerCache.none().data_digest(task), str(coder), loss]
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
        self.file = folder / "profiles" / f"{name}.jsonl"
        try:
            lines = self.file.read_bytes().splitlines()
            self.file.touch()
        except OSError:
            return
        for line in lines:
            try:
                data = json.loads(line)
                self._found.update({key: Effect.from_json(effect) for key, effect in data.items()})
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    @classmethod
    def usual(cls, task: Task, coder: Step | None) -> ProfileStore:
        """Return the store in this machine's cache folder."""
        return cls(task, coder, cache_folder())

    @staticmethod
    def _key(site: str, setting: Setting) -> str:
        """Return what an effect is kept under: an edited technique has another key."""
        digest, _ = fingerprint(type(technique(setting.technique)))
        return f"{site}/{setting}/{digest[:12]}"

    def get(self, site: str, setting: Setting) -> Effect | None:
        """Return a known effect."""
        return self._found.get(self._key(site, setting))

    def put(self, site: str, effects: Mapping[Setting, Effect]) -> None:
        """Keep a site's effects; where the disk is full or read-only, only in memory."""
        entries = {self._key(site, setting): effect for setting, effect in effects.items()}
        self._found |= entries
        if self.file is None:
            return
        line: dict[str, Any] = {key: effect.to_json() for key, effect in entries.items()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if not self.file.exists():
                self._make_room(sorted(self.file.parent.glob("*.jsonl"), key=lambda f: f.stat().st_mtime))
            with self.file.open("ab") as file:
                file.write(b"\n" + json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except OSError:
            self.file = None

    @staticmethod
    def _make_room(files: Sequence[Path]) -> None:
        for old in files[: max(0, len(files) - KEPT + 1)]:
            old.unlink(missing_ok=True)
