"""ONNX Runtime: a file that is loaded on few threads."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Read by the import: without it that leaves files in the home folder, and reports to the maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from ..spaces.errors import ArtifactError
from .pairing import Pairing, Program, alone, clock_of, paired

Array = npt.NDArray[Any]
#: Of what runtimes name a type, what numpy names it.
_TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_}

#: What a trace calls the run of a node.
_RAN = "_kernel_time"


class Session:
    """A file that was loaded.

    Parameters
    ----------
    model
        A path, or the bytes of a file.
    threads
        That it may compute on.
    trace
        Where to note how long each node takes, without the end of the file's name; see `noted`.

    Attributes
    ----------
    source
        The path, or what stands for it in messages.
    load_seconds
        How long loading took, unpacking the weights included.

    Raises
    ------
    ArtifactError
        If the runtime can't load it.
    """

    def __init__(self, model: Path | str | bytes, threads: int = 1, trace: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, os.fspath(trace)
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Threads that wait for work by spinning would count as processor time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.source = "the file" if isinstance(model, bytes) else os.fspath(model)
        source = model if isinstance(model, bytes) else self.source
        begun = time.perf_counter()
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:300]
            raise ArtifactError(f"{self.source}: ONNX Runtime can't load it: {reason}") from error
        self.load_seconds = time.perf_counter() - begun
        self.names = [i.name for i in self._session.get_inputs()]

    def __call__(self, *inputs: Array) -> Array:
        """Return the first output."""
        return np.asarray(self.ready(*inputs)()[0])

    def ready(self, *inputs: Array) -> Callable[[], list[Any]]:
        """Return its run on some inputs."""
        feed = dict(zip(self.names, inputs))
        return lambda: self._session.run(None, feed)

    def noted(self) -> list[tuple[str, float]]:
        """Return the nodes that ran, in the order in which they did, with the seconds of each, where a trace was kept;
        nothing is noted any more.
        """
        events = json.loads(Path(self._session.end_profiling()).read_bytes())
        # What is noted is rounded down to a microsecond: half of one is missing.
        return [(e["name"], 1e-6 * (e["dur"] + 0.5)) for e in events if e.get("cat") == "Node" and _RAN in e["name"]]

    @property
    def batched(self) -> bool:
        """Whether every input has a first dimension of any size."""
        inputs = self._session.get_inputs()
        return bool(inputs) and all(own.shape and not isinstance(own.shape[0], int) for own in inputs)

    def zeros(self, batch: int) -> list[Array]:
        """Return inputs of a batch. Integers are zeros, and numbers are drawn at random, the same each time.

        Raises
        ------
        ArtifactError
            If a dimension besides the batch isn't fixed, the batch is, to another number, or an input is no tensor of
            numbers.
        """
        if batch > 1 and not all(own.shape for own in self._session.get_inputs()):
            raise ArtifactError(f"{self.source} takes no batches: its inputs have no first dimension.")
        rng, found = np.random.default_rng(0), []
        for own in self._session.get_inputs():
            fixed = own.shape[0] if own.shape else None
            if isinstance(fixed, int) and fixed != batch:
                raise ArtifactError(f"{self.source} takes batches of {fixed} only, not of {batch}.")
            kind = own.type.removeprefix("tensor(").removesuffix(")")
            if not re.fullmatch(r"tensor\((u?int\d+|float(16)?|double|bool)\)", own.type):
                raise ArtifactError(f"{self.source}: the input {own.name} is a {own.type}, no numbers.")
            if not all(isinstance(d, int) for d in own.shape[1:]):
                raise ArtifactError(f"the input {own.name} has the shape {own.shape}: only the batch may be open.")
            dtype = np.dtype(_TYPES.get(kind, kind))
            values = rng.standard_normal([batch, *own.shape[1:]] if own.shape else [])
            found.append(values.astype(dtype) if dtype.kind == "f" else np.zeros(values.shape, dtype))
        return found


def compare(candidate: Session, baseline: Session, batch: int = 1, seconds: float = 1.0, threads: int = 1) -> Pairing:
    """Return how long a file takes beside another, on the same inputs, in turns.

    Processor time on one thread, so that other programs on the machine matter little; with more, elapsed time.

    Raises
    ------
    ArtifactError
        If the two don't take the same inputs, or one doesn't run on those that are made up.
    """
    mine, theirs = candidate.zeros(batch), baseline.zeros(batch)
    if [(x.shape, x.dtype) for x in mine] != [(x.shape, x.dtype) for x in theirs]:
        ours, others = ([f"{x.dtype} {x.shape[1:]}" for x in inputs] for inputs in (mine, theirs))
        raise ArtifactError(f"the two files take different inputs: {' and '.join(ours)}, and {' and '.join(others)}.")
    runs = candidate.ready(*mine), baseline.ready(*theirs)
    for session, run in zip((candidate, baseline), runs):
        try:
            run()
        except Exception as error:  # the runtime has many kinds
            reason = str(error).strip().splitlines()[0][:300]
            raise ArtifactError(f"{session.source} doesn't run on inputs that are made up: {reason}") from error
    with alone(threads):
        return paired(Program(lambda: runs[0], clock_of(threads)), Program(lambda: runs[1], clock_of(threads)), seconds)
