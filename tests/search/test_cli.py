"""The command line, as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paretopress.search import load
from paretopress.search.cli import main
from paretopress.search.journal import FILE, read
from paretopress.search.result import Result
from paretopress.search.saved import open_front
from paretopress.spaces.catalogue import REGISTRY
from paretopress.spaces.recipe import Recipe, Step

YAML = """
task: paretopress.search.examples.digits:task
techniques:
  integer: {bits: [8, 4, 2], layers: ["block*", "fc"]}
  entropy: {}
objectives: [accuracy, size]
budget: {trials: 5}
executor: local
"""

SPLITS = ("test", "validation")


def process(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``paretopress`` with these words in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "paretopress.search.cli", *map(str, words)],
        cwd=cwd, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``paretopress`` with these words in this process, which spares what a start of Python takes."""
    out, err = io.StringIO(), io.StringIO()
    stopped = pytest.raises(SystemExit)
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), stopped as end:
        main(list(map(str, words)))
    return subprocess.CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused, in this process, and return its message."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 24
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run ``d``."""
    place = tmp_path_factory.mktemp("cli")
    (place / "d.yaml").write_text(YAML)
    done = process("search", "d.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("measuring the original model; trials run in this process, one at a time")
    assert "Pareto front" in done.stdout
    assert "d/report.html" in done.stdout
    return place


def test_pick_prints_a_model_that_loads(folder: Path) -> None:
    """The path that pick prints holds a model that runs in this process, which never saw its class by name; beside the
    figure on test data, with its interval, is the one that was picked by.
    """
    done = process("pick", "d", "--max-accuracy-drop", "5%", "--minimise", "size", cwd=folder)
    assert done.returncode == 0, done.stderr
    path = next(line.removeprefix("model: ") for line in done.stdout.splitlines() if line.startswith("model: "))
    assert load(folder / path)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    test, validation = (next(r for r in done.stdout.splitlines() if f"accuracy on {s}" in r) for s in SPLITS)
    front = open_front(folder / "d")
    picked = front.pick(max_accuracy_drop=0.05)
    low, high = picked.final["accuracy"].interval or (0.0, 0.0)
    assert f"{picked.final['accuracy'].value:.4f} [{low:.3f}, {high:.3f}]" in test
    assert f"{picked.result.value('accuracy'):.4f}" in validation


def test_pick_says_what_it_went_by(folder: Path) -> None:
    """Without a largest loss the smallest model is taken, and that is said; the original can be looked at, too."""
    words = "whatever it loses: --max-accuracy-drop 1% asks for a good one"
    assert words in command("pick", "d", cwd=folder).stdout
    assert words not in command("pick", "d", "--max-accuracy-drop", "90%", cwd=folder).stdout
    original = command("pick", "d", "--point", "baseline", cwd=folder)
    assert original.returncode == 0, original.stderr
    assert "model: d/baseline" in original.stdout


def test_a_front_that_is_behind_its_record_says_so(folder: Path, tmp_path: Path) -> None:
    """After a run went on and was killed, nobody takes the old front for the last word."""
    run = shutil.copytree(folder / "d", tmp_path / "d")
    assert "the record has" not in command("pick", "d", cwd=tmp_path).stdout.lower()
    recipe = Recipe.of([Step.of("fc", "integer", bits=3)])
    with (run / FILE).open("a") as journal:
        journal.write(
            json.dumps({"trial": Result(99, recipe, status="failed", error="x").to_json(), "sampler": {}}) + "\n"
        )
    for words in (("pick", "d"), ("report", "d")):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "! The record has 1 trial that this front knows nothing of" in done.stdout
        assert "paretopress resume d" in done.stdout
    assert "The record has 1 trial that this front knows nothing of" in (run / "report.html").read_text()


def test_exported_model_is_checked_on_validation_data(folder: Path) -> None:
    """A run that a file describes knows its data: outputs are compared on them, and the file is beside the model."""
    done = command("export", "d", "--point", "0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "validation examples" in done.stdout
    assert (folder / "d/front/0/model.onnx").is_file()


def ended(folder: Path) -> list[str]:
    """Return the digests of the trials that have ended."""
    lines = (json.loads(line) for line in (folder / "d/journal.jsonl").read_text().splitlines())
    return [line["trial"]["digest"] for line in lines if "trial" in line]


def test_resume_reaches_a_larger_budget(folder: Path) -> None:
    """Resuming with more trials adds exactly the missing ones."""
    done = process("resume", "d", "--trials", "7", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(set(ended(folder))) == len(ended(folder)) == 7


def test_a_finished_run_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resuming it shows its front and how to get more, and a smaller total than it has is refused."""
    trials = len(ended(folder))
    done = command("resume", "d", "--trials", str(trials), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"{trials} of {trials} trials are done; give --trials" in done.stderr
    assert "measuring" not in done.stderr
    assert "Pareto front" in done.stdout
    text = refused("resume", str(folder / "d"), "--trials", "2", capsys=capsys)
    assert f"trials = 2: is less than the {trials} that the run has" in text


def test_report_is_written_again(folder: Path) -> None:
    """The report can be made from the run folder alone."""
    (folder / "d/report.html").unlink()
    done = command("report", "d", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "d/report.html").read_text()
    assert "block1.conv1" in page


def test_a_damaged_model_is_told_and_made_again(folder: Path, tmp_path: Path) -> None:
    """Nobody deploys a file that isn't the one whose figures the report shows, and one command brings it back."""
    run = shutil.copytree(folder / "d", tmp_path / "d")
    lost, cut = run / "baseline/model.safetensors", run / "front/0/model.safetensors"
    assert "model.safetensors" not in command("report", "d", cwd=tmp_path).stdout
    whole = cut.read_bytes()
    lost.unlink()
    cut.unlink()
    cut.write_bytes(whole[:-100])
    shown = command("report", "d", cwd=tmp_path).stdout
    assert "d/baseline/model.safetensors: there is no such file. Make it again with: paretopress resume d" in shown
    assert "d/front/0/model.safetensors: is not the file that was measured: it was damaged or replaced" in shown
    picked = command("pick", "d", "--point", "0", cwd=tmp_path)
    assert picked.returncode == 2
    assert "is not the file that was measured" in picked.stderr
    assert command("resume", "d", cwd=tmp_path).returncode == 0
    assert cut.read_bytes() == whole
    assert "model.safetensors" not in command("report", "d", cwd=tmp_path).stdout


def test_racing_and_evaluations_can_be_overridden(tmp_path: Path) -> None:
    """The switch and the budget of work go into the run, its facts and its settings, and resuming may change both."""
    (tmp_path / "d.yaml").write_text(YAML)
    done = command("search", "d.yaml", "--no-racing", "--evaluations", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "d/front.json").read_text())["about"]
    assert (about["racing"], about["budget"]) == ("off", "5 trials or 3 evaluations")
    assert len(ended(tmp_path)) == 3
    assert json.loads((tmp_path / "d/config.json").read_text())["config"]["racing"] is False
    done = command("resume", "d", "--racing", "--evaluations", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "d/front.json").read_text())["about"]["racing"] == "on"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("objectives: [acuracy, size]", "accuracy"),
        ("constraints: ['accuracy dorp <= 2%']", "must read like"),
        ("constraints: ['acuracy drop <= 2%']", "Did you mean 'accuracy'"),
        ("sampler: tpee", "Did you mean 'tpe'"),
        ("seed: -1", "2**32"),
        ("storage: postgresql://nobody@127.0.0.1:9/none", "Check the address, that the database is there"),
        ("executor: ray\nray: {address: '127.0.0.1:9'}", "nothing answers there"),
    ],
)
def test_a_dry_run_finds_what_a_run_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str, expected: str
) -> None:
    """Checking everything means everything."""
    key = change.partition(":")[0]
    lines = [line for line in YAML.splitlines() if not line.startswith(key)]
    (tmp_path / "d.yaml").write_text("\n".join([*lines, change]))
    monkeypatch.chdir(tmp_path)
    assert expected in refused("search", "d.yaml", "--dry-run", capsys=capsys)


