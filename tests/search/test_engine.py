"""The loop itself, in simulated time: every end that an attempt can have, and every moment at which a run can stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated_session import End, Fate, Session, complete, died, fatal, kill_after, killed, made_up, moved, ok, starved

from paretopress.search import engine as module
from paretopress.search.engine import MAX_LOSSES, MAX_STARTS
from paretopress.search.executor import Lost
from paretopress.search.journal import read
from paretopress.search.optuna_samplers import OptunaSampler, encoded
from paretopress.search.result import Result
from paretopress.search.sampler import Proposal
from paretopress.search.trial import Finished, Job
from paretopress.spaces.errors import RunError
from paretopress.spaces.recipe import Recipe
from paretopress.spaces.space import Space
from paretopress.spaces.task import Task


def test_a_run_has_its_budget_of_different_trials(task: Task, space: Space, tmp_path: Path) -> None:
    """None lost, none twice, whatever the order in which they end."""
    session = Session(task, space, tmp_path, budget=40)
    assert session.run() == "trials"
    complete(session, 40)


def test_a_lost_worker_costs_an_attempt_and_no_trial(task: Task, space: Space, tmp_path: Path) -> None:
    """The trial runs again under its number, as an attempt of its own."""
    fate = Fate(5, died, died)
    session = Session(task, space, tmp_path, fate, budget=12)
    session.run()
    complete(session, 12)
    assert session.results[-1].status == "ok"
    assert [j.starts for j in fate.jobs] == [1, 2, 3]
    assert len({j.attempt for j in fate.jobs}) == 3


def test_a_trial_that_always_kills_its_worker_fails(task: Task, space: Space, tmp_path: Path) -> None:
    """After so many losses it is a failure with the reason, and the others go on."""
    session = Session(task, space, tmp_path, Fate(5, *[died] * 9), budget=12)
    session.run()
    complete(session, 12)
    [failed] = [r for r in session.results if r.status == "failed"]
    assert failed.number == 5
    assert failed.error == f"its worker died ({MAX_LOSSES} times)"


@pytest.mark.parametrize(("nodes", "status"), [(MAX_STARTS - 1, "ok"), (MAX_STARTS, "failed")])
def test_a_node_that_dies_is_not_held_against_its_trial(
    task: Task, space: Space, tmp_path: Path, nodes: int, status: str
) -> None:
    """Machines that are taken back at any time cost no trial; one that brings all of them down comes to an end."""
    session = Session(task, space, tmp_path, Fate(5, *[moved] * nodes), budget=12)
    session.run()
    complete(session, 12)
    [hit] = [r for r in session.results if r.number == 5]
    assert (hit.status, hit.error) == (status, f"its node died ({MAX_STARTS} times)" if status == "failed" else "")


def test_a_trial_that_was_killed_for_what_it_did_is_not_tried_again(task: Task, space: Space, tmp_path: Path) -> None:
    """A deadline or a limit that it broke, it would break again."""
    fate = Fate(5, killed)
    session = Session(task, space, tmp_path, fate, budget=12)
    session.run()
    complete(session, 12)
    assert len(fate.jobs) == 1
    assert {r.number: r.error for r in session.results if r.status == "failed"} == {5: "it took 9 GB"}


@pytest.mark.parametrize("again", [False, True])
def test_a_starved_trial_runs_once_more_by_itself(task: Task, space: Space, tmp_path: Path, again: bool) -> None:
    """At the end, with nothing beside it; if that isn't enough either, it has failed."""
    beside: list[int] = []
    fate = Fate(5, *[starved] * (1 + again))

    def outcome(job: Job, front: list[list[float]]) -> End:
        beside.append(job.number)
        return fate(job, front)

    session = Session(task, space, tmp_path, outcome, budget=12)
    session.run()
    complete(session, 12)
    assert beside.count(5) == 2
    assert beside[-1] == 5
    assert session.results[-1].number == 5
    assert session.results[-1].status == ("failed" if again else "ok")


