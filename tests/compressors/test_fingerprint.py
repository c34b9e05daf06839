"""Edited code must never read what older code computed."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paretopress.compressors import fingerprint as module
from paretopress.compressors.fingerprint import environment, fingerprint
from paretopress.compressors.lowrank.svd import SVD
from paretopress.compressors.quantization.grid import IntegerCodec
from paretopress.compressors.quantization.integer import Integer

Load = Callable[..., type]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """How to write modules and import a class from the first, as a new process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "_STARTED", math.inf)

    def written(**sources: str) -> type:
        fingerprint.cache_clear()
        module._source.cache_clear()
        for name, text in sources.items():
            sys.modules.pop(f"mine_{name}", None)
            (tmp_path / f"mine_{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            found = importlib.import_module(f"mine_{next(iter(sources))}").Technique
        finally:
            sys.dont_write_bytecode = before
        assert isinstance(found, type)
        return found

    yield written
    for name in [n for n in sys.modules if n.startswith("mine_")]:
        del sys.modules[name]
    fingerprint.cache_clear()
    module._source.cache_clear()


def test_an_edit_changes_it(load: Load) -> None:
    """In the class, in its base, and in a module that its module imports."""
    code = "import mine_helper\nfrom mine_base import Base\nclass Technique(Base):\n    x = {}\n"
    first = fingerprint(load(code=code.format(1), base="class Base: y = 1", helper="z = 1"))
    again = fingerprint(load(code=code.format(1), base="class Base: y = 1", helper="z = 1"))
    assert first == again
    assert first[1]
    edits = [
        fingerprint(load(code=code.format(2), base="class Base: y = 1", helper="z = 1")),
        fingerprint(load(code=code.format(1), base="class Base: y = 2", helper="z = 1")),
        fingerprint(load(code=code.format(1), base="class Base: y = 1", helper="z = 2")),
    ]
    assert len({first, *edits}) == 4


@pytest.mark.usefixtures("load")
def test_an_installed_package_is_read_like_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a version to go by, an upgrade shows in the code alone; another package's shows in its version."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))

    def of(y: int, version: str) -> str:
        for path, text in (
            ("mine_plugin/__init__.py", ""),
            ("mine_plugin/base.py", "import mine_other\nfrom mine_plugin import helper\nclass Technique: pass\n"),
            ("mine_plugin/helper.py", f"y = {y}"),
            ("mine_other.py", f"__version__ = '{version}'"),
        ):
            (place / path).parent.mkdir(exist_ok=True)
            (place / path).write_text(text, encoding="utf-8")
        for name in [n for n in sys.modules if n.startswith("mine_")]:
            del sys.modules[name]
        fingerprint.cache_clear()
        module._source.cache_clear()
        module._version.cache_clear()
        importlib.invalidate_caches()
        digest, lasting = fingerprint(importlib.import_module("mine_plugin.base").Technique)
        assert lasting
        return digest

    assert of(1, "1") == of(1, "1")
    assert len({of(1, "1"), of(2, "1"), of(1, "2")}) == 3


def test_classes_of_one_module_differ() -> None:
    """A codec and a technique in one file are not the same code."""
    assert len({fingerprint(cls)[0] for cls in (Integer, IntegerCodec, SVD)}) == 3


def test_code_without_source_is_nobody_elses(load: Load) -> None:
    """A class sent by value, whose name here is another class or nothing, must not be taken for that one."""
    cls = load(code="class Technique: x = 1")
    sys.modules["mine_code"].__dict__["Technique"] = int
    fingerprint.cache_clear()
    digest, lasting = fingerprint(cls)
    assert not lasting
    assert fingerprint(cls)[0] == digest
    fingerprint.cache_clear()
    assert fingerprint(cls)[0] != digest
    local = type("Local", (), {})
    assert not fingerprint(local)[1]


def test_a_file_edited_while_it_runs_is_nobody_elses(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source on disk may be newer than the code in memory: its digest would be a lie."""
    cls = load(code="class Technique: x = 1")
    assert fingerprint(cls)[1]
    file = sys.modules["mine_code"].__file__
    assert file is not None
    monkeypatch.setattr(module, "_STARTED", os.stat(file).st_mtime - 1)
    fingerprint.cache_clear()
    module._source.cache_clear()
    assert not fingerprint(cls)[1]


def test_the_environment_is_plain() -> None:
    """It is part of a key: the same in every process on this machine with these libraries and threads."""
    assert environment() == environment()
    assert all(type(part) is str for part in environment())
