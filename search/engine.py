"""The ask -> run -> record -> tell loop, and nothing else."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from ..spaces.errors import RunError
from ..spaces.recipe import BASELINE, Recipe
from ..spaces.space import Space
from .constraint import allowed, violations
from .executor import Executor, Lost
from .gains import Gains
from .handover import Handover
from .plan import Plan
from .racing import Race
from .record import Book, many
from .result import Result
from .sampler import Proposal, Sampler
from .standing import Standing
from .store import Store
from .trial import Finished, Job

#: A trial whose worker was lost so often has failed; so has one that was started so often and never ended.
MAX_LOSSES, MAX_STARTS = 3, 10
#: Proposals in a row that may repeat known recipes before new ones are drawn at random.
_REPEATS = 30
#: Random draws in a row that may be known before a space of at most so many points is gone through, and a larger one
#: counts as exhausted.
_DRAWS, _LISTED = 2000, 200_000
#: Seconds after which waiting for trials looks at the clock and at Ctrl-C.
_TICK = 0.5
#: Trials that are proposed before they are started together: one write to the journal is for all of them.
_TOGETHER = 64


class Watcher(Protocol):
    """Is told of everything that happens, e.g. to draw a progress bar."""

    def finished(self, result: Result, front: Sequence[Result], running: int, feasible: bool) -> None:
        """A trial has finished; where nothing is feasible, ``front`` comes nearest to the limits."""
        ...


@dataclass
class _Trial:
    """A trial without an end. ``alone`` says whether nothing may run beside it; ``since`` is when it was started last,
    and ``seconds`` is how long attempts took that were lost.
    """

    number: int
    seed: int
    proposals: list[Proposal]
    starts: int = 0
    losses: int = 0
    alone: bool = False
    since: float = 0.0
    seconds: float = 0.0

    @property
    def recipe(self) -> Recipe:
        return self.proposals[0].recipe


class Engine:
    """One session of a run.

    Parameters
    ----------
    plan
        Objectives, constraints, budget, sampler and seed. Trials are seeded by the run's seed and their recipe, so
        that a recipe has one result whoever asks for it.
    space
        What is searched.
    executor
        Where trials run.
    journal, store, handover
        Where results and files are kept, and where workers leave them.
    sampler
        Proposes recipes.
    watcher
        Is told of every finished trial.
    clock
        Gives the seconds that ``plan.budget.minutes`` are counted in.
    """

    def __init__(
        self,
        plan: Plan,
        space: Space,
        executor: Executor,
        journal: Book,
        store: Store,
        handover: Handover,
        sampler: Sampler,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.space, self.executor = plan, space, executor
        self.journal, self.store, self.handover = journal, store, handover
        self.sampler, self.watcher, self._clock = sampler, watcher, clock
        self.standing = Standing(plan.objectives, plan.quality, self._violations, plan.constraints)
        self.stopping = False
        self.repeats = 0
        self._trials: dict[str, _Trial] = {}  # by the recipe's digest, in whatever state
        self._running: dict[str, Job] = {}  # of them, those that an executor has
        self._waiting: deque[str] = deque()  # those that are to be started (again)
        self._alone: deque[str] = deque()  # those that wait until nothing else is left to run
        self._unsettled: list[Finished] = []  # whose results may not be on disk yet
        self._replacing = 0  # how many of them have a result already, a failed one
        self._exhausted = False
        self._rest = space.every() if space.points <= _LISTED else iter(())
        self._random = random.Random(plan.seed)
        self._gains = Gains()
        with many():
            for result, _ in journal.results:
                self._learn(result)
            for result, attributes in journal.results:
                self.sampler.recall(result, self._violations(result), attributes)
        numbers = [r.number for r in self.standing.results.values()] + [u.number for u in journal.unfinished.values()]
        self._number = max(numbers, default=-1) + 1

    @property
    def baseline(self) -> Result:
        """The original model's result."""
        return self.standing.results[BASELINE]

    def _learn(self, result: Result) -> bool:
        self._gains = self._gains.learnt(result, self.plan.quality)
        return self.standing.add(result)

    def _violations(self, result: Result) -> list[float]:
        return violations(self.plan.constraints, result, self.baseline, self.plan.quality)

    # --- the loop ------------------------------------------------------------------------------------------

    def run(self, starting: Sequence[Recipe]) -> str:
        """Search until the budget is spent; return why it ended: "trials", "minutes", "evaluations", "exhausted" or
        "interrupted".

        Trials that an earlier session left come first, then ``starting``.

        Raises
        ------
        RunError
            If nothing can be recorded or run any more; what was recorded stays, and the run can be resumed.
        """
        minutes = self.plan.budget.minutes
        deadline = self._clock() + 60 * minutes if minutes is not None else None
        self._take_over()
        queue = deque(r for r in starting if r.digest not in self.standing.results and r.digest not in self._trials)
        try:
            while True:
                why = self._why_stop(deadline)
                self._start(self._together(queue, why, deadline))
                self._settle()
                why = why or self._why_stop(deadline)
                done = not self._waiting and not self._alone
                if why and (why == "minutes" or (not self._running and (done or why == "interrupted"))):
                    return why
                free = not why and len(self._running) < self.executor.slots
                self._record(self.executor.wait(0.0 if free else _TICK))
        finally:
            self._abandon()

    def _why_stop(self, deadline: float | None) -> str:
        if self.stopping:
            return "interrupted"
        if deadline is not None and self._clock() >= deadline:
            return "minutes"
        budget, new = self.plan.budget, len(self._trials) - self._replacing
        if budget.trials is not None and len(self.standing.results) + new >= budget.trials:
            return "trials"
        if budget.evaluations is not None and self.standing.evaluations + len(self._trials) >= budget.evaluations:
            return "evaluations"
        return "exhausted" if self._exhausted else ""

    def _together(self, queue: deque[Recipe], why: str, deadline: float | None) -> list[str]:
        """Return the trials to start now: those that wait, then new ones unless there is a reason to stop."""
        running_alone = len(self._running) == 1 and self._trials[next(iter(self._running))].alone
        if why in ("interrupted", "minutes") or running_alone:
            return []
        found: list[str] = []
        free = min(self.executor.slots - len(self._running), _TOGETHER)
        while len(found) < free:
            if self._waiting:
                found.append(self._waiting.popleft())
            elif not why:
                proposal = self._next(queue)
                if proposal is None:
                    self._exhausted = True
                else:
                    found.append(self._open(proposal, self._number))
                    self._number += 1
                why = self._why_stop(deadline)
            elif self._alone and not self._running and not found:
                return [self._alone.popleft()]
            else:
                break
        return found

    def _next(self, queue: deque[Recipe]) -> Proposal | None:
        if queue:
            return self.sampler.ask_for(queue.popleft(), "start")
        results = self.standing.results
        for _ in range(_REPEATS):
            proposal = self.sampler.ask()
            digest = proposal.recipe.digest
            known = results.get(digest)
            if digest in self._trials:  # answered when the trial ends
                self.repeats += 1
                self._trials[digest].proposals.append(proposal)
            elif known is not None:  # answered from the journal
                self.repeats += 1
                self.sampler.tell(proposal, known, self._violations(known))
            else:
                return proposal
        for _ in range(_DRAWS):
            recipe = self.space.sample(self._random)
            if recipe.digest not in results and recipe.digest not in self._trials:
                return self.sampler.ask_for(recipe, "random")
        for recipe in self._rest:
            if recipe.digest not in results and recipe.digest not in self._trials:
                return self.sampler.ask_for(recipe, "random")
        return None

    def _open(self, proposal: Proposal, number: int, seed: int | None = None) -> str:
        digest = proposal.recipe.digest
        own = int(digest[:8], 16) ^ self.plan.seed
        self._trials[digest] = _Trial(number, own if seed is None else seed, [proposal])
        self._replacing += digest in self.standing.results
        return digest

    def _start(self, digests: Sequence[str]) -> None:
        """Record and start attempts of trials."""
        if not digests:
            return
        # While nothing keeps all constraints, a dominated result may be the nearest: nothing is stopped or left out.
        feasible = self.standing.feasible
        front = self.standing.losses if feasible else []
        limits = allowed(self.plan.constraints, self.baseline, self.plan.quality) if feasible else {}
        jobs = []
        for digest in digests:
            trial = self._trials[digest]
            trial.starts += 1
            trial.since = self._clock()
            proposal = trial.proposals[0]
            race = Race(limits, self._gains, proposal.floors) if self.plan.racing else None
            driver = self.handover.driver
            jobs.append(Job(trial.number, trial.recipe, trial.seed, proposal.origin, race, trial.starts, driver))
        self.journal.start(jobs)
        for job in jobs:
            self._running[job.recipe.digest] = job
            self.executor.submit(job, front)

    def front(self) -> list[Result]:
        """Return the best results: non-dominated among those that keep all constraints, or, if none does,
        among those that break them least.
        """
        return self.standing.front

    # --- ends ----------------------------------------------------------------------------------------------

    def _record(self, ended: Sequence[Finished | Lost]) -> None:
        """Take in what an executor gives back; what isn't of the attempt that runs now is stale."""
        finished: list[Finished] = []
        lost: list[Lost] = []
        for end in ended:
            recipe = end.job.recipe if isinstance(end, Lost) else end.result.recipe
            attempt = end.job.attempt if isinstance(end, Lost) else end.attempt
            job = self._running.get(recipe.digest)
            if job is not None and job.attempt == attempt:
                del self._running[recipe.digest]
                if isinstance(end, Lost):
                    lost.append(end)
                else:
                    finished.append(end)
        self._conclude([*finished, *self._again(lost)])

    def _again(self, lost: Iterable[Lost]) -> list[Finished]:
        """Let trials wait for another attempt; return those that have failed."""
        failed = []
        for end in lost:
            digest = end.job.recipe.digest
            trial = self._trials[digest]
            blame = end.fate != "moved"
            trial.losses += blame
            trial.seconds += self._clock() - trial.since
            self.journal.lose([end.job], end.reason, blame)
            hopeless = trial.losses >= MAX_LOSSES or trial.starts >= MAX_STARTS
            if end.fate == "failed" or hopeless or (trial.alone and blame):
                times = trial.losses if blame else trial.starts
                failed.append(_failed(trial, end.reason + (f" ({times} times)" if times > 1 else "")))
            elif end.fate == "alone" or trial.alone:
                trial.alone = True
                self._alone.append(digest)
            else:
                self._waiting.append(digest)
        return failed

    def _conclude(self, finished: Sequence[Finished]) -> None:
        """Take in results: file, journal, sampler. What the journal holds back is written with the starts of the trials
        that follow, or by `_settle`: until then nobody has heard of it, and what workers left is kept.
        """
        if not finished:
            return
        trials = [self._trials[f.result.recipe.digest] for f in finished]
        replaced = sum(f.result.recipe.digest in self.standing.results for f in finished)
        changed = [self._learn(f.result) for f in finished]
        front = self.front()
        best = {r.recipe.digest for r in front}
        for end in finished:
            if end.data is not None and end.result.recipe.digest in best:
                self.store.save(end.result.recipe.digest, end.data)
        self.journal.finish([(f.result, self.sampler.attributes(t.proposals[0])) for f, t in zip(finished, trials)])
        self._unsettled.extend(finished)
        self._replacing -= replaced
        for end, trial in zip(finished, trials):
            del self._trials[end.result.recipe.digest]
            violated = self._violations(end.result)
            for proposal in trial.proposals:
                self.sampler.tell(proposal, end.result, violated)
        if any(changed):
            self.store.keep_only({BASELINE, *best})

    def _settle(self) -> None:
        """See to it that the results so far are on disk, and tell of them."""
        self.journal.flush()
        self.handover.drop(self._unsettled)
        if self.watcher is not None:
            front = self.front()
            for end in self._unsettled:
                self.watcher.finished(end.result, front, len(self._running), self.standing.feasible)
        self._unsettled.clear()

    def _take_over(self) -> None:
        """Go on with what an earlier session left: results that it never told, trials that it never finished, failed
        ones that are to be run again, and those that were stopped under other limits.
        """
        unfinished = list(self.journal.unfinished.values())
        for left in unfinished:
            digest = self._open(self.sampler.ask_for(left.recipe, left.origin), left.number, left.seed)
            self._trials[digest].starts, self._trials[digest].losses = left.starts, left.losses
        ended = {e.result.recipe.digest: e for e in self.handover.left()}
        self._conclude([end for digest, end in ended.items() if digest in self._trials])
        running = [u for u in unfinished if u.starts and u.recipe.digest in self._trials]
        if len(running) == 1 and self.executor.inside:  # nothing else can have brought the driver down
            left = running[0]
            self._trials[left.recipe.digest].losses += 1
            last = Job(left.number, left.recipe, left.seed, left.origin, None, left.starts)
            self.journal.lose([last], "the session died while this trial alone was running", blame=True)
        hopeless = [t for t in self._trials.values() if t.losses >= MAX_LOSSES or t.starts >= MAX_STARTS]
        reason = "it was started {} times and never came to an end"
        self._conclude([_failed(t, reason.format(t.starts)) for t in hopeless])
        tried = {t.recipe.digest for t in hopeless}
        for digest, result in list(self.standing.results.items()):
            failed = self.plan.retry != "unfinished" and result.status == "failed" and digest not in tried
            if (failed or self.standing.may_return(result)) and digest not in self._trials:
                self._open(self.sampler.ask_for(result.recipe, result.origin), result.number, result.seed)
            if failed and self.plan.retry == "restart-errored":
                self.handover.forget(digest)
        self._waiting.extend(self._trials)

    def _abandon(self) -> None:
        """Leave what runs or waits to a later session; it is none of the trials' doing."""
        if self._running:
            with suppress(RunError):  # the reason why the run ends may be that nothing can be written
                self.journal.lose(list(self._running.values()), "the session ended", blame=False)
        for trial in self._trials.values():
            for proposal in trial.proposals:
                self.sampler.forget(proposal)
        self._trials.clear()
        self._running.clear()


def _failed(trial: _Trial, reason: str) -> Finished:
    proposal = trial.proposals[0]
    result = Result(trial.number, trial.recipe, {}, "failed", reason[:500], trial.seconds, trial.seed, proposal.origin)
    return Finished(result)
