"""The front door: describe a task, search its compressions, pick a model."""

from ..spaces.metric import Metric
from ..spaces.recipe import Recipe, Step
from ..spaces.space import Space
from ..spaces.task import Task
from .api import search
from .artifact import load
from .executor import Resources
from .front import Front, Point
from .saved import open_front

__all__ = [
    "Front",
    "Metric",
    "Point",
    "Recipe",
    "Resources",
    "Space",
    "Step",
    "Task",
    "load",
    "open_front",
    "search",
]