def test_a_result_of_an_attempt_that_was_given_up_is_ignored(task: Task, space: Space, tmp_path: Path) -> None:
    """A worker that was taken for dead may still answer; what counts is the attempt that runs now."""
    late: list[Finished] = []

    def lost_but_alive(job: Job) -> Lost:
        late.append(made_up(job))
        return died(job)

    session = Session(task, space, tmp_path, Fate(5, lost_but_alive), budget=12)
    wait = session.executor.wait
    session.executor.wait = lambda timeout: [*wait(timeout), *late]  # type: ignore[method-assign]  # the late answer
    session.run()
    complete(session, 12)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert sorted(line["trial"]["number"] for line in lines if "trial" in line) == list(range(12))


@pytest.mark.parametrize("deaths", [[0], [3], [1, 1, 1], [4, 7, 0, 2]])
def test_a_killed_run_goes_on_where_it_was(task: Task, space: Space, tmp_path: Path, deaths: list[int]) -> None:
    """Whenever sessions are killed, the run ends with its trials: none lost, none twice, none left running."""
    for calls in deaths:
        session = Session(task, space, tmp_path, budget=20)
        kill_after(calls, session)
        with pytest.raises(KeyboardInterrupt):
            session.run()
    session = Session(task, space, tmp_path, budget=20)
    assert session.run() == "trials"
    complete(session, 20)


def test_a_result_that_was_left_and_never_told_is_taken_over(task: Task, space: Space, tmp_path: Path) -> None:
    """A driver that dies between a worker's end and the journal loses nothing: the trial isn't run again."""
    first = Session(task, space, tmp_path, budget=6)
    kill_after(0, first)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    jobs = [Job(u.number, u.recipe, u.seed, u.origin, None, 1, "x") for u in read(tmp_path)[1].unfinished.values()]
    for job in jobs:
        first.handover.leave(made_up(job))
    ran: list[int] = []

    def outcome(job: Job, front: list[list[float]]) -> End:
        ran.append(job.number)
        return ok(job, front)

    second = Session(task, space, tmp_path, outcome, budget=6)
    second.run()
    complete(second, 6)
    assert len(jobs) == 3
    assert not {j.number for j in jobs} & set(ran)
    assert not list((tmp_path / "pending").glob("*.trial"))


def test_a_trial_that_brings_the_driver_down_fails_in_the_end(task: Task, space: Space, tmp_path: Path) -> None:
    """What alone was running when the session died is to blame for it, and isn't tried for ever."""
    deaths = 0
    while True:
        session = Session(task, space, tmp_path, slots=1, budget=5)
        session.executor.outcome = fatal(3)
        kill_after(10**6, session)
        try:
            session.run()
            break
        except KeyboardInterrupt:
            deaths += 1
            assert deaths <= MAX_LOSSES
    complete(session, 5)
    assert deaths == MAX_LOSSES
    assert {r.number for r in session.results if r.status == "failed"} == {3}


@pytest.mark.parametrize(("slots", "inside"), [(3, True), (1, False)])
def test_trials_that_run_while_others_bring_the_driver_down_are_not_blamed_soon(
    task: Task, space: Space, tmp_path: Path, slots: int, inside: bool
) -> None:
    """Several were running, or one in another process: it takes many deaths until they are given up."""
    for _ in range(MAX_LOSSES + 1):
        session = Session(task, space, tmp_path, slots=slots, budget=5)
        session.executor.inside = inside
        kill_after(0, session)
        with pytest.raises(KeyboardInterrupt):
            session.run()
    assert {u.starts for u in read(tmp_path)[1].unfinished.values()} == {MAX_LOSSES + 1}
    assert MAX_STARTS > MAX_LOSSES + 1
    session = Session(task, space, tmp_path, budget=5)
    session.run()
    complete(session, 5)
    assert {r.status for r in session.results} == {"ok"}


@pytest.mark.parametrize(("retry", "again"), [("unfinished", False), ("errored", True), ("restart-errored", True)])
def test_failed_trials_are_run_again_on_request(
    task: Task, space: Space, tmp_path: Path, retry: str, again: bool
) -> None:
    """A cause that was outside of them is gone; their numbers and recipes stay."""
    session = Session(task, space, tmp_path, Fate(4, killed), budget=8)
    session.run()
    before = [r.recipe for r in session.results]
    session = Session(task, space, tmp_path, budget=8, retry=retry)
    session.run()
    complete(session, 8)
    assert [r.recipe for r in session.results] == before
    assert [r.number for r in session.results if r.status == "failed"] == ([] if again else [4])


