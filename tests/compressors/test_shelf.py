"""The shared folder: whole files or none, a bound that holds, and never an error."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from paretopress.compressors.shelf import BLOCK, KEPT, Shelf


def key(number: int) -> str:
    """Return a key."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def held(folder: Path) -> int:
    """Return the bytes that the files take."""
    return sum(-(-p.stat().st_size // BLOCK) * BLOCK for p in folder.rglob("*.safetensors"))


def test_bytes_come_back_under_their_key(tmp_path: Path) -> None:
    """Also from another process's shelf on the same folder."""
    shelf = Shelf(tmp_path / "deep" / "down", 1 << 20)
    assert shelf.read(key(0)) is None
    shelf.write(key(0), b"zero")
    assert shelf.read(key(0)) == Shelf(tmp_path / "deep" / "down", 1 << 20).read(key(0)) == b"zero"
    assert shelf.read(key(1)) is None
    shelf.discard(key(0))
    shelf.discard(key(0))
    assert shelf.read(key(0)) is None


def test_the_bound_holds_and_the_oldest_go(tmp_path: Path) -> None:
    """Many runs must not fill the disk, and what is used stays."""
    bound = 40 * BLOCK
    shelf = Shelf(tmp_path, bound)
    for number in range(200):
        shelf.write(key(number), bytes(BLOCK - 1))
        os.utime(shelf.path(key(number)), ns=(number + 1, number + 1))
        if number >= 1:  # as if it had just been used
            os.utime(shelf.path(key(0)), ns=(number + 2, number + 2))
        assert held(tmp_path) <= bound
    assert held(tmp_path) >= KEPT * bound - BLOCK
    assert shelf.read(key(0)) is not None
    assert shelf.read(key(199)) is not None
    assert shelf.read(key(100)) is None


def test_the_folder_is_listed_rarely(tmp_path: Path) -> None:
    """A put must not cost a look at every file that is there."""
    shelf = Shelf(tmp_path, 100 * BLOCK)
    with mock.patch.object(Shelf, "_sweep", autospec=True, side_effect=Shelf._sweep) as sweep:
        for number in range(300):
            shelf.write(key(number), bytes(BLOCK))
    assert 1 + 200 / 26 <= sweep.call_count <= 2 + 200 / 24  # once for the ledger, then each quarter of the bound


def test_what_others_write_counts(tmp_path: Path) -> None:
    """Two processes fill the folder together: the bound is that of both."""
    bound = 64 * BLOCK
    first, second = Shelf(tmp_path, bound), Shelf(tmp_path, bound)
    for number in range(100):
        (first if number % 2 else second).write(key(number), bytes(BLOCK))
        assert held(tmp_path) <= bound


def test_a_lost_ledger_is_made_again(tmp_path: Path) -> None:
    """Someone tidied up: the bound holds all the same."""
    bound = 40 * BLOCK
    shelf = Shelf(tmp_path, bound)
    for number in range(35):
        shelf.write(key(number), bytes(BLOCK))
    (tmp_path / "ledger").unlink()
    shelf = Shelf(tmp_path, bound)
    for number in range(100, 200):
        shelf.write(key(number), bytes(BLOCK))
        assert held(tmp_path) <= bound


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """The folder may be somebody's: nothing is deleted that isn't ours."""
    foreign = [tmp_path / "thesis.tex", tmp_path / key(0)[:2] / "data.safetensors", tmp_path / "long" / f"{key(1)}.tmp"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(BLOCK))
        os.utime(path, ns=(1, 1))
    shelf = Shelf(tmp_path, 8 * BLOCK)
    for number in range(40):
        shelf.write(key(number), bytes(BLOCK))
    assert all(path.exists() for path in foreign)


def test_a_file_larger_than_its_share_is_not_written(tmp_path: Path) -> None:
    """One result must not drive out all others."""
    shelf = Shelf(tmp_path, 8 * BLOCK)
    shelf.write(key(0), bytes(3 * BLOCK))
    assert shelf.read(key(0)) is None


def test_a_full_disk_or_a_forbidden_folder_is_no_error(tmp_path: Path) -> None:
    """The trial goes on without the disk, what is there can still be read, and no torn file stays."""
    shelf = Shelf(tmp_path, 1 << 20)
    shelf.write(key(0), b"zero")
    with mock.patch("os.replace", side_effect=OSError(errno.ENOSPC, "No space left on device")) as replace:
        shelf.write(key(1), b"one")
        shelf.write(key(2), b"two")
    assert replace.call_count == 1
    assert shelf.read(key(0)) == b"zero"
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "file").write_bytes(b"")
    blocked = Shelf(tmp_path / "file" / "inside", 1 << 20)
    blocked.write(key(0), b"zero")
    assert blocked.read(key(0)) is None


def test_processes_write_and_evict_together(tmp_path: Path) -> None:
    """Workers share the folder without a lock: every read gives a whole file or nothing."""
    script = """
import hashlib, sys
from pathlib import Path
from paretopress.compressors.shelf import Shelf
shelf = Shelf(Path(sys.argv[1]), 1 << 17)
for turn in range(300):
    key = hashlib.sha256(str(turn * int(sys.argv[2]) % 60).encode()).hexdigest()
    data = shelf.read(key)
    assert data is None or data == key.encode() * 60, key
    shelf.write(key, key.encode() * 60)
print(shelf._writable)
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), step], stdout=subprocess.PIPE, text=True)
        for step in ("7", "11")
    ]
    assert [worker.communicate()[0].strip() for worker in workers] == ["True", "True"]
    assert held(tmp_path) <= (1 << 17) + 2 * BLOCK


def test_a_writer_that_others_sweep_past_writes_on(tmp_path: Path) -> None:
    """A process that had to wait in the middle of a write loses that file at most, not the cache."""
    slow, quick = Shelf(tmp_path, 8 * BLOCK), Shelf(tmp_path, 8 * BLOCK)
    replace = os.replace

    def wait(source: str, target: str) -> None:
        os.utime(source, (0, 0))  # written long before what follows
        with mock.patch("os.replace", replace):
            for number in range(9):
                quick.write(key(number), bytes(BLOCK))
        replace(source, target)

    with mock.patch("os.replace", side_effect=wait) as waited:
        slow.write(key(100), b"late")
    assert waited.call_count == 1
    assert slow.read(key(100)) is None
    slow.write(key(101), b"next")
    assert slow.read(key(101)) == b"next"
    assert not list(tmp_path.rglob("*.tmp"))


def test_unfinished_files_of_others_are_in_nobodys_way(tmp_path: Path) -> None:
    """What a process of the same number left behind, as in another container, is neither replaced nor removed."""
    shelf = Shelf(tmp_path, 1 << 20)
    shelf.write(key(0), b"zero")
    place = Path(shelf.path(key(1))).parent
    place.mkdir(exist_ok=True)
    left = [place / f"{key(1)}.{os.getpid()}-{number}.tmp" for number in range(9)]
    for file in left:
        file.write_bytes(b"half")
    shelf.write(key(1), b"one")
    shelf.write(key(2), b"two")
    assert [shelf.read(key(n)) for n in range(3)] == [b"zero", b"one", b"two"]
    assert all(file.read_bytes() == b"half" for file in left)
