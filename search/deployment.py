"""The deployed files of one task's models, as trials need them: made when somebody asks, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..compressors.encoding import Encoding

if TYPE_CHECKING:
    from .deploy.skeleton import Exporter


class Deployment:
    """Writes ONNX files. Not for several threads at a time.

    Parameters
    ----------
    example
        What the models take, the batch first.
    """

    def __init__(self, example: Sequence[Tensor]) -> None:
        self._example = tuple(example)

    @cached_property
    def exporter(self) -> Exporter:
        """Exports each structure once."""
        from .deploy.skeleton import Exporter  # noqa: PLC0415 - the exporter takes seconds to import

        return Exporter()

    def of(self, model: nn.Module, encodings: Mapping[str, Encoding]) -> Callable[[], bytes]:
        """Return what writes a model's file when it is first called, and remembers it; see `to_onnx` for the error."""

        @cache
        def written() -> bytes:
            from .deploy.onnx_file import to_onnx  # noqa: PLC0415 - the exporter takes seconds to import

            return to_onnx(model, encodings, self._example, self.exporter)

        return written
