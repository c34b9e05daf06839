"""What a sampler is: something that proposes recipes and learns what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..spaces.errors import SettingError, nearest
from ..spaces.recipe import Recipe
from .result import Result

#: Name -> what it is.
SAMPLERS = {
    "profile": "starts from the layers' sensitivity profile and learns from every trial (the default)",
    "tpe": "tree-structured Parzen estimator, multivariate (Ozaki et al., 2022), by Optuna",
    "nsga2": "NSGA-II (Deb et al., 2002), population 20, by Optuna",
    "nsga3": "NSGA-III (Deb & Jain, 2014), population 20, by Optuna",
    "gp": "Gaussian process; slow beyond some hundred parameters, by Optuna",
    "random": "random search",
}


def check_sampler(name: str) -> None:
    """Raise SettingError if there is no sampler of that name."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise SettingError("sampler", name, "is unknown", nearest(str(name), SAMPLERS))


@dataclass(frozen=True)
class Proposal:
    """A recipe and the handle to tell its outcome by; of metrics that take long to measure, the ``floors`` that it is
    all but sure to be above.
    """

    recipe: Recipe
    handle: Any
    origin: str
    floors: Mapping[str, float] = field(default_factory=dict)


class Sampler(Protocol):
    """Ask for recipes, tell what became of them. The same seed and the same results give the same proposals."""

    def ask(self) -> Proposal:
        """Return the next proposal."""
        ...

    def ask_for(self, recipe: Recipe, origin: str) -> Proposal:
        """Return a proposal of a given recipe, so that the sampler learns from it like from its own."""
        ...

    def tell(self, proposal: Proposal, result: Result, violations: Sequence[float] = ()) -> None:
        """Report a result, and by how much it breaks each constraint (0 or less: kept)."""
        ...

    def attributes(self, proposal: Proposal) -> dict[str, Any]:
        """Return what must be recorded with the result to rebuild the sampler."""
        ...

    def forget(self, proposal: Proposal) -> None:
        """Drop a proposal that will have no result."""
        ...

    def recall(self, result: Result, violations: Sequence[float], attributes: Mapping[str, Any]) -> None:
        """Add a result of an earlier session, with what `attributes` returned for it."""
        ...
