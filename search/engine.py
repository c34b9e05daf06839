"""The ask -> run -> record -> tell loop, and nothing else."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ..spaces.recipe import Recipe
from ..spaces.space import Space
from .constraint import allowed, violations
from .executor import Executor
from .gains import Gains
from .journal import Journal
from .pareto import best_results
from .plan import Plan
from .racing import Race
from .result import Result
from .sampler import Proposal, Sampler
from .store import Store
from .trial import Finished, Job

#: Proposals in a row that may repeat known recipes before new ones are drawn at random.
_REPEATS = 30
#: Random draws in a row that may be known before the space counts as exhausted.
_DRAWS = 2000
#: Seconds after which waiting for trials looks at the clock and at Ctrl-C.
_TICK = 0.5


class Watcher(Protocol):
    """Is told of everything that happens, e.g. to draw a progress bar."""

    def finished(self, result: Result, front: Sequence[Result], running: int) -> None:
        """A trial has finished."""
        ...


class Engine:
    """One session of a run.

    Parameters
    ----------
    plan
        Objectives, constraints, budget, sampler and seed. Trials are seeded by the run's seed and their recipe, so
        that a recipe has one result whoever asks for it.
    space
        What is searched.
    executor, journal, store
        Where trials run, and where results and files are kept.
    sampler
        Proposes recipes.
    watcher
        Is told of every finished trial.
    """

    def __init__(
        self,
        plan: Plan,
        space: Space,
        executor: Executor,
        journal: Journal,
        store: Store,
        sampler: Sampler,
        watcher: Watcher | None = None,
    ) -> None:
        self.plan, self.space, self.executor = plan, space, executor
        self.journal, self.store, self.sampler, self.watcher = journal, store, sampler, watcher
        self.results: dict[str, Result] = {}
        self.stopping = False
        self.repeats = 0
        self._running: dict[str, list[Proposal]] = {}
        self._random = random.Random(plan.seed)
        self._gains = Gains()
        for result, _ in journal.results:
            self._learn(result)
        for result, attributes in journal.results:
            self.sampler.recall(result, self._violations(result), attributes)

    @property
    def baseline(self) -> Result:
        """The original model's result."""
        return self.results[Recipe().digest]

    @property
    def evaluations(self) -> float:
        """The work of all trials, in evaluations of the whole validation split."""
        examples = self.baseline.measurements[self.plan.quality.name].repeats
        return sum(r.evaluations(examples) for r in self.results.values())

    def _learn(self, result: Result) -> None:
        self.results[result.recipe.digest] = result
        self._gains = self._gains.learnt(result, self.plan.quality)

    def _violations(self, result: Result) -> list[float]:
        return violations(self.plan.constraints, result, self.baseline, self.plan.quality)

    def run(self, starting: Sequence[Recipe]) -> str:
        """Search until the budget is spent; return why it ended: "trials", "minutes", "evaluations", "exhausted" or
        "interrupted".
        """
        deadline = time.monotonic() + 60 * self.plan.budget.minutes if self.plan.budget.minutes is not None else None
        queue = deque(r for r in starting if r.digest not in self.results)
        while True:
            why = self._why_stop(deadline)
            while not why and len(self._running) < self.executor.slots:
                proposal = self._next(queue)
                if proposal is None:
                    why = "exhausted"
                    break
                self._submit(proposal)
                why = self._why_stop(deadline)
            if why and (not self._running or why == "minutes"):
                self._abandon()
                return why
            for finished in self.executor.wait(_TICK):
                self._record(finished)

    def _why_stop(self, deadline: float | None) -> str:
        if self.stopping:
            return "interrupted"
        if deadline is not None and time.monotonic() >= deadline:
            return "minutes"
        budget, running = self.plan.budget, len(self._running)
        if budget.trials is not None and len(self.results) + running >= budget.trials:
            return "trials"
        if budget.evaluations is not None and self.evaluations + running >= budget.evaluations:
            return "evaluations"
        return ""

    def _next(self, queue: deque[Recipe]) -> Proposal | None:
        if queue:
            return self.sampler.ask_for(queue.popleft(), "start")
        for _ in range(_REPEATS):
            proposal = self.sampler.ask()
            digest = proposal.recipe.digest
            known = self.results.get(digest)
            if known is not None:  # answered from the journal
                self.repeats += 1
                self.sampler.tell(proposal, known, self._violations(known))
            elif digest in self._running:  # answered when the running trial is
                self.repeats += 1
                self._running[digest].append(proposal)
            else:
                return proposal
        for _ in range(_DRAWS):
            recipe = self.space.sample(self._random)
            if recipe.digest not in self.results and recipe.digest not in self._running:
                return self.sampler.ask_for(recipe, "random")
        return None

    def _submit(self, proposal: Proposal) -> None:
        recipe = proposal.recipe
        number = len(self.results) + len(self._running)
        seed = int(recipe.digest[:8], 16) ^ self.plan.seed
        self._running[recipe.digest] = [proposal]
        # While nothing keeps all constraints, a dominated result may be the nearest: nothing is stopped or left out.
        best = self.front()
        feasible = all(v <= 0 for r in best for v in self._violations(r))
        front = [[o.loss(r.value(o.name)) for o in self.plan.objectives] for r in best] if feasible else []
        limits = allowed(self.plan.constraints, self.baseline, self.plan.quality) if feasible else {}
        race = Race(limits, self._gains, proposal.floors) if self.plan.racing else None
        self.executor.submit(Job(number, recipe, seed, proposal.origin, race), front)

    def front(self) -> list[Result]:
        """Return the best results: non-dominated among those that keep all constraints, or, if none does,
        among those that break them least.
        """
        return best_results(list(self.results.values()), self.plan.objectives, self._violations)

    def _record(self, finished: Finished) -> None:
        result = finished.result
        digest = result.recipe.digest
        proposals = self._running.pop(digest)
        self._learn(result)
        front = self.front()
        # File, then journal, then sampler: a crash in between loses nothing that was reported.
        if finished.data is not None and any(r is result for r in front):
            self.store.save(digest, finished.data)
        self.journal.append(result, self.sampler.attributes(proposals[0]))
        violated = self._violations(result)
        for proposal in proposals:
            self.sampler.tell(proposal, result, violated)
        self.store.keep_only({Recipe().digest, *(r.recipe.digest for r in front)})
        if self.watcher is not None:
            self.watcher.finished(result, front, len(self._running))

    def _abandon(self) -> None:
        for proposals in self._running.values():
            for proposal in proposals:
                self.sampler.forget(proposal)
        self._running.clear()
