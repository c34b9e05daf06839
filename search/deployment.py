"""The deployed file of a model, made when somebody asks for it, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from torch import Tensor, nn

from ..compressors.encoding import Encoding
from ..evaluators.base import Evaluator
from ..evaluators.latency import Latency
from ..spaces.errors import ArtifactError, SettingError


def deployment(model: nn.Module, encodings: Mapping[str, Encoding], example: Sequence[Tensor]) -> Callable[[], bytes]:
    """Return what writes a model as an ONNX file when it is first called, and remembers it; see `to_onnx`."""

    @cache
    def written() -> bytes:
        from .deploy.onnx_file import to_onnx  # noqa: PLC0415 - the exporter takes seconds to import

        return to_onnx(model, encodings, example)

    return written


def undeployable(metric: Evaluator, error: ArtifactError) -> SettingError:
    """Return why a model that can't be exported can't be searched for a metric, and for what it can be instead."""
    rule = f"is of the deployed file, and there is none: {str(error).rstrip('.')}"
    return SettingError("objectives", metric.name, rule, f"See: paretopress doctor. Or {instead_of(metric)}")


def instead_of(metric: Evaluator) -> str:
    """Return what to measure where there is no deployed file."""
    if not isinstance(metric, Latency):
        return "take: size."
    return (
        f"time the model in torch: metrics=[Latency(runtime='torch', name={metric.name!r})], in a YAML file "
        f"metrics: {{{metric.name}: {{runtime: torch}}}}."
    )
