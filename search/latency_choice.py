"""Which latency a profile predicts, and who measures the table that it takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..evaluators.base import Evaluator
from ..evaluators.latency import Latency
from ..spaces.automatic import ASKED_FOR, DEPLOYED
from ..spaces.catalogue import technique
from ..spaces.space import Space
from .effects import Survey
from .latency_source import LatencySource
from .layer_latency import LayerLatency


def timed_metric(metrics: Iterable[Evaluator]) -> Latency | None:
    """Return the first latency among some metrics of which a table can be measured here, or None."""
    timed = (m for m in metrics if isinstance(m, Latency) and m.here)
    return next((m for m in timed if m.runtime in ("onnxruntime", "torch")), None)


def source_of(survey: Survey, metric: Latency, folder: Path | None = None) -> LatencySource:
    """Return what measures the table of a metric that `timed_metric` returned; see `LatencySource`."""
    if not metric.deployed:
        return LayerLatency(survey, metric, folder)
    from .deploy.layer_latency import DeployedLatency  # noqa: PLC0415 - the exporter takes seconds to import

    return DeployedLatency(survey, metric, folder)


def integers_missing(space: Space, metrics: Iterable[Evaluator]) -> str:
    """Return a sentence where layers that run on integers would be worth a try but aren't in the space, or ""."""
    offered = {option.technique for decision in space.decisions for option in decision.options}
    sites = space.sites.values()
    missing = [n for n in sorted(ASKED_FOR - offered) if any(technique(n).supports(site) for site in sites)]
    if not missing or not wants_integers(metrics):
        return ""
    return (
        f"the space is without {', '.join(missing)}, whose layers run on integers where the model is deployed; the "
        f"preset {DEPLOYED!r} has all techniques"
    )


def wants_integers(metrics: Iterable[Evaluator]) -> bool:
    """Whether one of some metrics gains from layers that run on integers when they are deployed."""
    return any(isinstance(m, Latency) and m.deployed for m in metrics)
