"""The run folder: what is ours in it, and when it may be used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from ..spaces.errors import RunError, SettingError
from .journal import FILE as JOURNAL

Existing = Literal["refuse", "resume", "fresh"]

#: Everything a run writes. Starting over removes these and nothing else.
OURS = (
    JOURNAL, "config.json", "front.json", "report.html", "models", "front", "front.new", "front.old", "baseline",
    ".lock",
)  # fmt: skip


def prepare(folder: Path, existing: Existing) -> None:
    """Check that the folder may be used, and clear it for a fresh start.

    Raises
    ------
    RunError
        If it holds a run and ``existing`` is "refuse", holds none and it is "resume", is no folder, or holds
        other people's files.
    """
    if existing not in ("refuse", "resume", "fresh"):
        raise SettingError("existing", existing, "must be 'refuse', 'resume' or 'fresh'")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder. Give another run folder.")
    has_run = (folder / JOURNAL).exists()
    if existing == "resume" and not has_run:
        raise RunError(f"{folder}: there is no run to resume (no {JOURNAL}). Start one with: paretopress search.")
    if existing == "refuse" and has_run:
        raise RunError(
            f"{folder}: holds a run already. Continue it (paretopress resume {folder}, or existing='resume'), start "
            "over (--fresh, or existing='fresh'; its results are discarded), or give another folder."
        )
    if folder.is_dir():
        strange = sorted(p.name for p in folder.iterdir() if p.name not in OURS)
        if strange and not has_run:
            raise RunError(
                f"{folder}: is not empty and holds no run (it has {', '.join(strange[:3])}). "
                "Give an empty or new folder."
            )
        if existing == "fresh":
            for name in OURS:
                path = folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
