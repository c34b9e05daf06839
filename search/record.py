"""What is recorded of a run: the starts, losses and ends of its trials, as JSON-able lines and what they add up to.

A trial that was started and has no end was running when the run was killed; it is run again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..evaluators.base import Evaluator
from ..spaces.errors import RunError
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.task import Task
from .result import Objective, Result
from .trial import Job

#: 2 has starts and losses; a journal of 1 can be read, and goes on as one of 2.
SCHEMA = 2


def identity(
    task: Task, space: Space, objectives: Sequence[Objective], metrics: Sequence[Evaluator] = ()
) -> dict[str, Any]:
    """Return the header that makes two runs the same; ``metrics`` is what is measured."""
    conditions = {m.name: m.conditions for m in metrics if m.conditions}
    return {
        "schema": SCHEMA,
        "name": task.name,
        "task": task.digest,
        "space": space.digest,
        "objectives": [[o.name, o.direction] for o in objectives],
        **({"conditions": conditions} if conditions else {}),
    }


def check_same(known: Mapping[str, Any], header: Mapping[str, Any], place: object) -> None:
    """Check that a run may be continued.

    Parameters
    ----------
    known
        The header of the run.
    header
        Of the session that would go on.
    place
        Where the run is, for the message.

    Raises
    ------
    RunError
        If it is another run, or was written by a newer version.
    """
    schema = known.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise RunError(
            f"{place}: its journal format is {schema!r}, and this version of paretopress reads up to {SCHEMA}. "
            "Resume it with the version that wrote it, or search anew, in another folder or with --fresh."
        )
    for key, label in (
        ("task", "task (model, validation data or metric)"),
        ("objectives", "objectives"),
        ("space", "search space"),
        ("conditions", "way of measuring"),
    ):
        if known.get(key) != header.get(key):
            raise RunError(
                f"{place} is the journal of another run: its {label} is {known.get(key)!r}, this one's is "
                f"{header.get(key)!r}. Resume with the settings it was started with, or search anew, in another "
                "folder or with --fresh, which discards it."
            )


@dataclass(frozen=True)
class Unfinished:
    """A trial without an end.

    Attributes
    ----------
    line
        Of its first start.
    starts
        How often it was started, but for those starts that were given up for no fault of its own.
    losses
        How often its worker was lost.
    """

    line: Mapping[str, Any]
    starts: int = 0
    losses: int = 0

    @property
    def recipe(self) -> Recipe:
        """What was tried."""
        return Recipe.from_json(self.line["recipe"])

    @property
    def number(self) -> int:
        """As of its `Job`."""
        return int(self.line["number"])

    @property
    def seed(self) -> int:
        """As of its `Job`."""
        return int(self.line["seed"])

    @property
    def origin(self) -> str:
        """As of its `Job`."""
        return str(self.line["origin"])


@contextmanager
def many() -> Iterator[None]:
    """Let the garbage collector wait while tens of thousands of things are made that stay: it would look through all of
    them again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@dataclass
class Record:
    """What the lines of a run add up to.

    Attributes
    ----------
    results
        Each trial's last result, with what the sampler needs to know it again.
    unfinished
        Digest of a recipe -> a trial without an end.
    """

    results: list[tuple[Result, dict[str, Any]]] = field(default_factory=list)
    unfinished: dict[str, Unfinished] = field(default_factory=dict)
    _place: dict[str, int] = field(default_factory=dict)

    def started(self, line: Mapping[str, Any]) -> None:
        """Take in the line of a start."""
        digest = line["digest"]
        known = self.unfinished.get(digest) or Unfinished(line)
        self.unfinished[digest] = replace(known, starts=known.starts + 1)

    def lost(self, digest: str, blame: bool) -> None:
        """Take in a loss."""
        known = self.unfinished.get(digest)
        if known is not None:
            starts, losses = known.starts - (not blame), known.losses + blame
            self.unfinished[digest] = replace(known, starts=starts, losses=losses)

    def finished(self, result: Result, attributes: Mapping[str, Any]) -> None:
        """Take in a result; it takes the place of an earlier one of the same recipe."""
        digest = result.recipe.digest
        self.unfinished.pop(digest, None)
        entry = result, dict(attributes)
        if digest in self._place:
            self.results[self._place[digest]] = entry
        else:
            self._place[digest] = len(self.results)
            self.results.append(entry)

    def read(self, line: Mapping[str, Any]) -> None:
        """Take in a line.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is none of ours.
        """
        if "trial" in line:
            self.finished(Result.from_json(line["trial"]), line.get("sampler", {}))
        elif "start" in line:
            self.started(line)
        else:
            self.lost(str(line["digest"]), bool(line["blame"]))


def start_line(job: Job) -> dict[str, Any]:
    """Return what is recorded of a start."""
    about = {"number": job.number, "seed": job.seed, "origin": job.origin}
    return {"start": job.attempt, "digest": job.recipe.digest, **about, "recipe": job.recipe.to_json()}


def loss_line(job: Job, reason: str, blame: bool) -> dict[str, Any]:
    """Return what is recorded of a loss; ``blame`` says whether it may be the trial's own doing."""
    return {"lost": job.attempt, "digest": job.recipe.digest, "reason": reason, "blame": blame}


def end_line(result: Result, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of a result."""
    return {"trial": result.to_json(), "sampler": dict(attributes)}


class Book(Protocol):
    """Where a run is recorded. What `start` and `lose` record is safe when they return, with all that was finished
    before; a call that raises has recorded nothing.

    Attributes
    ----------
    results, unfinished
        See `Record`.
    """

    @property
    def results(self) -> list[tuple[Result, dict[str, Any]]]:
        """See `Record`."""
        ...

    @property
    def unfinished(self) -> dict[str, Unfinished]:
        """See `Record`."""
        ...

    def start(self, jobs: Sequence[Job]) -> None:
        """Record that trials are about to run.

        Raises
        ------
        RunError
            If it can't be recorded, or another process has taken the run over.
        """
        ...

    def lose(self, jobs: Sequence[Job], reason: str, blame: bool) -> None:
        """Record that trials were given up before their end; ``blame`` says whether it may be their own doing."""
        ...

    def finish(self, entries: Sequence[tuple[Result, Mapping[str, Any]]]) -> None:
        """Record finished trials, each with what the sampler needs to know it again, with what is recorded next, or by
        `flush`.
        """
        ...

    def flush(self) -> None:
        """Record what has finished, if that isn't done yet."""
        ...

    def close(self) -> None:
        """Give the run up."""
        ...
