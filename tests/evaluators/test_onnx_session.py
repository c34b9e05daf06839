"""ONNX Runtime as it is used here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_left_in_the_home_folder_or_reported(tmp_path: Path) -> None:
    """The runtime's own telemetry, which keeps an identifier and a database in the user's home, is off."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    code = "import paretopress.evaluators.onnx_session as s; print(s.onnxruntime.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**bare, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()
    assert [str(path) for path in tmp_path.rglob("*onnx*")] == []
