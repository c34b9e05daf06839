"""Keeping a C library's stray lines off the standard output."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()


@contextmanager
def without_lines(mark: str) -> Iterator[None]:
    """Drop the lines with ``mark`` in them that are written to file descriptor 1 in this block.

    What else is written there, by any thread, comes out at the end of the block. One block runs at a time.
    """
    with _LOCK, tempfile.TemporaryFile() as held:
        _flush()
        out = os.dup(1)
        os.dup2(held.fileno(), 1)
        try:
            yield
        finally:
            _flush()
            os.dup2(out, 1)
            os.close(out)
            held.seek(0)
            for line in held:
                if mark.encode() not in line:
                    os.write(1, line)


def _flush() -> None:
    """Empty Python's and C's own buffers, so that text goes where it would have gone."""
    sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
