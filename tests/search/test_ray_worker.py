"""A worker's temporary files go with it, or soon after."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from paretopress.search.ray_worker import remove_folders


def test_folders_of_dead_workers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the same session at once, others after a day, for a process of another container looks dead from here;
    nothing that a living worker uses, and nothing that isn't a worker's.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours, other = "0123abcd", "89ef4567"
    names = {
        "dead": f"paretopress-{ours}-{gone.pid}-x", "alive": f"paretopress-{ours}-{os.getpid()}-x",
        "other": f"paretopress-{other}-{gone.pid}-x", "old": f"paretopress-{other}-{gone.pid}-y",
        "old, alive": f"paretopress-{other}-{os.getpid()}-y", "strange": "paretopress-notes-1-x",
    }  # fmt: skip
    for kind, name in names.items():
        (tmp_path / name / "inside").mkdir(parents=True)
        if kind != "other":
            os.utime(tmp_path / name, (time.time() - 1e6,) * 2)
    remove_folders(ours)
    left = {kind for kind, name in names.items() if (tmp_path / name).exists()}
    assert left == {"alive", "other", "old, alive", "strange"}


def test_workers_measure_one_at_a_time(tmp_path: Path) -> None:
    """They wait for each other's timings: the lock is the machine's, not among a worker's own temporary files."""
    code = """
        import sys
        from paretopress.search.ray_worker import own_folder
        from paretopress.evaluators.pairing import alone
        own_folder("0123abcd")
        print("ready", flush=True)
        with alone():
            print("measures", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    def worker(said: bytes) -> subprocess.Popen[bytes]:
        """Start one, and wait until it has said so much; what follows is not read yet."""
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)
        assert started.stdout is not None
        while said:
            assert started.stdout.read(1) == said[:1]
            said = said[1:]
        return started

    first = worker(b"ready\nmeasures\n")
    second = worker(b"ready\n")
    assert second.stdout is not None
    assert not select.select([second.stdout], [], [], 1.0)[0]
    first.communicate(timeout=60)
    assert second.stdout.read(9) == b"measures\n"
    second.communicate(timeout=60)
