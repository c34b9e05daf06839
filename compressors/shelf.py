"""A folder of small files by key that all processes of a machine share and that stays below a bound.

Nothing here raises: a file that is gone is not there, and a folder that can't be written to is not written to.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

#: Files are counted in blocks of this many bytes, as a disk does.
BLOCK = 4096
#: A sweep leaves this share of the bound.
KEPT = 0.75
#: Files of ours: a key, and the ending of a whole file or of one that is being written.
_OURS = re.compile(r"[0-9a-f]{64}\.(safetensors|[^.]+\.tmp)")


class Shelf:
    """The folder.

    A ledger beside the files grows by one byte for each block that any process writes, so that its length tells
    what the folder holds without looking through it. Past the bound the files are listed once, and those that
    were not used for longest go.

    Parameters
    ----------
    folder
        Made when the first file is written. Files of others in it are left alone.
    bound
        Bytes. Many processes that write at the same moment may pass it by what they write until one has swept.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder, self.bound = folder, bound
        self._ledger = folder / "ledger"
        self._writable, self._counted = True, False

    def path(self, key: str) -> str:
        """Return where the file of a key is, if there is one. A key is 64 hexadecimal digits."""
        return f"{self.folder}/{key[:2]}/{key}.safetensors"

    def read(self, key: str) -> bytes | None:
        """Return what is stored, and note that it was used; None if nothing can be read."""
        path = self.path(key)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def write(self, key: str, data: bytes) -> None:
        """Store bytes; a reader sees all of them or none. After a failure of the disk nothing more is written."""
        if not self._writable or len(data) > self.bound * (1 - KEPT):
            return
        path = self.path(key)
        # Processes of several containers may share the folder, and have the same number.
        unfinished = f"{path.removesuffix('safetensors')}{secrets.token_hex(8)}.tmp"
        try:
            try:
                handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(unfinished, path)
            if self._count(len(data)) > self.bound:
                self._sweep()
        except OSError as error:
            # A process that wrote meanwhile may have taken it for the oldest and swept it away: no more is lost.
            self._writable = isinstance(error, FileNotFoundError)
            with suppress(OSError):
                os.unlink(unfinished)

    def discard(self, key: str) -> None:
        """Remove a file, e.g. a damaged one."""
        with suppress(OSError):
            os.unlink(self.path(key))

    def _count(self, size: int) -> int:
        """Enter a new file in the ledger, and return the bytes that the folder holds by it."""
        known, self._counted = self._counted or self._ledger.exists(), True
        handle = os.open(self._ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, b"." * _blocks(size))
            held = os.fstat(handle).st_size * BLOCK
        finally:
            os.close(handle)
        return held if known else self.bound + 1  # without a ledger nobody knows: look

    def _sweep(self) -> None:
        files = sorted(self._files())
        held = sum(blocks for _, blocks, _ in files)
        too_many = held * BLOCK > self.bound
        for _, blocks, path in files:
            if not too_many or held * BLOCK <= self.bound * KEPT:
                break
            with suppress(FileNotFoundError):  # another process sweeps too
                os.unlink(path)
            held -= blocks
        os.truncate(self._ledger, held)

    def _files(self) -> list[tuple[int, int, str]]:
        """Return (time of last use, blocks, path) of every file."""
        found = []
        for shelf in self.folder.iterdir():
            if len(shelf.name) != 2 or not shelf.is_dir():
                continue
            with os.scandir(shelf) as entries:
                for entry in entries:
                    if _OURS.fullmatch(entry.name):
                        with suppress(FileNotFoundError):
                            facts = entry.stat()
                            found.append((facts.st_mtime_ns, _blocks(facts.st_size), entry.path))
        return found


def _blocks(size: int) -> int:
    return -(-size // BLOCK)
