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
from torch import nn

from paretopress.compressors.draft import Draft
from paretopress.evaluators.onnx_session import Session, compare
from paretopress.search import Front, Space, Task, load, search
from paretopress.search.artifact import opened
from paretopress.search.cli import main
from paretopress.search.deploy.export import Parity, compared, export
from paretopress.search.saving import dumps
from paretopress.spaces.errors import ArtifactError, SettingError
from paretopress.spaces.recipe import Recipe


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
        ("x.npy", "inputs = 'str': must be a tensor, a tuple of tensors or a batch of the data"),
        ((torch.zeros(0, 1, 8, 8),), "must hold at least one example"),
        ((torch.zeros(2, 3, 8, 8),), "it was searched with float32 (batch, 1, 8, 8)"),
        ((torch.zeros(2, 1, 8, 8),) * 3, "inputs = 'float32 (batch, 1, 8, 8) and float32 (batch, 1, 8, 8) and float32"),
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


@pytest.mark.parametrize("form", [lambda b: b, list, lambda b: b[0], lambda b: b[0][0], lambda b: [b[0][0], b[1]]])
def test_inputs_are_taken_as_the_data_gives_them(front: Front, task: Task, tmp_path: Path, form: Any) -> None:
    """A batch with its targets, a loader's list, the inputs, or the one input alone."""
    found = front[0].export(tmp_path / "m.onnx", inputs=form(task.validation.first()))
    assert found.parity.real
    assert found.parity.examples == len(task.validation.first()[1])


def test_models_that_give_no_numbers_are_not_exported(front: Front, task: Task, tmp_path: Path) -> None:
    """Outputs that are NaN would be "the same class" everywhere: the reason is given, and nothing is written."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight[3, 5] = torch.nan
    saved = dumps(Draft.of(model), model, Recipe(), (torch.zeros(1, 1, 8, 8),))
    (tmp_path / "model.safetensors").write_bytes(saved.data)
    with pytest.raises(ArtifactError, match=r"the model gives outputs that are no numbers \(NaN\) for \d+ of \d+"):
        export(tmp_path / "model.safetensors", tmp_path / "m.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors"}
    x = task.validation.first()[0]
    other = Session((front[0].export(tmp_path / "a.onnx").path).read_bytes())
    apart = compared(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), other, x, True)
    assert not apart.close
    infinite = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Threshold(0.0, -torch.inf)).eval()
    assert compared(infinite, infinite, x, True) == Parity(0.0, 1.0, len(x[0]), True)


@pytest.mark.parametrize("place", ["/proc/x/m.onnx", "{}/file/m.onnx"])
def test_places_that_cannot_be_written_are_one_message(
    front: Front, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told before the model is exported, not in a traceback after it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(front.folder), "--point", "0", "--out", place.format(tmp_path)])
    assert ended.value.code == 2
    assert "the file's folder can't be written" in " ".join(capsys.readouterr().err.split())


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


def test_a_task_that_is_named_gives_real_inputs(
    front: Front, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run from Python has no file that names its task: who exports can."""
    where = ("--out", tmp_path / "m.onnx", "--task", "paretopress.search.examples.digits:task")
    command("export", front.folder, "--point", 0, *where)  # type: ignore[arg-type] # it was kept
    assert "validation examples" in capsys.readouterr().out


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


def graph(kind: int, shape: list[int | str] | None, op: str = "Identity") -> bytes:
    """Return a file of one node."""
    x, y = (onnx.helper.make_tensor_value_info(name, kind, shape) for name in "xy")
    made = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["y"])], "g", [x], [y])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_files_that_cannot_be_timed_are_one_sentence() -> None:
    """Inputs that can't be made up, and files that take no batches or fail on what is made up."""
    text = Session(graph(onnx.TensorProto.STRING, ["n", 3]))
    with pytest.raises(ArtifactError, match=r"the input x is a tensor\(string\)"):
        compare(text, text)
    number = Session(graph(onnx.TensorProto.FLOAT, []))
    assert not number.batched
    assert compare(number, number, seconds=0.05).ratio > 0
    with pytest.raises(ArtifactError, match="takes no batches"):
        compare(number, number, 32)
    single, double = (Session(graph(kind, ["n", 3])) for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE))
    assert single.batched
    with pytest.raises(ArtifactError, match=r"float32 \(3,\), and float64 \(3,\)"):
        compare(single, double)


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """A damaged file is one sentence with its name."""
    (tmp_path / "b.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"b\.onnx: ONNX Runtime can't load it"):
        Session(tmp_path / "b.onnx")
