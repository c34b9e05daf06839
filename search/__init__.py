"""The front door: describe a task, search its compressions, pick a model."""

from typing import TYPE_CHECKING, Any

from ..evaluators.latency import Latency
from ..spaces.metric import Metric
from ..spaces.recipe import Recipe, Step
from ..spaces.space import Space
from ..spaces.task import Task
from .api import search
from .artifact import load
from .front import Front, Point
from .measure import Measure
from .profile_run import profile
from .resources import Resources
from .saved import open_front

if TYPE_CHECKING:
    from .deploy.export import export
    from .drop_in import ParetoSampler, suggest

__all__ = [
    "Front",
    "Latency",
    "Measure",
    "Metric",
    "ParetoSampler",
    "Point",
    "Recipe",
    "Resources",
    "Space",
    "Step",
    "Task",
    "export",
    "load",
    "open_front",
    "profile",
    "search",
    "suggest",
]


def __getattr__(name: str) -> Any:
    """Import the exporter, and Optuna, which `ParetoSampler` is for, only when they are asked for."""
    if name == "export":
        from .deploy.export import export  # noqa: PLC0415 - see above

        return export
    if name in ("ParetoSampler", "suggest"):
        from . import drop_in  # noqa: PLC0415 - see above

        return getattr(drop_in, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
