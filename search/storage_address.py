"""The address of a database: checked, and shown without its password."""

from __future__ import annotations

import re

from ..spaces.errors import SettingError

_FORM = re.compile(r"postgresql(\+\w+)?://([^/@]*@)?[^/@:]*(:\d+)?/[^/?]+(\?.*)?")
_PASSWORD = re.compile(r"(?<=://)([^:/@]*):[^/]*@")
_OPTION = re.compile(r"(?<=[?&])password=[^&]*&?")


def without_password(address: str) -> str:
    """Return an address as it may be shown and kept."""
    return _OPTION.sub("", _PASSWORD.sub(r"\1@", address)).rstrip("?&")


def check_address(address: object) -> None:
    """Check that an address is one of a database that runs can be recorded in.

    Raises
    ------
    SettingError
        If it isn't.
    """
    if not isinstance(address, str) or not _FORM.fullmatch(address):
        shown = without_password(address) if isinstance(address, str) else address
        raise SettingError(
            "storage", shown, "must be the address of a PostgreSQL database",
            "Write postgresql://user@host:5432/database.",
        )  # fmt: skip
