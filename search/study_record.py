"""A run's record in a PostgreSQL database, as a study of Optuna: for machines that share no file system.

Each trial is one of the study's, with its parameters, objectives and state, so that Optuna's dashboard and a user's
own ``optuna.load_study`` show the run; the lines of the record are attributes of the trials, in the order of their
keys. The run folder holds a copy of them, from which everything else is read.

One process owns a study: a lock of the server, which goes when the connection goes.
"""

from __future__ import annotations

import hashlib
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from ..spaces.errors import RunError
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from .database import connected, reported
from .storage_address import without_password

#: Of a study's attribute that says what the run is of, and of the trials' attributes, with the number of the line.
HEADER, LINE = "paretopress", "paretopress:{:09d}"
_STATES = {"ok": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
#: A server that can't be reached notices within half a minute, too.
_SERVER = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4"
#: Distinguishes our locks from those that others take in the same database.
_CLASS = 0x7072_6573


class StudyRecord:
    """The record of one run in a database, owned by this process until `close`.

    Parameters
    ----------
    address
        ``postgresql://user@host:port/database``. A password may be in it, in the environment's ``PGPASSWORD``, or in
        ``~/.pgpass``.
    name
        Of the study; that of the run folder.
    space
        What is searched: gives the trials' parameters their values.

    Attributes
    ----------
    place
        Address and study, without a password, for messages.
    header
        What the run is of, see `identity`; None if the database has no run of that name.

    Raises
    ------
    SettingError
        If the address is none, or nothing is installed to reach it with.
    RunError
        If the database can't be used, another process owns the study, or it is not one of ours.
    """

    def __init__(self, address: str, name: str, space: Space) -> None:
        self.place = f"{without_password(address)}, study {name!r}"
        self._name, self._space = name, space
        self._sites = {(d.site, o.technique): d for d in space.decisions for o in d.options}
        self._storage = connected(address, self.place)
        self._study: int | None = None
        self._open: dict[str, int] = {}  # digest of a recipe -> the study's trial that has no end
        self._next = 0
        self.header: dict[str, Any] | None = None
        with reported(self.place, "can't be used"):
            self._lock = self._locked()
            try:
                self._find()
            except BaseException:
                self._lock.close()
                raise

    def _locked(self) -> Connection:
        """Return the connection that holds the study's lock."""
        connection = self._storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        key = int.from_bytes(hashlib.sha256(self._name.encode()).digest()[:4], "big", signed=True)
        ours = f"paretopress {key} process {os.getpid()} on {socket.gethostname()}"
        connection.execute(text("SELECT set_config('application_name', :ours, false)"), {"ours": ours[:63]})
        for setting in _SERVER.split("; "):
            connection.execute(text(setting))
        lock = text("SELECT pg_try_advisory_lock(:class, :key)")
        if connection.execute(lock, {"class": _CLASS, "key": key}).scalar():
            return connection
        others = text("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE :own AND pid <> :pid")
        own = {"own": f"paretopress {key} %", "pid": connection.execute(text("SELECT pg_backend_pid()")).scalar()}
        other = connection.execute(others, own).scalar()
        connection.close()
        who = str(other).partition(f"{key} ")[2] if other else "another process"
        raise RunError(
            f"{self.place}: {who} is running this search. Wait for it; if it was killed, its connection ends within "
            "half a minute."
        )

    def _find(self) -> None:
        """Find the study, and the trials in it that have no end."""
        try:
            self._study = self._storage.get_study_id_from_name(self._name)
        except KeyError:
            return
        self.header = self._storage.get_study_user_attrs(self._study).get(HEADER)
        if self.header is None:
            raise RunError(
                f"{self.place}: is a study, but none of paretopress. Give the run folder, which it is named after, "
                "another name, or take another database."
            )
        for trial in self._storage.get_all_trials(self._study, deepcopy=False):
            lines = dict(_lines(trial))
            if not lines:  # somebody else's
                continue
            self._next = max(self._next, max(lines) + 1)
            if trial.state is TrialState.RUNNING:
                key = self._storage.get_trial_id_from_study_id_trial_number(self._study, trial.number)
                last = lines[max(lines)]
                if "trial" in last:  # the connection was lost between the line and the state
                    self._end(key, last)
                else:
                    self._open[last["digest"]] = key

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What is recorded, in the order in which it was; see `Record.read`."""
        if self._study is None:
            return []
        with reported(self.place, "can't be read"):
            trials = self._storage.get_all_trials(self._study, deepcopy=False)
        return [line for _, line in sorted((x for t in trials for x in _lines(t)), key=lambda x: x[0])]

    def create(self, header: Mapping[str, Any]) -> None:
        """Begin the record of a new run."""
        directions = [StudyDirection[direction.upper()] for _, direction in header["objectives"]]
        with reported(self.place, "can't be written"):
            self._study = self._storage.create_new_study(directions, self._name)
            self._storage.set_study_user_attr(self._study, HEADER, dict(header))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study = optuna.load_study(study_name=self._name, storage=self._storage)
                study.set_metric_names([name for name, _ in header["objectives"]])
        self.header = dict(header)

    def clear(self) -> None:
        """Discard the run, if there is one."""
        if self._study is not None:
            with reported(self.place, "can't be written"):
                self._storage.delete_study(self._study)
        self._study, self.header, self._next = None, None, 0
        self._open.clear()

    def append(self, lines: Sequence[Mapping[str, Any]], what: str) -> None:
        """Record lines; what returns is in the database.

        Raises
        ------
        RunError
            If the database is gone or another process has taken the study over. Some of several lines may have been
            recorded.
        """
        with reported(self.place, f"{what} can't be recorded"):
            self._lock.execute(text("SELECT 1"))  # the lock is this connection's
            for line in lines:
                self._append(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        about = line.get("trial", line)
        digest = about["digest"]
        key, self._next = LINE.format(self._next), self._next + 1
        if digest in self._open:
            self._storage.set_trial_user_attr(self._open[digest], key, dict(line))
        else:
            params, distributions = self._params(Recipe.from_json(about["recipe"]))
            trial = create_trial(
                state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs={key: dict(line)}
            )
            assert self._study is not None
            self._open[digest] = self._storage.create_new_trial(self._study, trial)
        if "trial" in line:
            self._end(self._open.pop(digest), line)

    def _end(self, trial: int, line: Mapping[str, Any]) -> None:
        """Give a trial its state, and the values of a model that was measured."""
        assert self.header is not None
        state, measured = _STATES[line["trial"]["status"]], line["trial"]["measurements"]
        values = [measured[name]["value"] for name, _ in self.header["objectives"] if name in measured]
        self._storage.set_trial_state_values(trial, state, values if state is TrialState.COMPLETE else None)

    def _params(self, recipe: Recipe) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Return what a recipe chose, by the names of the space's dimensions, and what there was to choose from."""
        params: dict[str, Any] = {}
        for step in recipe.steps:
            decision = self._sites[step.site, step.technique]
            params[decision.name] = step.technique
            option = decision.option(step.technique)
            params |= {decision.dimension(option, name): value for name, value in step.params}
        return params, {name: CategoricalDistribution(self._space.dimensions[name].values) for name in params}

    def close(self) -> None:
        """Give the study up."""
        with suppress(SQLAlchemyError):
            self._lock.close()
        self._storage.remove_session()
        self._storage.engine.dispose()


def _lines(trial: FrozenTrial) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered lines of a trial."""
    prefix = LINE.partition("{")[0]
    for key, value in trial.user_attrs.items():
        if key.startswith(prefix):
            yield int(key.removeprefix(prefix)), value
