"""What can become of a run folder while somebody works in it: another driver, a torn journal, a disk without room."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from mischief import DRIVER, Drivers, until

from paretopress.search.journal import Journal, read


def began(folder: Path) -> int:
    """Return how many trials have begun."""
    file = folder / "began"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_second_driver_is_refused_at_once(driver: Drivers, tmp_path: Path) -> None:
    """It says why and does nothing; the first one never hears of it."""
    recipes = "[deed('none', 1), deed('wait', 2)]"
    first = driver(recipes)
    until(lambda: began(tmp_path) == 2)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    told, _ = driver(recipes).communicate(timeout=150)
    assert "refused:" in told
    assert f"process {first.pid} on {socket.gethostname()} is running a search in this folder" in told
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
    (tmp_path / "go").touch()
    told, _ = first.communicate(timeout=150)
    assert "trials 3 0:ok 1:ok 2:ok" in told
    assert began(tmp_path) == 2


def test_a_journal_torn_at_any_byte_goes_on(driver: Drivers, tmp_path: Path) -> None:
    """The journal of a driver that was killed opens wherever its tail is cut off, with what stands in the whole lines;
    a trial whose end was torn runs again under its number.
    """
    recipes = "[deed('none', 1), deed('none', 2), deed('none', 3), deed('wait', 4)]"
    first = driver(recipes)
    file = tmp_path / "run" / "journal.jsonl"
    until(lambda: file.exists() and file.read_text().count('{"trial":') == 4 and began(tmp_path) == 4)
    until(lambda: not list((tmp_path / "run" / "pending").glob("*.trial")))  # else a resumed run takes the result over
    workers = [p for p in psutil.Process(first.pid).children(recursive=True) if "ray::Worker" in p.name()]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers), 60)
    data = file.read_bytes()
    header, *lines = data.decode().splitlines(keepends=True)
    assert len(lines) >= 7
    for cut in range(len(header), len(data)):
        copy = tmp_path / "torn"
        copy.mkdir(exist_ok=True)
        (copy / "journal.jsonl").write_bytes(data[:cut])
        whole = [json.loads(line) for line in data[:cut].decode().splitlines(keepends=True)[1:] if line.endswith("\n")]
        with Journal(copy, json.loads(header)["run"]) as journal:
            assert [r.number for r, _ in journal.results] == [w["trial"]["number"] for w in whole if "trial" in w]
    last = max(i for i, line in enumerate(lines) if '{"trial":' in line)
    file.write_text(header + "".join(lines[:last]) + lines[last][:-20])
    (tmp_path / "go").touch()
    told, _ = driver(recipes).communicate(timeout=150)
    assert "trials 5 0:ok 1:ok 2:ok 3:ok 4:ok" in told
    assert began(tmp_path) == 6
    assert not read(tmp_path / "run")[1].unfinished


def mounts() -> bool:
    """Return whether file systems can be mounted here."""
    test = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return sys.platform == "linux" and subprocess.run(test, capture_output=True, check=False).returncode == 0


DISK = """
    set -e
    mount -t tmpfs -o size=2m none {disk}
    {python} {script} > {out}/full 2>&1 & driver=$!
    while [ "$(cat {disk}/began 2>/dev/null | wc -l)" != 2 ]; do sleep 0.2; done
    dd if=/dev/zero of={disk}/ballast bs=4096 2>/dev/null || true
    touch {disk}/go
    wait $driver
    cp {disk}/run/journal.jsonl {out}/journal
    mount -o remount,ro {disk}
    {python} {script} > {out}/read-only 2>&1
    mount -o remount,rw {disk}
    rm {disk}/ballast
    {python} {script} > {out}/after 2>&1
"""


@pytest.mark.skipif(not mounts(), reason="needs the right to mount a file system")
def test_a_disk_without_room_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    """A real file system runs full under a run, and is read-only for the next one: both end with the reason, nothing
    half-written, and the third goes on.
    """
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    script = tmp_path / "driver.py"
    helpers = str(Path(__file__).parent)
    recipes = "[deed('none', 1), deed('wait', 2), *(deed('none', n) for n in range(3, 20))]"
    text = DRIVER.format(helpers=helpers, folder=str(disk), address=None, recipes=recipes, caught=True).replace(
        "workers=2", "workers=1"
    )
    script.write_text(textwrap.dedent(text))
    commands = textwrap.dedent(DISK).format(disk=disk, out=out, script=script, python=sys.executable)
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", commands], capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in (out / "full").read_text()
    assert (out / "journal").read_bytes().endswith(b"\n")
    assert 3 <= (out / "journal").read_text().count('{"trial":') < 20
    assert "refused:" in (out / "read-only").read_text()
    assert "Read-only file system" in (out / "read-only").read_text()
    after = (out / "after").read_text().split()
    assert after[:2] == ["trials", "20"]
    assert set(after[2:]) == {f"{number}:ok" for number in range(20)}