def test_a_retried_trial_that_brings_the_driver_down_fails_once(task: Task, space: Space, tmp_path: Path) -> None:
    """What has failed and was being tried again is no other trial: it is given up like any, and costs none."""
    Session(task, space, tmp_path, Fate(2, killed), slots=1, budget=4).run()
    for death in range(MAX_LOSSES + 1):
        session = Session(task, space, tmp_path, slots=1, budget=6, retry="errored")
        session.executor.outcome = fatal(2)
        kill_after(10**6, session)
        if death == MAX_LOSSES:
            session.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                session.run()
    complete(session, 6)
    assert {r.number for r in session.results if r.status == "failed"} == {2}


def test_a_small_space_is_tried_to_its_last_recipe(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random draws miss the last ones: these are looked for one by one, in a session that goes on, too."""
    monkeypatch.setattr(module, "_DRAWS", 3)
    monkeypatch.setattr(module, "_REPEATS", 3)
    small = Space.from_task(task, {"integer": {"bits": [8, 6, 4, 2], "granularity": "channel"}})
    assert small.size == 125
    assert Session(task, small, tmp_path, budget=100).run() == "trials"
    session = Session(task, small, tmp_path, budget=200)
    assert session.run() == "exhausted"
    complete(session, 125)


def test_minutes_are_the_clocks(task: Task, space: Space, tmp_path: Path) -> None:
    """A run of half a simulated minute with three workers has about the trials that fit, and leaves none running."""
    session = Session(task, space, tmp_path, lambda job, front: (4.0, made_up(job)), minutes=0.5)
    assert session.run() == "minutes"
    assert len(session.results) == 1 + 3 * 7
    left = read(tmp_path)[1].unfinished.values()
    assert [(u.starts, u.losses) for u in left] == [(0, 0)] * 3


def test_a_journal_that_cannot_be_written_ends_the_run_with_what_it_has(
    task: Task, space: Space, tmp_path: Path
) -> None:
    """The reason is told, what was recorded stays, and the run goes on when there is room again."""
    session = Session(task, space, tmp_path, budget=20)
    finish, left = session.journal.finish, [4]

    def full(entries: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RunError("no space left on device")
        finish(entries)

    session.journal.finish = full  # type: ignore[method-assign]  # the disk is full
    with pytest.raises(RunError, match="no space"):
        session.run()
    assert 1 < len(read(tmp_path)[1].results) < 20
    session = Session(task, space, tmp_path, budget=20)
    session.run()
    complete(session, 20)


class Echo(OptunaSampler):
    """Proposes its first recipe twice, and notes what it is told."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.engine.space, session.plan.objectives, "random", 0)
        self.asked: list[Recipe] = []
        self.told: list[Recipe] = []

    def ask(self) -> Proposal:
        """Return the next proposal."""
        proposal = self.ask_for(self.asked[0], "again") if len(self.asked) == 1 else super().ask()
        self.asked.append(proposal.recipe)
        return proposal

    def ask_for(self, recipe: Recipe, origin: str) -> Proposal:
        """Return a proposal of a given recipe."""
        self._study.enqueue_trial(encoded(self.space, recipe))
        return super().ask()

    def tell(self, proposal: Proposal, result: Result, violations: Sequence[float] = ()) -> None:
        """Note it."""
        self.told.append(proposal.recipe)
        super().tell(proposal, result, violations)


def test_a_repeated_proposal_waits_for_the_trial_that_runs(task: Task, space: Space, tmp_path: Path) -> None:
    """It isn't run twice; both proposals are told the one result."""
    session = Session(task, space, tmp_path, budget=6)
    echo = session.engine.sampler = Echo(session)
    session.run()
    complete(session, 6)
    assert session.engine.repeats == 1
    assert echo.told.count(echo.asked[0]) == 2
