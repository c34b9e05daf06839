"""A run's models leave it as ONNX files that were checked, by command or by call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from paretopress.evaluators.onnx_session import Session, compare
from paretopress.search import Front, Space, Task, load, search
from paretopress.search.artifact import opened
from paretopress.search.cli import main
from paretopress.search.deploy.export import export
from paretopress.spaces.errors import ArtifactError, SettingError


@pytest.fixture(scope="module")
def front(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Front:
    """The front of a small run, which was started from Python."""
    space = Space.from_task(task, {"int8": {"bits": [6, 4]}, "entropy": {}})
    folder = tmp_path_factory.mktemp("deploy") / "run"
    return search(task, space, ["accuracy", "size"], budget=4, executor="local", run=folder, seed=0)


def command(*words: str | Path) -> None:
    """Run a command in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(w) for w in words])
    assert ended.value.code in (0, None)


def test_exported_model_computes_what_the_saved_one_does(front: Front, task: Task, tmp_path: Path) -> None:
    """The file of a point is loaded by the runtime alone, for any batch, with the outputs that the search measured."""
    point = front[len(front) - 1]
    assert point.path is not None
    inputs = task.validation.first()[0]
    found = export(point.path, tmp_path / "m.onnx", inputs=inputs)
    assert found.bytes == (tmp_path / "m.onnx").stat().st_size
    assert found.parity.real
    assert found.parity.agreement is not None
    assert found.parity.agreement > 0.95
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    x = torch.cat([args[0] for args, _ in task.test or ()])
    theirs = torch.from_numpy(np.asarray(session.run(None, {"input": x.numpy()})[0])).argmax(1)
    assert (theirs == load(point.path)(x).argmax(1)).float().mean() > 0.95


def test_program_of_torch_computes_the_same(front: Front, task: Task, tmp_path: Path) -> None:
    """The other format is read by torch alone: rounded activations are plain operators there."""
    point = front[len(front) - 1]
    assert point.path is not None
    found = point.export(tmp_path / "m.pt2", "torch", inputs=task.validation.first()[0])
    assert found.parity.difference < 0.05
    code = "import sys, torch; p = torch.export.load(sys.argv[1]).module(); print(p(torch.zeros(3, 1, 8, 8)).shape)"
    command = [sys.executable, "-c", code, str(tmp_path / "m.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([3, 10])"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (torch.zeros(2, 1, 8, 8), "inputs = 'Tensor': must be a tuple of tensors. Write (x,) for one."),
        ((torch.zeros(2, 3, 8, 8),), "it was searched with float32 (batch, 1, 8, 8)"),
        ((torch.zeros(2, 1, 8, 8),) * 2, "inputs = 'float32 (batch, 1, 8, 8) and float32 (batch, 1, 8, 8)': must be"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(
    front: Front, tmp_path: Path, inputs: Any, expected: str
) -> None:
    """The message names what was given and what the model was searched with; nothing is written."""
    with pytest.raises(SettingError) as refused:
        front[0].export(tmp_path / "m.onnx", inputs=inputs)
    assert expected in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_saved_model_says_how_it_is_stored(front: Front) -> None:
    """What a file holds is enough to export it: encodings and the shapes of its inputs."""
    point = front[len(front) - 1]
    assert point.path is not None
    held = opened((point.path / "model.safetensors").read_bytes())
    assert {s.site for s in point.recipe.steps if s.technique == "int8"} == {
        n.removesuffix(".weight") for n in held.encodings
    }
    assert [x.shape for x in held.example] == [(1, 1, 8, 8)]


def test_commands_export_and_time_models(front: Front, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the run folder to a speed-up in two commands, for a run that no file names a task for."""
    assert front.folder is not None
    command("export", front.folder, "--point", len(front) - 1, "--out", tmp_path / "a" / "small.onnx")
    told = capsys.readouterr().out
    assert "random inputs" in told
    assert "small.onnx" in told
    command("export", front.folder, "--point", "baseline", "--out", tmp_path / "original.onnx")
    command("bench", tmp_path / "a/small.onnx", "--against", tmp_path / "original.onnx", "--seconds", "0.1")
    told = capsys.readouterr().out
    assert "speed-up" in told
    assert "│ 32 " in told


@pytest.mark.parametrize("point", ["17", "-1", "first"])
def test_point_that_is_not_there_is_named(front: Front, point: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong number is one message that says which there are."""
    with pytest.raises(SystemExit) as ended:
        main(["export", str(front.folder), "--point", point])
    assert ended.value.code == 2
    assert f"the front has points 0 to {len(front) - 1}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("there.onnx", "is there already. Give another name, or replace it: --overwrite"),
        ("folder", "is a folder. Name a file in it: "),
        ("model.safetensors", "is the name of a saved model. End it with .onnx"),
        ("model.pt2", "is the name of a file of format torch, and this one is onnx"),
    ],
)
def test_no_file_is_lost_to_an_export(
    front: Front, tmp_path: Path, name: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there stays, a run's own model above all, unless its replacement is asked for."""
    (tmp_path / "there.onnx").write_text("precious")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit):
        main(["export", str(front.folder), "--point", "0", "--out", str(tmp_path / name)])
    assert rule in " ".join(capsys.readouterr().err.split())
    assert {p.name for p in tmp_path.iterdir()} == {"there.onnx", "folder"}
    assert (tmp_path / "there.onnx").read_text() == "precious"
    if name == "there.onnx":
        command("export", str(front.folder), "--point", "0", "--out", tmp_path / name, "--overwrite")
        assert Session(tmp_path / name).zeros(2)


def test_files_with_other_inputs_are_not_compared(front: Front, tmp_path: Path) -> None:
    """A ratio of two models that do different work means nothing."""
    assert front.baseline.path is not None
    export(front.baseline.path, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    height, width = list(model.graph.input[0].type.tensor_type.shape.dim)[2:]
    height.dim_value, width.dim_value = 4, 16  # as many pixels: it loads
    other = Session(model.SerializeToString())
    with pytest.raises(ArtifactError, match="different inputs"):
        compare(Session(tmp_path / "a.onnx"), other)


def test_file_for_one_batch_only_is_not_asked_for_another(front: Front, tmp_path: Path) -> None:
    """One sentence instead of the runtime's traceback."""
    assert front.baseline.path is not None
    export(front.baseline.path, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    assert compare(*[Session(tmp_path / "two.onnx")] * 2, batch=2, seconds=0.05).ratio > 0
    with pytest.raises(ArtifactError, match=r"two\.onnx takes batches of 2 only, not of 32"):
        compare(*[Session(tmp_path / "two.onnx")] * 2, batch=32)


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """A damaged file is one sentence with its name."""
    (tmp_path / "b.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"b\.onnx: ONNX Runtime can't load it"):
        Session(tmp_path / "b.onnx")
