"""A run described in YAML: read safely, checked at once, every mistake named with its line or its key."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from ..evaluators.base import Evaluator
from ..evaluators.latency import Latency
from ..spaces.automatic import DEPLOYED, preset
from ..spaces.catalogue import DataNeed, technique
from ..spaces.errors import PressError, RunError, SettingError, nearest
from ..spaces.space import Space
from ..spaces.task import Task
from .constraint import Constraint
from .latency_choice import wants_integers
from .resources import Resources
from .storage_address import check_address, without_password
from .trial import metrics_for

#: What must hold, for pydantic's kinds of mistakes; where a setting may have several forms, by its key.
_RULES = {
    "list_type": "must be a list",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must hold keys and values",
    "model_type": "must hold keys and values",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "finite_number": "must be a finite number",
}
_SEVERAL = {
    "techniques": "must be a list of names, or names with their settings",
    "layers": "must be a glob or a list of globs",
}
#: What to do, by key.
_REMEDIES = {
    "objectives": "Write [accuracy, size].",
    "metrics": "Write {latency_batch32: {batch: 32}}: names of latencies, and their settings.",
    "constraints": "Write ['accuracy drop <= 1%'].",
    "techniques": "Write [integer, entropy], or integer: {bits: [8, 4]} below it.",
    "layers": "Write ['layer*', '!layer1.*'].",
    "arguments": "Write {seed: 1}: what the task's function is called with.",
    "budget": "Write {trials: 50}.",
    "budget.trials": "Use minutes for time.",
    "budget.minutes": "Leave it out for no limit.",
    "budget.evaluations": "Leave it out for no limit.",
    "ray": "Write {workers: 4}.",
    "ray.workers": "Leave it out to use all cores.",
    "ray.custom": "Write {phone: 1}.",
    "ray.memory": "Write 4 GB.",
}


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class BudgetSection(_Section):
    """When to stop."""

    trials: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    evaluations: float | None = Field(default=None, gt=0)


class RaySection(_Section):
    """Where trials run and what each may use."""

    address: str | None = None
    workers: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    custom: dict[str, float] = Field(default_factory=dict)
    memory: int | str | None = None
    minutes: float | None = Field(default=None, gt=0)


class LatencySection(_Section):
    """A latency under the name that is its key; see `Latency`."""

    runtime: str = "onnxruntime"
    batch: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    seconds: float = Field(default=1.0, gt=0)
    device: str | None = None


class Config(_Section):
    """A run. ``task`` is ``module:function``, a function that returns a `Task`.

    ``techniques`` beside a ``preset`` adds to it and overrides its settings.
    """

    task: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    preset: str | None = None
    techniques: list[str] | dict[str, dict[str, Any] | None] | None = None
    layers: list[str] | str = "*"
    objectives: list[str] | None = None
    metrics: dict[str, LatencySection] = Field(default_factory=dict)
    constraints: list[str] = Field(default_factory=list)
    budget: BudgetSection = BudgetSection()
    sampler: str = "profile"
    seed: int = 0
    racing: bool = True
    executor: Literal["ray", "local"] = "ray"
    ray: RaySection = RaySection()
    storage: str | None = None

    @field_serializer("storage", when_used="json")
    def _kept(self, storage: str | None) -> str | None:
        """Return what may be written down."""
        return storage and without_password(storage)

    def build_task(self, folder: Path | None = None) -> Task:
        """Return the task, importing its module from the installed packages, the working folder or ``folder``.

        Raises
        ------
        SettingError
            If the module or the function doesn't exist, or it returns something else.
        """
        function = import_function(self.task, "task", folder)
        try:
            task = function(**self.arguments)
        except PressError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
            raise SettingError("task", self.task, f"can't be built with arguments {self.arguments}: {where}") from error
        if not isinstance(task, Task):
            raise SettingError("task", self.task, f"returned a {type(task).__name__}, not a paretopress Task")
        task.source = task.source or self.task
        return task

    def build_space(self, task: Task) -> Space:
        """Return the space; see `Space.from_task` for the errors."""
        if self.preset is None and self.techniques is None and wants_integers(self.asked(task)):
            return Space.from_task(task, DEPLOYED, self.layers)
        if self.preset is None:
            return Space.from_task(task, self.techniques, self.layers)
        if self.techniques is None:
            return Space.from_task(task, self.preset, self.layers)
        own = self.techniques if isinstance(self.techniques, dict) else dict.fromkeys(self.techniques)
        # What the preset alone brings is an offer: without training data it goes without what trains.
        offered = [n for n in preset(self.preset) if task.train or technique(n).data_need is not DataNeed.TRAINING]
        return Space.from_task(task, {**dict.fromkeys(offered), **own}, self.layers)

    def build_metrics(self) -> list[Latency]:
        """Return the metrics of its own; see `Latency` for the errors."""
        return [Latency(**section.model_dump(), name=name) for name, section in self.metrics.items()]

    def asked(self, task: Task) -> list[Evaluator]:
        """Return the metrics that objectives and constraints name; see `metrics_for` for the errors."""
        names = [*(self.objectives or ()), *(Constraint.parse(text).metric for text in self.constraints)]
        return metrics_for(task, names, {m.name: m for m in self.build_metrics()})

    def resources(self) -> Resources:
        """Return what trials may use."""
        return Resources(**self.ray.model_dump())


def import_function(name: str, setting: str, folder: Path | None = None) -> Callable[..., Any]:
    """Return the function of ``module:function``.

    Raises
    ------
    SettingError
        If the form is wrong, or there is no such module or function.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise SettingError(setting, name, "must have the form module:function")
    places = dict.fromkeys((*([str(folder)] if folder is not None else []), str(Path.cwd())))
    for place in places:
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name or module_name.startswith(missing + "."):
            raise SettingError(
                setting,
                name,
                f"there is no module {missing!r} in {' or '.join(places)}, and none is installed",
                "Put it beside the settings file, run from the folder that holds it, or install it.",
            ) from error
        raise SettingError(setting, name, f"its module needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise SettingError(setting, name, f"importing it fails: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise SettingError(
            setting, name, f"{module_name} has no function {function_name!r}", nearest(function_name, known)
        )
    found: Callable[..., Any] = function
    return found


def read_yaml(path: Path) -> Config:
    """Return the settings of a YAML file.

    Raises
    ------
    RunError
        If the file can't be read or is no YAML; the message has the line.
    SettingError
        If a key is unknown or a value is out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: can't be read ({error.strerror}). Give the path of a YAML file.") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: is not a text file ({error.reason}). Give the path of a YAML file.") from error
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        shown = f"\n  {line}\n  {' ' * mark.column}^" if mark and line else ""
        raise RunError(f"{path}{where}: not valid YAML: {problem}.{shown}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: must hold keys and values, at least 'task: module:function'.")
    return check(data, str(path))


def check(data: dict[str, Any], where: str) -> Config:
    """Return checked settings; see `read_yaml` for the errors."""
    try:
        found = Config.model_validate(data)
    except ValidationError as error:
        raise _explained(error, where) from None
    section = ""
    try:
        if found.storage is not None:
            check_address(found.storage)
        section = "ray."
        found.resources()
        for name, settings in found.metrics.items():
            section = f"metrics.{name}."
            Latency(**settings.model_dump(), name=name)
    except SettingError as error:
        raise error.within(f"{where}: {section}") from None
    return found


def _explained(error: ValidationError, where: str) -> SettingError:
    """Return the first problem, in our words."""
    problem = error.errors()[0]
    path = [str(p) for p in problem["loc"]]
    # pydantic names the branches of a union behind the key; a reader doesn't want them.
    key = ".".join(p for p in path if "[" not in p and p not in ("str", "int", "float"))
    if problem["type"] == "extra_forbidden":
        sections: dict[str, type[_Section]] = {"budget": BudgetSection, "ray": RaySection, "metrics": LatencySection}
        section = sections.get(path[0], Config)
        return SettingError(
            f"{where}: {key}", problem["input"], "is no setting", nearest(path[-1], section.model_fields)
        )
    if problem["type"] == "missing":
        return SettingError(f"{where}: {key}", None, "is required", "Write 'task: module:function'.")
    form = _RULES.get(problem["type"], problem["msg"][0].lower() + problem["msg"][1:])
    rule = _SEVERAL.get(path[0], form.format(**problem.get("ctx", {})))
    remedy = _REMEDIES.get(key, "")
    if key == "constraints" and isinstance(problem["input"], str):
        remedy = f"Write [{problem['input']!r}]."
    return SettingError(f"{where}: {key}", problem["input"], rule, remedy)
