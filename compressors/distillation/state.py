"""The state of training: all that makes the next step what it is, so that training can go on in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...spaces.data import Batch, Batches
from ...spaces.seeding import random_state, set_random_state
from ..encoding import Trainable


class Feed:
    """Training batches, in epoch after epoch, that can be taken up again in the midst of one.

    An epoch that is taken up is begun with the random numbers that it had, so that a loader that shuffles draws the
    same order; what was trained on already is passed over. Loaders whose own processes draw are beyond that.

    Parameters
    ----------
    batches
        Of the training split.
    steps
        How many to give in all.

    Attributes
    ----------
    done
        How many were given.
    """

    def __init__(self, batches: Batches, steps: int) -> None:
        self._batches, self._steps = batches, steps
        self.done = self._place = self._passed = 0
        self._epoch: dict[str, Any] = {}
        self._now: dict[str, Any] = {}

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Yield the number of the step, from 1, and its batch."""
        while self.done < self._steps:
            if self._passed:
                set_random_state(self._epoch)
            else:
                self._epoch = random_state()
            self._place = 0
            for batch in self._batches:
                self._place += 1
                if self._place <= self._passed:
                    if self._place == self._passed:
                        set_random_state(self._now)
                    continue
                self.done += 1
                yield self.done, batch
                if self.done == self._steps:
                    return
            self._passed = 0

    def state(self) -> dict[str, Any]:
        """Return where it is, as JSON-able facts."""
        return {"done": self.done, "place": self._place, "epoch": self._epoch, "now": random_state()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, before the first batch."""
        self.done, self._passed = int(state["done"]), int(state["place"])
        self._epoch, self._now = state["epoch"], state["now"]


class Training:
    """A student in training.

    Parameters
    ----------
    forms
        Weights in their trainable forms, by name; all that training changes of one is a parameter or a buffer.
    model
        Everything else that training changes.
    optimiser, schedule
        Of all parameters.
    feed
        Gives the batches.
    """

    def __init__(
        self, forms: Mapping[str, Trainable], model: nn.Module, optimiser: Optimizer, schedule: LRScheduler, feed: Feed
    ) -> None:
        self._parts: dict[str, nn.Module] = {**{f"form:{n}": form for n, form in forms.items()}, "model": model}
        self._optimiser, self._schedule, self.feed = optimiser, schedule, feed

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON-able facts after a step."""
        tensors = {f"{p}|{n}": t for p, part in self._parts.items() for n, t in part.state_dict().items()}
        for index, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser|{index}|{name}": value for name, value in values.items()}
        rates = [group["lr"] for group in self._optimiser.param_groups]
        return tensors, {"feed": self.feed.state(), "schedule": self._schedule.state_dict(), "rates": rates}

    def resume(self, saved: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None) -> None:
        """Go on from what `state` returned, before the first step; None is nothing to go on from."""
        if saved is None:
            return
        tensors, facts = saved
        for name, part in self._parts.items():
            own = {n.removeprefix(f"{name}|"): t for n, t in tensors.items() if n.startswith(f"{name}|")}
            part.load_state_dict(own)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser|"):
                _, index, key = name.split("|")
                state.setdefault(int(index), {})[key] = value
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
        for group, rate in zip(self._optimiser.param_groups, facts["rates"]):
            group["lr"] = rate
        self._schedule.load_state_dict(facts["schedule"])
        self.feed.resume(facts["feed"])
