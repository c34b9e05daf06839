"""Another device, such as a phone on the desk: it is given two files, and says how long each takes."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..spaces.errors import SettingError
from .pairing import FEWEST, Pairing

#: ``measure(candidate, baseline, batch, threads)`` times two ONNX files in turns, and returns the seconds of the passes
#: of each, those of a pair beside each other: two lists, or what a command prints (see `Command`), as a dict.
Seconds = tuple[Sequence[float], Sequence[float]] | Mapping[str, Sequence[float]]
Measure = Callable[[Path, Path, int, int], Seconds]
_NAMES = ("seconds", "baseline_seconds")
#: Seconds that a command may take.
PATIENCE = 600.0
#: Where the command finds what to do.
PLACES = ("{model}", "{baseline}", "{batch}", "{threads}")


class Command:
    """A command that times two files on a device.

    Parameters
    ----------
    line
        As in a shell, but without one; ``{model}``, ``{baseline}``, ``{batch}`` and ``{threads}`` are filled in. The
        last line that it prints is JSON: ``{"seconds": [...], "baseline_seconds": [...]}``.

    Raises
    ------
    SettingError
        If the line is empty, or doesn't say where the two files go.
    """

    def __init__(self, line: str) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise SettingError("device", line, f"is no command line ({error})") from None
        if not self._words or not all(place in line for place in PLACES[:2]):
            raise SettingError(
                "device", line, "must hold {model} and {baseline}, the places of the two files",
                "E.g. './phone.sh {model} {baseline} {batch} {threads}'.",
            )  # fmt: skip
        self.line = line

    def __call__(self, model: Path, baseline: Path, batch: int, threads: int) -> tuple[list[float], list[float]]:
        """Run the command; see `Measure`.

        Raises
        ------
        RuntimeError
            If it fails, takes too long, or prints something else.
        """
        values = dict(zip(PLACES, map(str, (model, baseline, batch, threads))))
        words = [_filled(word, values) for word in self._words]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{words[0]} took longer than {PATIENCE:g} s") from None
        except OSError as error:
            raise RuntimeError(f"{words[0]} can't be run: {error.strerror}") from None
        told = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1][:300]
        if done.returncode:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}: {told}")
        try:
            return _both(json.loads(done.stdout.strip().splitlines()[-1]))
        except (IndexError, KeyError, TypeError, ValueError):
            form = '{"seconds": [...], "baseline_seconds": [...]}'
            raise RuntimeError(f"the last line that {words[0]} printed must be {form}, not: {told}") from None


def _both(found: Any) -> tuple[list[float], list[float]]:
    """Return the seconds of the model and those of the original, in whatever form they were given."""
    mine, theirs = (found[name] for name in _NAMES) if isinstance(found, Mapping) else found
    return [float(x) for x in mine], [float(x) for x in theirs]


def _filled(word: str, values: dict[str, str]) -> str:
    for place, value in values.items():
        word = word.replace(place, value)
    return word


def timed_by(measure: Measure, model: bytes, baseline: bytes, batch: int, threads: int) -> Pairing:
    """Return what a device says of two ONNX files.

    Raises
    ------
    RuntimeError
        If the function can't be called or returns something else, or the times are no positive numbers, differ in
        number, or are fewer than 6 pairs.
    """
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        files = Path(folder) / "model.onnx", Path(folder) / "baseline.onnx"
        for file, data in zip(files, (model, baseline)):
            file.write_bytes(data)
        found: Any = measure(*files, batch, threads)
    try:
        mine, theirs = _both(found)
    except (KeyError, TypeError, ValueError):
        raise RuntimeError(
            "the device's function must return two lists of seconds, those of the model and those of the original, or "
            f"them as {{'seconds': [...], 'baseline_seconds': [...]}}, not {str(found)[:100]}"
        ) from None
    if len(mine) != len(theirs) or len(mine) < FEWEST:
        raise RuntimeError(f"the device gave {len(mine)} and {len(theirs)} times: both must be the same, {FEWEST} up")
    if not all(math.isfinite(x) and x > 0 for x in (*mine, *theirs)):
        raise RuntimeError("the device gave times that are not above 0")
    return Pairing.of(mine, theirs)
