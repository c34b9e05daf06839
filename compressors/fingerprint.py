"""Which code computes a result: a digest that changes when a class, or anything of its own that it uses, is edited."""

from __future__ import annotations

import hashlib
import platform
import secrets
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

#: This package, whose code may change from day to day under one version.
_OURS = __name__.partition(".")[0]
#: A source file that is newer than this may not be the code that runs.
_STARTED = time.time()


@cache
def fingerprint(cls: type) -> tuple[str, bool]:
    """Return the digest of a class's code, and whether other processes find the same one.

    It covers the source of the modules that define the class and its bases, the source of every module that these
    import at their top level, directly or not, and the versions of other installed packages that have one. A class
    without readable source (from a notebook, or sent to this process by value), or whose source was edited since this
    process began, gets a digest that nobody else has.
    """
    try:
        parts = sorted(_parts(cls))
    except (LookupError, OSError):
        return f"{cls.__qualname__} {secrets.token_hex(16)}", False
    name = f"{cls.__module__}.{cls.__qualname__}"
    return hashlib.sha256("\n".join((name, *parts)).encode()).hexdigest(), True


def environment() -> list[str]:
    """Return what decides the last bits of a result besides code and content: libraries, processor, threads."""
    capability = torch.backends.cpu.get_cpu_capability()
    return [*_versions(), platform.machine(), capability, str(torch.get_num_threads()), str(torch.get_default_dtype())]


@cache
def _versions() -> tuple[str, ...]:
    return (platform.python_version(), str(torch.__version__), np.__version__)


def _parts(cls: type) -> Iterator[str]:
    """Yield a line for every module that the class depends on."""
    start = [_home(base) for base in cls.__mro__ if base is not object]
    todo, seen = list(start), {module.__name__ for module in start}
    while todo:
        module = todo.pop()
        top = module.__name__.partition(".")[0]
        if top in sys.stdlib_module_names and top != "__main__":
            continue
        path = getattr(module, "__file__", None) or ""
        installed = path and "site-packages" in Path(path).parts
        if installed and top != _OURS and _version(top):
            yield f"{top} {_version(top)}"
            if module in start:
                yield _source(path)
            continue
        if path:
            yield f"{module.__name__} {_source(path)}"
        elif not hasattr(module, "__path__"):  # a namespace has no source; anything else should
            raise LookupError(module.__name__)
        for used in _used(module):
            if used.__name__ not in seen:
                seen.add(used.__name__)
                todo.append(used)


def _home(cls: type) -> ModuleType:
    """Return the module that really holds the class: of a class sent by value only the name may exist here."""
    module = sys.modules[cls.__module__]
    found: object = module
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not cls:
        raise LookupError(cls.__qualname__)
    return module


def _used(module: ModuleType) -> Iterator[ModuleType]:
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            yield value
            continue
        name = getattr(value, "__module__", None) or type(value).__module__
        found = sys.modules.get(name) if isinstance(name, str) else None
        if found is not None:
            yield found


@cache
def _version(package: str) -> str:
    """Return the version of an installed package, whether it says so itself or not; "" if nobody knows it."""
    own = getattr(sys.modules.get(package), "__version__", "")
    return str(own) or " ".join(version(name) for name in packages_distributions().get(package, ()))


@cache
def _source(path: str) -> str:
    if Path(path).stat().st_mtime > _STARTED:
        raise LookupError(path)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
