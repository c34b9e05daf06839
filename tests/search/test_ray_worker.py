"""A worker's temporary files go with it, or soon after."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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
