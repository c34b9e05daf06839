"""A pool of Ray actors that grows and shrinks with the cluster, and survives whatever becomes of its workers.

Each actor has one call at a time. A worker that dies, hangs or takes too much is replaced by a fresh one, and what its
call came to is said. Workers that take long to come, or don't come at all, hold up nobody.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions

from ..spaces.errors import RunError
from .executor import Fate
from .ray_cluster import capacity, head_answers
from .ray_worker import Pulse
from .resources import Resources

Tag = TypeVar("Tag")

#: Seconds in which a worker must have imported torch and unpacked the data.
START = 300.0
#: Seconds between two looks at how workers are, and at the cluster; and pulses that are asked for in a second at most.
LOOK, REFIT, PULSES = 1.0, 5.0, 50
#: A worker that answers nothing for so long is frozen; one that counts no step for so long is stuck. Seconds.
MUTE, STUCK = 120.0, 600.0
#: Workers in a row that may die before they are ready, and looks at a head in a row that it may not answer.
_BROKEN, _HEADLESS = 5, 3


@dataclass(frozen=True)
class Failure:
    """What a call without a result came to; see `Lost`."""

    reason: str
    fate: Fate


@dataclass(frozen=True)
class _Call(Generic[Tag]):
    tag: Tag
    method: str
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class _Slot(Generic[Tag]):
    """An actor, and its call. ``since`` is when either began, ``alive`` and ``beat_at`` when it was heard of and when
    it had last got on; ``life`` ends when it dies.
    """

    actor: Any
    starting: Any
    since: float
    call: _Call[Tag] | None = None
    life: Any = None
    running: Any = None
    asked: Any = None
    asked_at: float = 0.0
    alive: float = 0.0
    beats: int = -1
    beat_at: float = 0.0


class Pool(Generic[Tag]):
    """Workers.

    Parameters
    ----------
    resources
        What each may use, and how many there are at most.
    make
        Starts an actor.

    Raises
    ------
    RunError
        If no worker comes, or none can take the task.
    """

    def __init__(self, resources: Resources, make: Callable[[], Any]) -> None:
        self._resources, self._make = resources, make
        self._slots: list[_Slot[Tag]] = []
        self._queue: deque[_Call[Tag]] = deque()
        self._ended: list[tuple[Tag, Any]] = []
        self._broken = self._headless = 0
        self._missed = -math.inf
        self._most = resources.workers
        self._looked = self._fitted = self._had = self._tried = time.monotonic()
        self._refit()

    # --- what callers see ----------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        """How many workers are up."""
        return sum(slot.starting is None for slot in self._slots)

    def come(self) -> None:
        """Wait for the first worker; raises as `wait`. The others are used when they come."""
        while not self.ready:
            self._gather(LOOK)
            self._look()

    def call(self, tag: Tag, method: str, *arguments: Any) -> None:
        """Call a method of the next worker that is free."""
        self._queue.append(_Call(tag, method, arguments))
        self._dispatch()

    def wait(self, timeout: float) -> list[tuple[Tag, Any]]:
        """Return the tags of calls that have ended, each with its result or `Failure`, after at most ``timeout``
        seconds.

        Raises
        ------
        RunError
            If the cluster is gone, or no worker comes any more.
        """
        end = time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            self._gather(min(left, LOOK))
            self._look()
            self._dispatch()
            if self._ended or time.monotonic() >= end:
                ended, self._ended = self._ended, []
                return ended

    def shrink(self) -> None:
        """End all calls, and have one worker at most from now on: one that is up and idle, if there is."""
        self._most = 1
        self._queue.clear()
        self._ended.clear()
        idle = [slot for slot in self._slots if slot.starting is None and slot.call is None]
        for slot in [s for s in self._slots if s not in idle[:1]]:
            self._remove(slot)
        if not self._slots and not self.headless:
            self._refit()

    @property
    def headless(self) -> bool:
        """Whether the cluster's head didn't answer when it was last asked: what needs it would wait for ever."""
        return self._headless > 0

    def close(self) -> None:
        """Stop all workers."""
        if not head_answers():
            self._headless += 1
        else:
            for slot in self._slots:
                ray.kill(slot.actor)
        self._slots.clear()
        self._queue.clear()

    # --- calls ---------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        for slot in list(self._slots):
            if not self._queue:
                return
            if slot.starting is None and slot.call is None:
                if ray.wait([slot.life], timeout=0)[0]:  # it died while it had nothing to do: no call is to blame
                    self._renew(slot)
                    continue
                slot.call = self._queue.popleft()
                slot.since = slot.alive = slot.beat_at = time.monotonic()
                slot.asked, slot.beats = None, -1
                slot.running = getattr(slot.actor, slot.call.method).remote(*slot.call.arguments)

    def _gather(self, timeout: float) -> None:
        waiting: dict[Any, _Slot[Tag]] = {}
        for slot in self._slots:
            reference = next(r for r in (slot.starting, slot.running, slot.life) if r is not None)
            waiting[reference] = slot
        if not waiting:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout)
        if ready and len(waiting) > 1:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for reference in ready:
            slot = waiting[reference]
            if slot.starting is not None:
                self._came(slot)
            elif slot.call is not None:
                self._returned(slot)
            else:
                self._renew(slot)

    def _came(self, slot: _Slot[Tag]) -> None:
        """A worker is up, or died before it was."""
        try:
            ray.get(slot.starting)
        except exceptions.RayError as error:
            self._broken += 1
            if not self.ready and (self._broken >= _BROKEN or _is_own(error)):
                if isinstance(error, exceptions.OutOfMemoryError):
                    raise RunError(
                        f"{self._broken} workers in a row were killed while they started: their machine runs out of "
                        "memory. What was recorded is kept: resume when there is room, or with fewer workers at a time."
                    ) from error
                raise RunError(
                    f"Ray's workers can't take the task: {_line(error)}. They need the same packages as this process, "
                    "and data and model that can be pickled, and the same RAY_AUTH_MODE; --executor local needs none."
                ) from error
            self._remove(slot)  # another one is started when the cluster is looked at again
        else:
            slot.starting, self._broken = None, 0
            slot.life = slot.actor.live.remote()

    def _returned(self, slot: _Slot[Tag]) -> None:
        try:
            self._end(slot, ray.get(slot.running))
        except exceptions.RayTaskError as error:
            # The worker catches a trial's own errors; this is one that could not even be sent back.
            self._end(slot, Failure(_line(error.cause or error), "failed"))
        except exceptions.OutOfMemoryError:
            self._lose(slot, "its machine ran out of memory", "alone")
        except exceptions.RayError as error:
            if _lost_its_node(error):
                self._lose(slot, "its node died, or can't be reached", "moved")
            else:
                self._lose(slot, f"its worker died ({type(error).__name__})", "again")

    def _end(self, slot: _Slot[Tag], result: Any) -> None:
        assert slot.call is not None
        self._ended.append((slot.call.tag, result))
        slot.call = slot.running = slot.asked = None

    def _lose(self, slot: _Slot[Tag], reason: str, fate: Fate) -> None:
        """Give a worker up with what it was doing."""
        self._end(slot, Failure(reason, fate))
        self._renew(slot)

    def _renew(self, slot: _Slot[Tag]) -> None:
        """Have another worker instead of one; none for now where the head is gone, which either would wait for."""
        place = self._slots.index(slot)
        if self._remove(slot):
            self._slots.insert(place, self._new())

    def _remove(self, slot: _Slot[Tag]) -> bool:
        """Give a worker up; return whether the head is there to have others from."""
        self._slots.remove(slot)
        if not self._check_head():
            return False
        ray.kill(slot.actor)
        return True

    def _new(self) -> _Slot[Tag]:
        actor = self._make()
        return _Slot(actor, actor.ready.remote(), time.monotonic())

    # --- looking after them --------------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        for slot in [s for s in self._slots if s.call is not None]:
            self._watch(slot, now)
        if now - self._fitted >= REFIT:
            self._fitted = now
            if self._check_head():  # else it would wait for an answer
                self._refit()
        if self.ready:
            self._had = now
        elif now - self._had > START:
            raise RunError(
                f"no worker came up within {START:.0f} s. Is the Ray cluster busy with other jobs, or has it lost its "
                "nodes? What was recorded is kept: resume when there is room, or use --executor local."
            )

    def _watch(self, slot: _Slot[Tag], now: float) -> None:
        """Take a worker's pulse, and end what runs for too long, hangs, or takes too much memory."""
        limit, memory = self._resources.minutes, self._resources.memory_bytes
        if limit is not None and now - slot.since > 60 * limit:
            return self._lose(slot, f"it ran for more than {limit:g} min (minutes of a trial)", "failed")
        if slot.asked is not None:
            done, _ = ray.wait([slot.asked], timeout=0)
            if done:
                slot.asked = None
                try:
                    pulse: Pulse = ray.get(done[0])
                except exceptions.RayError:  # its call tells
                    return None
                slot.alive = now
                if pulse.beats != slot.beats:
                    slot.beats, slot.beat_at = pulse.beats, now
                if memory is not None and pulse.memory > memory:
                    held = f"{pulse.memory / 1e9:.2f} GB, more than the {memory / 1e9:.2f} GB allowed"
                    return self._lose(slot, f"it took {held} (memory of a trial)", "failed")
        if slot.asked is None and now - slot.asked_at >= max(LOOK, len(self._slots) / PULSES):
            slot.asked, slot.asked_at = slot.actor.pulse.remote(), now
        if now - slot.alive > MUTE:
            return self._lose(slot, f"its worker answered nothing for {MUTE:.0f} s", "again")
        if now - slot.beat_at > STUCK:
            return self._lose(slot, f"it got no further for {STUCK:.0f} s", "failed")
        return None

    def _check_head(self) -> bool:
        """Whether the head answers; a miss counts once in a while only, so that it has time to come back."""
        if head_answers():
            self._headless, self._missed = 0, -math.inf
        elif time.monotonic() - self._missed >= REFIT:
            self._headless, self._missed = self._headless + 1, time.monotonic()
        if self._headless >= _HEADLESS:
            raise RunError(
                "the head of the Ray cluster is gone: it takes no connections. What was recorded is kept; start the "
                "cluster again and resume."
            )
        return not self._headless

    def _refit(self) -> None:
        """Have as many workers as the cluster can hold, and replace those that don't come."""
        now = time.monotonic()
        fits = capacity(self._resources)
        wanted = min(fits, self._most or fits)
        for slot in [s for s in self._slots if s.starting is not None and now - s.since > START]:
            self._renew(slot)
        if self._broken < _BROKEN or now - self._tried > START:  # a node that breaks them isn't tried all the time
            self._slots += [self._new() for _ in range(wanted - len(self._slots))]
            self._tried = now
        spare = sorted((s for s in self._slots if s.call is None), key=lambda s: s.starting is None)
        for slot in spare[: max(0, len(self._slots) - max(1, wanted))]:
            self._remove(slot)


def _is_own(error: Exception) -> bool:
    """Whether a worker died of what it was given, as any other would; not of its machine."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return False
    return isinstance(error, exceptions.RayTaskError) or "creation task" in str(error)


def _lost_its_node(error: exceptions.RayError) -> bool:
    """Whether a worker is gone because its machine is; Ray has no other sign of it than its words."""
    return isinstance(error, exceptions.ActorUnavailableError) or "node has died" in str(error)


def _line(error: BaseException) -> str:
    lines = [x.strip() for x in str(error).splitlines() if x.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]
