"""The Evaluator contract. A metric is one file with one subclass and one `register` call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any, ClassVar, Literal

from torch import nn

from ..spaces.data import Batches
from ..spaces.errors import ArtifactError, SettingError, nearest
from ..spaces.registry import Registry
from ..spaces.task import Task

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Measurement:
    """A number with what is needed to trust it.

    Attributes
    ----------
    value
        The figure.
    unit
        What it counts.
    interval
        95 % confidence interval, or None for a figure that is exact.
    repeats
        How many observations it rests on (examples, timings), 1 for an exact figure.
    detail
        Further JSON-able facts, e.g. the operators that were not counted.

    Raises
    ------
    TypeError
        For a field that holds something else; numbers of numpy and torch become plain ones.
    """

    value: float
    unit: str = ""
    interval: tuple[float, float] | None = None
    repeats: int = 1
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._make("value", float, "must be a number")
        if self.interval is not None:
            self._make("interval", _pair, "must be two numbers, or None")
        self._make("repeats", index, "must be a whole number; leave it out for an exact figure")

    def _make(self, name: str, kind: Callable[[Any], object], rule: str) -> None:
        """Make a field a plain number, whose it may have been."""
        given = getattr(self, name)
        try:
            object.__setattr__(self, name, kind(given))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"Measurement({name}={given!r}): {rule}") from None

    @property
    def relative(self) -> bool:
        """Whether the value is a ratio to the original's."""
        return self.unit.startswith("x ")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; absent facts are left out."""
        out: dict[str, Any] = {"value": self.value, "unit": self.unit}
        if self.interval is not None:
            out["interval"] = list(self.interval)
        if self.repeats != 1:
            out["repeats"] = self.repeats
        if self.detail:
            out["detail"] = dict(self.detail)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Read what `to_json` wrote."""
        interval = data.get("interval")
        return cls(
            float(data["value"]),
            str(data.get("unit", "")),
            (float(interval[0]), float(interval[1])) if interval else None,
            int(data.get("repeats", 1)),
            dict(data.get("detail", {})),
        )


def _pair(ends: Any) -> tuple[float, float]:
    low, high = ends
    return float(low), float(high)


@dataclass(frozen=True)
class Subject:
    """What is measured: a model as it was loaded back from its file.

    Attributes
    ----------
    model
        In eval mode, dense weights.
    task
        Example input, metric, and ``task.model``, the baseline.
    split
        The batches that quality is measured on: validation during the search, test at the end.
    file_bytes
        Length of the model's file.
    weight_bits
        Module path -> nominal bits of its weights; a module that isn't named has 32.
    activation_bits
        Module path -> bits of its input activations; a module that isn't named has 32.
    baseline
        The original model in the form in which ``model`` was loaded, for paired measurements; None takes
        ``task.model``.
    deploy, deploy_baseline
        Write the model and the original as ONNX files; called as `deployed` and `deployed_baseline`.
    """

    model: nn.Module
    task: Task
    split: Batches
    file_bytes: int = 0
    weight_bits: Mapping[str, int] = field(default_factory=dict)
    activation_bits: Mapping[str, int] = field(default_factory=dict)
    baseline: nn.Module | None = None
    deploy: Callable[[], bytes] | None = None
    deploy_baseline: Callable[[], bytes] | None = None

    def deployed(self) -> bytes:
        """Return the model as an ONNX file.

        Raises
        ------
        ArtifactError
            If it can't be exported.
        """
        return _file(self.deploy)

    def deployed_baseline(self) -> bytes:
        """Return the original as an ONNX file; see `deployed`."""
        return _file(self.deploy_baseline)


def _file(deploy: Callable[[], bytes] | None) -> bytes:
    if deploy is None:
        raise ArtifactError("no ONNX file can be had here: only models that a search or an export reads are deployed.")
    return deploy()


class Evaluator(ABC):
    """One metric.

    Attributes
    ----------
    name
        In objectives, constraints, tables and files.
    unit
        What the value counts.
    direction
        Which way is better.
    cost
        Rough seconds for one measurement of a small model; the cheapest runs first.
    summary
        One line for the documentation.
    anew
        Whether it depends on the machine, and is measured anew at the end of a run.
    deployed
        Whether it needs the deployed file, which not every model can become.
    conditions
        Under which it measures, as a reader of the figure should know them; trials with other ones don't compare.
    """

    name: str
    unit: str
    direction: Direction
    cost: ClassVar[float]
    summary: ClassVar[str]
    anew: ClassVar[bool] = False

    @property
    def conditions(self) -> str:
        """See the class."""
        return ""

    @property
    def deployed(self) -> bool:
        """See the class."""
        return False

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Return the measurement. Never changes the model; anything raised fails this trial only."""


REGISTRY: Registry[Evaluator] = Registry("paretopress.evaluators", "metric")


def register(evaluator: Evaluator) -> Evaluator:
    """Make a metric known by its name, and return it; see `Registry.add` for the error."""
    REGISTRY.add(evaluator)
    return evaluator


def evaluator(name: str, extra: Mapping[str, Evaluator] | None = None) -> Evaluator:
    """Return the metric of that name, or raise SettingError with the nearest known one.

    ``extra`` holds metrics that belong to one task, such as its own quality metric.
    """
    known = {**REGISTRY.all(), **(extra or {})}
    if name not in known:
        raise SettingError("objective", name, "is unknown", known_metrics(name, known))
    return known[name]


def known_metrics(name: str, known: Iterable[str]) -> str:
    """Return what to do about a metric that there isn't: the nearest known one, or how to make one."""
    advice = nearest(name, known)
    if not name.startswith("latency"):
        return advice
    return (
        f"{advice} One under other conditions has to be described: metrics=[Latency(batch=32, name={name!r})], in a "
        f"YAML file metrics: {{{name}: {{batch: 32}}}}."
    )


def evaluators() -> Mapping[str, Evaluator]:
    """Return all registered metrics by name, the cheapest first."""
    return dict(sorted(REGISTRY.all().items(), key=lambda item: (item[1].cost, item[0])))
