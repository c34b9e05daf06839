"""A profile on disk: it is measured once, and an interrupted one goes on.

One file holds the effects of a task's single steps, another one the times of its layers, which depend on the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..compressors.cache import LayerCache, cache_folder
from ..compressors.distillation.losses import scores_classes
from ..compressors.fingerprint import fingerprint
from ..spaces.catalogue import technique
from ..spaces.choices import Setting
from ..spaces.recipe import Step
from ..spaces.seeding import seeded
from ..spaces.task import Task
from .effects import VERSION, Effect

#: Files of each kind that are kept; the oldest-used go first.
KEPT = 32
#: What the fact is kept under that says how damages were measured. Keys of effects have slashes, others don't.
_BY_LOSS = "by loss"


class Lines:
    """A dictionary in a file: a line of JSON for each addition. Readers ignore a line that is torn or damaged.

    Parameters
    ----------
    content
        JSON-able; decides which file it is.
    folder
        Of the files of this kind; None keeps nothing.
    """

    def __init__(self, content: Sequence[Any], folder: Path | None) -> None:
        self.known: dict[str, Any] = {}
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
        self.file = folder / f"{name}.jsonl" if folder is not None else None
        if self.file is None:
            return
        try:
            lines = self.file.read_bytes().splitlines()
        except OSError:
            return
        with suppress(OSError):  # it may be somebody else's
            self.file.touch()
        for line in lines:
            with suppress(ValueError, TypeError):
                self.known.update(json.loads(line))

    def add(self, entries: Mapping[str, Any]) -> None:
        """Keep entries; where the disk is full or read-only, only in memory."""
        self.known.update(entries)
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if not self.file.exists():  # or not any more: another run may have made room
                self._make_room(self.file.parent)
                entries = self.known
            with self.file.open("ab") as file:
                file.write(b"\n" + json.dumps(entries, separators=(",", ":")).encode() + b"\n")
        except OSError:
            self.file = None

    @staticmethod
    def _make_room(folder: Path) -> None:
        used = []
        for file in folder.glob("*.jsonl"):
            with suppress(FileNotFoundError):  # others make room, too
                used.append((file.stat().st_mtime, file))
        for _, old in sorted(used)[: max(0, len(used) - KEPT + 1)]:
            old.unlink(missing_ok=True)


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
        content: list[Any] = []
        if folder is not None:
            loss = [scores_classes(task.loss), getattr(task.loss, "__qualname__", type(task.loss).__qualname__)]
            code = [fingerprint(type(technique(coder.technique)))[0]] if coder is not None else []
            content = [VERSION, LayerCache.none().data_digest(task), str(coder), *code, *loss, *_losses(task)]
        self._passing: dict[str, Effect] = {}
        self.lines = Lines(content, folder / "profiles" if folder is not None else None)

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
        if (passing := self._passing.get(self._key(site, setting))) is not None:
            return passing
        with suppress(KeyError, ValueError, TypeError, AttributeError):  # damaged on disk
            return Effect.from_json(self.lines.known[self._key(site, setting)])
        return None

    def put(self, site: str, effects: Mapping[Setting, Effect]) -> None:
        """Keep a site's effects; on disk those that are the same the next time."""
        found = {self._key(site, setting): effect for setting, effect in effects.items()}
        self._passing |= {key: effect for key, effect in found.items() if effect.passing}
        self.lines.add({key: effect.to_json() for key, effect in found.items() if not effect.passing})

    def together(self, site: str, pairs: Sequence[tuple[Setting, Setting]]) -> list[float] | None:
        """Return what was kept of pairs of settings at a site, if all of it was."""
        found = self.lines.known.get(self._pairs(site, pairs))
        return [float(x) for x in found] if isinstance(found, list) and len(found) == len(pairs) else None

    def put_together(self, site: str, pairs: Sequence[tuple[Setting, Setting]], factors: Sequence[float]) -> None:
        """Keep a figure of each of some pairs of settings at a site."""
        self.lines.add({self._pairs(site, pairs): list(factors)})

    def _pairs(self, site: str, pairs: Sequence[tuple[Setting, Setting]]) -> str:
        keys = [self._key(site, setting) for pair in pairs for setting in pair]
        return f"together {hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]}"

    @property
    def by_loss(self) -> bool:
        """What `Fisher.by_loss` was when the effects were measured."""
        return bool(self.lines.known.get(_BY_LOSS, True))

    @by_loss.setter
    def by_loss(self, value: bool) -> None:
        if self.lines.known.get(_BY_LOSS) != value:
            self.lines.add({_BY_LOSS: value})


def _losses(task: Task) -> list[str]:
    """Return what the loss is of random outputs on each calibration batch, which tells losses of one name apart: with
    other arguments, or other functions without a name.

    Four digits, because sums may be rounded otherwise with other threads.
    """
    found, shape, generator = list[str](), None, torch.Generator().manual_seed(0)
    with torch.no_grad(), seeded(0):
        for args, target in task.calibration:
            if shape is None:
                shape, first = task.model(*(x.clone() for x in args)).shape, len(target)
            like = (len(target), *shape[1:]) if shape[0] == first else shape
            outputs = torch.randn(like, generator=generator)
            for form in (outputs, outputs.sigmoid()):  # some take probabilities
                with suppress(Exception):  # or nothing that is made up: then the name must do
                    if math.isfinite(value := float(task.loss(form, target))):
                        found.append(f"{value:.4g}")
                        break
    return found
