"""Reaching the database of a run, and what it says when it can't be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import NoSuchModuleError, OperationalError, SQLAlchemyError

from ..spaces.errors import RunError, SettingError
from .storage_address import without_password

#: A server that can't be reached is noticed within half a minute.
_CONNECT = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
_KEPT = "What was recorded is kept: resume when the database is there."
_UNUSABLE = ("can't be used", "Check the address, that the database is there, and what its user may do.")


def check_database(address: str) -> None:
    """Connect to a database, and do nothing there; raises as `connected`."""
    with _driver(address) as url, reported(without_password(address), *_UNUSABLE):
        engine = create_engine(url, connect_args=_CONNECT)
        engine.connect().close()
        engine.dispose()


def connected(address: str, place: str) -> RDBStorage:
    """Return a database as Optuna uses it, with its tables.

    Raises
    ------
    SettingError
        If nothing is installed to reach it with.
    RunError
        If it can't be used; ``place`` is what the message calls it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _driver(address) as url, reported(place, *_UNUSABLE):
        arguments = {"connect_args": _CONNECT, "pool_pre_ping": True}
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=arguments)


@contextmanager
def _driver(address: str) -> Iterator[URL]:
    try:
        url = make_url(address)
        yield url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    except (ImportError, NoSuchModuleError) as error:
        raise SettingError(
            "storage", without_password(address), f"needs a driver that isn't installed ({error})",
            "Install it: pip install 'paretopress[postgresql]'.",
        ) from error  # fmt: skip


@contextmanager
def reported(place: str, problem: str, advice: str = _KEPT) -> Iterator[None]:
    """Turn what a database may say into an error of ours."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = str(getattr(cause, "orig", cause) or cause).strip().splitlines()[0]
        if isinstance(cause, OperationalError) and "password" in reason:
            advice = "Give the password by PGPASSWORD, ~/.pgpass or --storage: it isn't kept in the run folder."
        raise RunError(f"{place}: {problem} ({reason}). {advice}") from error
