"""Every error a user can cause. Each says what was wrong, by which rule, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PressError(Exception):
    """A mistake the user can mend. The command line prints it without a traceback and exits with 2."""


#: Of a value in a message: more isn't read.
_LONGEST = 100


class SettingError(PressError, ValueError):
    """A setting has a value that its rule forbids.

    Parameters
    ----------
    setting
        The setting's name, as the user wrote it.
    value
        What was given.
    rule
        What must hold.
    advice
        What to do about it.
    """

    def __init__(self, setting: str, value: object, rule: str, advice: str = "") -> None:
        self.setting, self.value, self.rule, self.advice = setting, value, rule, advice
        super().__init__(f"{setting} = {_brief(value)}: {rule}." + (f" {advice}" if advice else ""))

    def within(self, where: str) -> SettingError:
        """Return the same about a setting that stands in a file or a section, e.g. within "a.yaml: ray."."""
        return type(self)(where + self.setting, self.value, self.rule, self.advice)

    def __reduce__(self) -> tuple[type[SettingError], tuple[object, ...]]:
        """Keep the four parts when the error crosses a process boundary."""
        return type(self), (self.setting, self.value, self.rule, self.advice)


def _brief(value: object) -> str:
    """Return a value on one line, its middle left out where it is long, such as a whole model."""
    text = " ".join(repr(value).split()) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]} ... {text[-15:]}"


class ModelError(PressError):
    """The model can't be compressed or run as it is."""


class DataError(PressError):
    """The data doesn't have the form that the task needs."""


class RunError(PressError):
    """A run folder or its journal can't be used."""


class ArtifactError(PressError):
    """A saved model can't be read or written."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'? `` or nothing, followed by the list of what exists."""
    names = sorted(known)
    begun = [name for name in names if len(word) > 1 and name.startswith(word)]
    close = begun or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {', '.join(names) if names else 'none'}."
