"""Results of single layers by content: what was computed once for these weights and parameters isn't computed again.

Most layers of a recipe are treated as in some recipe before it. A result is kept under a digest of all that it depends
on: the technique's code, its parameters, the bytes of the weights, and calibration data where the technique looks at
them. It is found again by any later trial, by other processes of the machine and by later runs, and it is the same
bit for bit. What has no exact form (`forms`), or is computed as fast as it is found, is simply computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from ..spaces.task import Task
from .fingerprint import environment, fingerprint
from .forms import Array, Entry, Form, PlainForm, UnstorableError, array_of, facts, raw
from .shelf import Shelf

T = TypeVar("T")

#: Environment variable: the folder to use instead of ``~/.cache/paretopress``, or "off" to keep nothing on disk.
VARIABLE = "PARETOPRESS_CACHE"
#: Bytes kept in the memory of each process, and on disk for all together.
MEMORY, DISK = 128 << 20, 1 << 30
#: Seconds that computing must take for a result to be kept. To store one takes 0.2 ms (a codec) to 1 ms (a new layer),
#: and most are never asked for again; to find one takes 0.1 to 0.5 ms. A million weights are digested in 2 ms.
WORTH = 0.002
#: A technique whose results for weights of one size took less than that so many times isn't looked up any more.
_TRIES = 3
#: Changes when results of the same name mean something else.
_SCHEMA = 1

_NO_MODULES: Form[nn.Module] = PlainForm()  # a module is no tree


class LayerCache:
    """The cache of one process: its own memory, and the folder that all share.

    A pickled cache arrives empty, on the folder of the machine where it arrives.

    Parameters
    ----------
    setting
        A folder, "off" for memory alone, or "" for the default; None reads the variable ``PARETOPRESS_CACHE``.
        Files lie in the folder's ``layers``.
    memory, disk
        Bounds in bytes. What wasn't used for longest goes first. 0 keeps nothing there.
    worth
        Seconds that computing must take for a result to be kept.
    modules
        How new layers are taken apart and built; by default they are not kept.

    Attributes
    ----------
    hits, misses
        How often a result was found, or had to be computed; what isn't looked up counts as neither.
    """

    def __init__(
        self,
        setting: str | None = None,
        *,
        memory: int = MEMORY,
        disk: int = DISK,
        worth: float = WORTH,
        modules: Form[nn.Module] = _NO_MODULES,
    ) -> None:
        self.setting = os.environ.get(VARIABLE, "") if setting is None else setting
        self.memory, self.disk, self.worth, self.modules = memory, disk, worth, modules
        self.hits = self.misses = 0
        self._told = 0, 0
        folder = cache_folder(self.setting)
        self._shelf = Shelf(folder / "layers", disk) if folder is not None and disk > 0 else None
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._slowest: dict[tuple[str, int], tuple[int, float]] = {}
        self._data: tuple[Task, str] | None = None

    @classmethod
    def none(cls) -> LayerCache:
        """Return one that keeps nothing."""
        return cls("off", memory=0)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.setting, self.memory, self.disk, self.worth, self.modules)

    @property
    def active(self) -> bool:
        """Whether anything is kept at all."""
        return self.memory > 0 or self._shelf is not None

    def recall(
        self,
        code: Sequence[type],
        settings: Any,
        content: Sequence[Tensor | Array | None],
        make: Callable[[], T],
        form: Form[T],
    ) -> T:
        """Return ``make()``, or an equal value that it returned before.

        Parameters
        ----------
        code
            The classes that compute it, the main one first.
        settings
            What else it depends on; looked up only if it is JSON-able.
        content
            The tensors that it depends on, on the CPU: shapes, element types and bytes.
        make
            Computes it, and depends on nothing else.
        form
            How the value is stored. The caller owns what is returned either way.
        """
        if not self.active:
            return make()
        size = sum(t.nbytes for t in content if t is not None)
        group = (code[0].__qualname__, size.bit_length())
        tries, slowest = self._slowest.get(group, (0, 0.0))
        if tries >= _TRIES and slowest < self.worth:
            return make()
        try:
            key, lasting = _key(code, settings, content)
        except (UnstorableError, TypeError, ValueError):
            return make()
        found = self._find(key, lasting, form)
        if found is not None:
            self.hits += 1
            return found[0]
        self.misses += 1
        start = time.perf_counter()
        value = make()
        seconds = time.perf_counter() - start
        self._slowest[group] = (tries + 1, max(slowest, seconds))
        if seconds >= self.worth:
            self._keep(key, lasting, value, form)
        return value

    def taken(self) -> dict[str, int]:
        """Return hits and misses since the last call, e.g. those of one trial."""
        hits, misses = self._told
        self._told = self.hits, self.misses
        return {"hits": self.hits - hits, "misses": self.misses - misses}

    def data_digest(self, task: Task) -> str:
        """Return a digest of what a technique with calibration data may look at: them, and the original model."""
        if self._data is None or self._data[0] is not task:
            state = hashlib.sha256(f"{task.digest} {task.behaviour}".encode())
            for args, target in task.calibration:
                for tensor in (*args, target):
                    array = array_of(tensor.contiguous())
                    state.update(json.dumps(facts(array)).encode())
                    state.update(raw(array))
            self._data = task, state.hexdigest()
        return self._data[1]

    def _find(self, key: str, lasting: bool, form: Form[T]) -> tuple[T] | None:
        entry = self._kept.get(key)
        if entry is not None:
            self._kept.move_to_end(key)
        elif lasting and self._shelf is not None:
            data = self._shelf.read(key)
            if data is None:
                return None
            try:
                entry = Entry.from_bytes(key, data)
            except ValueError:
                self._shelf.discard(key)
                return None
            self._remember(key, entry)
        if entry is None:
            return None
        with suppress(Exception):  # whatever can't be built any more is computed
            return (form.build(entry.tree()),)
        return None

    def _keep(self, key: str, lasting: bool, value: T, form: Form[T]) -> None:
        try:
            entry = Entry.of(form.flatten(value))
        except Exception:  # a form may meet any class: what it can't take apart isn't kept
            return
        self._remember(key, entry)
        if lasting and self._shelf is not None:
            self._shelf.write(key, entry.to_bytes(key))

    def _remember(self, key: str, entry: Entry) -> None:
        if entry.size > self.memory // 4:  # one large result would drive out all others
            return
        old = self._kept.pop(key, None)
        self._bytes -= old.size if old is not None else 0
        self._kept[key] = entry
        self._bytes += entry.size
        while self._bytes > self.memory:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size


def _again(setting: str, memory: int, disk: int, worth: float, modules: Form[nn.Module]) -> LayerCache:
    return LayerCache(setting, memory=memory, disk=disk, worth=worth, modules=modules)


def cache_folder(setting: str | None = None) -> Path | None:
    """Return the folder that all caches of this machine are below, or None for no folder.

    ``setting`` is a folder, "off" or "" for the default; None reads the variable ``PARETOPRESS_CACHE``.
    """
    setting = os.environ.get(VARIABLE, "") if setting is None else setting
    if setting == "off":
        return None
    try:
        if setting:
            return Path(setting).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretopress"
    except RuntimeError:  # nobody knows where home is
        return None


def _key(code: Sequence[type], settings: Any, content: Sequence[Tensor | Array | None]) -> tuple[str, bool]:
    """Return the digest of all that a result depends on, and whether other processes find the same one."""
    prints = [fingerprint(cls) for cls in code]
    arrays = [None if c is None else array_of(c) if isinstance(c, Tensor) else c for c in content]
    about = [None if a is None else facts(a) for a in arrays]
    head = [_SCHEMA, environment(), [digest for digest, _ in prints], settings, about]
    state = hashlib.sha256(json.dumps(head, sort_keys=True, separators=(",", ":")).encode())
    for array in arrays:
        if array is not None:
            state.update(raw(array))
    return state.hexdigest(), all(lasting for _, lasting in prints)
