"""The settings that a run folder keeps, and whether it was this user who wrote them.

They name a function to import, and a folder may come from anybody: what it names is imported without being asked for
only if a seal says that this user started the run, on this machine or another one with the same home.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..spaces.errors import PressError, RunError
from .config import Config, check
from .folder import SETTINGS
from .store import write_atomically


@dataclass(frozen=True)
class Kept:
    """What a run was started with.

    Attributes
    ----------
    config
        The settings.
    origin
        The folder of their YAML file.
    own
        Whether this user started the run.
    """

    config: Config
    origin: Path
    own: bool


def save(config: Config, folder: Path, origin: Path) -> None:
    """Write the resolved settings, read from the file ``origin``, into the run folder: it can be resumed from there."""
    document = {"config": config.model_dump(mode="json"), "from": str(origin.resolve().parent)}
    key = _key(make=True)
    sealed = {**document, "seal": _seal(document, key)} if key else document
    write_atomically(folder / SETTINGS, json.dumps(sealed, indent=1).encode())


def read_kept(folder: Path) -> Kept:
    """Return the settings that a run folder was started with.

    Raises
    ------
    RunError
        If there are none.
    """
    path = folder / SETTINGS
    try:
        data = json.loads(path.read_bytes())
        document, key = {name: data[name] for name in ("config", "from")}, _key()
        own = bool(key) and hmac.compare_digest(_seal(document, key), str(data.get("seal", "")))
        return Kept(check(data["config"], str(path)), Path(data["from"]), own)
    except FileNotFoundError:
        raise RunError(
            f"{folder}: has no {SETTINGS}: there is no run here, or it was started from Python. Resume such a run with "
            f"search(..., run={str(folder)!r}, existing='resume')."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, PressError):
            raise
        raise RunError(f"{path}: can't be read ({error}).") from error


def _seal(document: dict[str, Any], key: bytes) -> str:
    return hmac.new(key, json.dumps(document, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key(make: bool = False) -> bytes:
    """Return this user's secret; b"" if there is none, or no place for one."""
    with suppress(OSError, RuntimeError):  # nobody knows where home is
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        path = home / "paretopress" / "key"
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".key.{secrets.token_hex(4)}")
            part.touch(mode=0o600)
            part.write_bytes(secrets.token_bytes(32))
            with suppress(FileExistsError):  # another process was faster
                os.link(part, path)
            part.unlink()
        return path.read_bytes()
    return b""
