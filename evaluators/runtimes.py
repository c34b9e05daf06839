"""The runtimes that a model is timed in, each a few lines: what to load, and what one pass is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.errors import SettingError, nearest
from .base import Subject
from .inference import at_batch, device_of, inference
from .pairing import Program, clock_of


class Runtime(ABC):
    """A runtime.

    Attributes
    ----------
    label
        In tables and files.
    package, extra
        That it needs beside what paretopress needs, and what to install for it; "" for nothing.
    deployed
        Whether it runs the deployed file, not the model as torch has it.
    """

    label: str
    package = ""
    extra = ""
    deployed = False

    @abstractmethod
    @contextmanager
    def programs(self, subject: Subject, batch: int, threads: int) -> Iterator[tuple[Program, Program]]:
        """Hold the model and the original ready to be timed, the task's example repeated to ``batch`` examples.

        Raises
        ------
        ArtifactError
            If one of them can't be exported or loaded.
        """


class _Torch(Runtime):
    """Models as torch runs them, operator by operator."""

    label = "torch eager"

    def _made(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:  # noqa: ARG002 - for others
        return model

    @contextmanager
    def programs(self, subject: Subject, batch: int, threads: int) -> Iterator[tuple[Program, Program]]:
        original = subject.baseline if subject.baseline is not None else subject.task.model
        with inference(subject.model), inference(original):
            yield (
                self._program(subject.model, subject.task.example, batch, threads),
                self._program(original, subject.task.example, batch, threads),
            )

    def _program(self, model: nn.Module, example: tuple[Tensor, ...], batch: int, threads: int) -> Program:
        device = device_of(model)
        inputs = at_batch(example, batch, device)
        forward = self._made(model, inputs)

        def start() -> Callable[[], object]:
            own = tuple(part.clone() for part in inputs)  # a model may write into its input
            return lambda: forward(*own)

        return Program(start, clock_of(threads, device))


class _Compiled(_Torch):
    """Models as `torch.compile` makes them: seconds to a minute for each."""

    label = "torch compiled"

    def _made(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        torch.compiler.reset()  # else a structure that was seen before with other widths is compiled for any width
        made: Callable[..., Any] = torch.compile(model, dynamic=False)
        made(*(part.clone() for part in inputs))
        return made


class _Files(Runtime):
    """Deployed files."""

    deployed = True

    @contextmanager
    def programs(self, subject: Subject, batch: int, threads: int) -> Iterator[tuple[Program, Program]]:
        inputs = at_batch(subject.task.example, batch, torch.device("cpu"))
        with ExitStack() as held:
            mine, theirs = (
                held.enter_context(self.running(data, inputs, threads))
                for data in (subject.deployed(), subject.deployed_baseline())
            )
            yield Program(lambda: mine, clock_of(threads)), Program(lambda: theirs, clock_of(threads))

    @abstractmethod
    @contextmanager
    def running(self, data: bytes, inputs: tuple[Tensor, ...], threads: int) -> Iterator[Callable[[], Any]]:
        """Hold a file loaded, and give one pass."""


class _OnnxRuntime(_Files):
    label = "ONNX Runtime"

    @contextmanager
    def running(self, data: bytes, inputs: tuple[Tensor, ...], threads: int) -> Iterator[Callable[[], Any]]:
        from .onnx_session import Session  # noqa: PLC0415 - who measures no latency doesn't owe its import

        yield Session(data, threads).ready(*(part.numpy() for part in inputs))


class _OpenVino(_Files):
    label = "OpenVINO"
    package, extra = "openvino", "openvino"

    @contextmanager
    def running(self, data: bytes, inputs: tuple[Tensor, ...], threads: int) -> Iterator[Callable[[], Any]]:
        import openvino  # noqa: PLC0415 - an extra

        core = openvino.Core()
        # By default it may compute in 16 bits and on as many threads as it likes, and the original would, too.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        request = core.compile_model(core.read_model(data), "CPU", settings).create_infer_request()
        feed = [part.numpy() for part in inputs]
        yield lambda: request.infer(feed)


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": _OnnxRuntime(),
    "openvino": _OpenVino(),
    "torch": _Torch(),
    "compiled": _Compiled(),
}


def runtime(name: str) -> Runtime:
    """Return the runtime of a name.

    Raises
    ------
    SettingError
        If there is none of that name, or its package is not installed.
    """
    if name not in RUNTIMES:
        raise SettingError("runtime", name, "is unknown", nearest(str(name), RUNTIMES))
    found = RUNTIMES[name]
    if found.package and find_spec(found.package) is None:
        remedy = f"pip install 'paretopress[{found.extra}]'"
        raise SettingError("runtime", name, f"needs the package {found.package}, which is not installed", remedy)
    return found
