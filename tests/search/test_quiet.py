"""Stray lines of C libraries."""

from __future__ import annotations

import ctypes
import os

import pytest

from paretopress.search.quiet import without_lines


def test_only_marked_lines_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """A C library's stray line goes, even from C's own buffer; what anyone else writes comes out, in order."""
    libc = ctypes.CDLL(None)
    libc.puts(b"before")
    with without_lines("stray"):
        libc.puts(b"a stray line")
        os.write(1, b"kept\n")
        libc.puts(b"another stray line")
    libc.puts(b"stray, but after")
    libc.fflush(None)
    assert capfd.readouterr().out == "before\nkept\nstray, but after\n"


def test_output_is_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    """An exception in the block must not swallow what is printed later."""

    def fail() -> None:
        os.write(1, b"kept\n")
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), without_lines("stray"):
        fail()
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "kept\nafter\n"