def test_techniques_are_listed(tmp_path: Path) -> None:
    """All seven techniques and the metrics are there, with the layers they support and what they need."""
    text = command("techniques", cwd=tmp_path).stdout
    for name in ("channels", "depth", "magnitude", "integer", "codebook", "svd", "entropy", "distillation", "latency"):
        assert name in text


FLAKY = """
from pathlib import Path
from paretopress.compressors.base import Compressor, register
from paretopress.search.examples.digits import task
from paretopress.spaces.knob import Knob
from paretopress.spaces.stage import Stage

class Flaky(Compressor):
    name, stage, kinds, summary = "flaky", Stage.OPERATOR, frozenset({"model"}), "a test's"

    def knobs(self, site):
        return (Knob("number", (1, 2, 3)),)

    def apply(self, draft, site, params, context):
        if not Path("mended").exists():
            raise RuntimeError("not mended yet")

register(Flaky())
"""


def outcomes(folder: Path) -> list[str]:
    """Return the numbers of a run's trials and what became of them in the end."""
    return sorted(f"{r.number}:{r.status}" for r, _ in read(folder)[1].results)


def test_failed_trials_are_run_again_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is done stays so; ``--retry errored`` runs what failed under its number, once what was wrong is
    mended, and a word that is no policy is refused with those that are.
    """
    (tmp_path / "flaky_task.py").write_text(FLAKY)
    monkeypatch.setattr(REGISTRY, "members", dict(REGISTRY.members))  # the technique is gone after the test
    text = "task: flaky_task:task\ntechniques: {flaky: {}}\nsampler: random\nexecutor: local\nbudget: {trials: 4}\n"
    (tmp_path / "f.yaml").write_text(text)
    assert command("search", "f.yaml", cwd=tmp_path).returncode == 0
    assert outcomes(tmp_path / "f") == ["0:ok", "1:failed", "2:failed", "3:failed"]
    (tmp_path / "mended").touch()
    assert "4 of 4 trials are done" in command("resume", "f", cwd=tmp_path).stderr
    assert command("resume", "f", "--retry", "errord", cwd=tmp_path).returncode == 2
    assert command("resume", "f", "--retry", "errored", cwd=tmp_path).returncode == 0
    assert outcomes(tmp_path / "f") == ["0:ok", "1:ok", "2:ok", "3:ok"]


def test_dry_run_checks_and_writes_nothing(tmp_path: Path) -> None:
    """A dry run shows the space's size, how limits and budget were read, and leaves no folder."""
    (tmp_path / "d.yaml").write_text(YAML + "\nconstraints: ['accuracy drop <= 2%', 'size <= 0.3x', 'size <= 20 kB']\n")
    done = command("search", "d.yaml", "--dry-run", "--minutes", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recipes" in done.stdout
    assert "limit 'accuracy drop <= 2%': accuracy at most 0.02 below the original's" in done.stdout
    assert "size at most 0.3 times the original's" in done.stdout
    assert "size at most 20,000 bytes" in done.stdout
    assert "trials or 3 minutes; sampler " in done.stdout
    assert not (tmp_path / "d").exists()


MISTAKES = {
    "unknown technique": (YAML.replace("integer:", "intger:"), "Did you mean 'integer'"),
    "knob out of range": (YAML.replace("[8, 4, 2]", "[8, 99]"), "techniques.integer.bits = 99"),
    "unknown knob": (YAML.replace("bits:", "bitz:"), "Did you mean 'bits'"),
    "glob without a match": (YAML.replace('"block*"', '"blok*"'), "matches no layer"),
    "unknown objective": (YAML.replace("size]", "sise]"), "Did you mean 'size'"),
    "unknown key": (YAML + "\nsede: 3", "Did you mean 'seed'"),
    "syntax error": (YAML + "\n]", "line"),
    "unknown task": (YAML.replace("digits:task", "digits:tusk"), "Did you mean 'task'"),
    "unknown sampler": (YAML + "\nsampler: tpee", "Did you mean 'tpe'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    """No traceback, nothing written, exit status 2, and the message says what and what to do."""
    text, expected = MISTAKES[mistake]
    (tmp_path / "d.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert expected in refused("search", "d.yaml", capsys=capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["d.yaml"]


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The installed command behaves as the function does: status 2, a message, no traceback."""
    done = process("search", "nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr, "can't be read" in done.stderr) == (2, False, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["resume", "nowhere"], "there is no run"),
        (["resume", "nowhere.yaml"], "can't be read (no such file"),
        (["report", "nowhere"], "there is no run"),
        (["pick", "nowhere"], "there is no run"),
        (["serach"], "serach"),
        (["pick"], "folder"),
    ],
)
def test_wrong_paths_and_words_end_with_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    """What isn't there is named, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*words, capsys=capsys).lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--point", "99"], "point = '99': the front has points"),
        (["--point", "first"], "Give one of them, or 'baseline' for the original."),
        (["--minimise", "sizes"], "Did you mean 'size'"),
        (["--max-accuracy-drop", "-0.9"], "no point of the front loses at most -0.9 of accuracy on validation data"),
        (["--max-accuracy-drop", "5"], "Did you mean 0.05"),
        (["--max-accuracy-drop", "500%"], "Did you mean 0.05"),
        (["--max-accuracy-drop", "little"], "'little' is no number"),
    ],
)
def test_picking_the_impossible_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    """A point that isn't there, a metric that wasn't measured and a drop nobody reaches are explained."""
    assert expected in refused("pick", str(folder / "d"), *words, capsys=capsys)


def test_pick_repeats_that_no_model_keeps_all_limits(tmp_path: Path) -> None:
    """Who only reads what pick prints is told, too, and by how much the nearest model misses."""
    (tmp_path / "d.yaml").write_text(YAML + "sampler: random\nconstraints: ['size <= 1 kB']\n")
    assert command("search", "d.yaml", "--trials", "3", cwd=tmp_path).returncode == 0
    done = command("pick", "d", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [warning] = [line for line in done.stdout.splitlines() if line.startswith("! ") and "No model" in line]
    assert "size <= 1 kB" in done.stdout
    assert "! " + open_front(tmp_path / "d").notes[0] == warning
