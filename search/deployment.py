"""The deployed file of a model, made when somebody asks for it, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from torch import Tensor, nn

from ..compressors.encoding import Encoding


def deployment(model: nn.Module, encodings: Mapping[str, Encoding], example: Sequence[Tensor]) -> Callable[[], bytes]:
    """Return what writes a model as an ONNX file when it is first called, and remembers it; see `to_onnx`."""

    @cache
    def written() -> bytes:
        from .deploy.onnx_file import to_onnx  # noqa: PLC0415 - the exporter takes seconds to import

        return to_onnx(model, encodings, example)

    return written
