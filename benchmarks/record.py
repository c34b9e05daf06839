"""Runs that took hours, kept in the repository: a benchmark goes on where it was stopped, on whatever machine.

A line is one run: what it was of, where it was made, and what it came to. What is said to be of the same run is taken
instead of running it; how far a record can be trusted is for the benchmark to check, by running a part of it again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from paretopress.search.stopwatch import processor

FOLDER = Path(__file__).resolve().parent / "records"


def made() -> dict[str, str]:
    """Return where and with what a run is made now."""
    packages = ("torch", "optuna", "numpy")
    return {
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def source(benchmark: str) -> str:
    """Return a digest of all that a run of our own search depends on: the packages' code and the benchmark's."""
    root = FOLDER.parent.parent
    folders = (root / name for name in ("compressors", "evaluators", "search", "spaces"))
    files = [Path(benchmark).resolve(), *(file for folder in folders for file in sorted(folder.rglob("*.py")))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Record:
    """The runs of one benchmark.

    Parameters
    ----------
    name
        Of the benchmark; the record is ``records/<name>.jsonl``.
    folder
        Where records are.
    """

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.file = folder / f"{name}.jsonl"

    def find(self, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the run of these facts came to; of several, the last."""
        if not self.file.exists():
            return None
        wanted = json.loads(json.dumps(of))
        for line in reversed(self.file.read_text().splitlines()):
            entry: dict[str, Any] = json.loads(line)
            if entry["of"] == wanted:
                return dict(entry["run"])
        return None

    def add(self, of: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Write a run down; several processes may."""
        self.file.parent.mkdir(exist_ok=True)
        line = json.dumps({"of": of, "made": made(), "run": run}, separators=(",", ":"))
        with self.file.open("ab") as file:  # one write a line: lines of several processes don't mix
            file.write(line.encode() + b"\n")
