"""The front on disk: ``front.json``, which a report, a pick or a script reads without the task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluators.base import Measurement
from ..spaces.errors import RunError, SettingError
from .artifact import FILE
from .facts import counted
from .folder import resumed_by
from .front import Front, Point
from .journal import read
from .result import Objective, Result
from .store import write_atomically

FRONT = "front.json"
SCHEMA = 1


def point_json(point: Point, folder: Path) -> dict[str, Any]:
    """Return a point as JSON, its path relative to the run folder."""
    return {
        "id": point.id,
        "trial": point.result.to_json(),
        "final": {k: m.to_json() for k, m in point.final.items()},
        "path": str(point.path.relative_to(folder)) if point.path else None,
        "flags": list(point.flags),
    }


def _point_from(data: dict[str, Any], folder: Path) -> Point:
    path = folder / data["path"] if data["path"] else None
    if path is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the path {data['path']!r} leaves the run folder")
    return Point(
        int(data["id"]),
        Result.from_json(data["trial"]),
        {k: Measurement.from_json(m) for k, m in data["final"].items()},
        path,
        tuple(data["flags"]),
    )


def save_front(front: Front, folder: Path, about: dict[str, Any]) -> None:
    """Write ``front.json``, which `load_front` reads; ``about`` holds what the report says of the run."""
    document = {
        "schema": SCHEMA,
        "objectives": [[o.name, o.direction] for o in front.objectives],
        "quality": [front.quality.name, front.quality.direction],
        "split": front.split,
        "feasible": front.feasible,
        "larger": list(front.larger),
        "notes": list(front.notes),
        "about": about,
        "baseline": point_json(front.baseline, folder),
        "points": [point_json(p, folder) for p in front.points],
    }
    write_atomically(folder / FRONT, json.dumps(document, indent=1).encode())


def load_front(folder: Path) -> tuple[Front, dict[str, Any]]:
    """Return the front of a finished run, and what is known about the run.

    Raises
    ------
    RunError
        If there is none, or it can't be read.
    """
    _, record = read(folder)
    path = folder / FRONT
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise RunError(f"{path}: schema {data['schema']!r} is not {SCHEMA}. Use the paretopress that wrote it.")
        quality = Objective(str(data["quality"][0]), data["quality"][1], True)
        front = Front(
            tuple(Objective(n, d, n == quality.name) for n, d in data["objectives"]),
            quality,
            _point_from(data["baseline"], folder),
            tuple(_point_from(p, folder) for p in data["points"]),
            tuple(result for result, _ in record.results),
            str(data["split"]),
            bool(data["feasible"]),
            tuple(data["notes"]),
            folder,
            tuple(str(name) for name in data.get("larger", ())),
        )
        about = dict(data["about"])
    except FileNotFoundError:
        raise RunError(
            f"{folder}: the run has {counted(len(record.results), 'trial')} but no front yet. "
            f"Finish it with: {resumed_by(folder)}"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RunError(
            f"{path}: is damaged or can't be read ({what}). Write it again with: {resumed_by(folder)}"
        ) from error
    return front, about


def behind(front: Front, about: Mapping[str, Any]) -> str:
    """Return a sentence where a run went on after its front was written, and was killed before it was written again; or
    "".
    """
    more = len(front.results) - int(about["trials"])
    if more <= 0:
        return ""
    return (
        f"The record has {counted(more, 'trial')} that this front knows nothing of. "
        f"Bring it up to date with: {resumed_by(front.folder or Path())}"
    )


def damaged(point: Point, folder: Path) -> str:
    """Return a sentence where the file of a point of a run's folder isn't the one that was measured; or ""."""
    if point.path is None:
        return ""
    file = point.path / FILE
    try:
        if point.result.is_of(file.read_bytes()):
            return ""
        what = "is not the file that was measured: it was damaged or replaced"
    except FileNotFoundError:
        what = "there is no such file"
    except OSError as error:
        what = f"can't be read ({error.strerror})"
    return f"{file}: {what}. Make it again with: {resumed_by(folder)}"


def open_front(folder: Path | str) -> Front:
    """Return the front of a finished run; see `load_front` for the errors."""
    if not isinstance(folder, str | Path):
        raise SettingError("folder", folder, "must be a run folder's path")
    return load_front(Path(folder))[0]
