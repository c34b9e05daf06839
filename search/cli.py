"""The command line. Every mistake of a user ends in one message and exit status 2, never in a traceback."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from ..compressors.cache import cache_folder
from ..evaluators.latency import Latency
from ..spaces.errors import PressError, RunError, SettingError
from ..spaces.task import UNNAMED, Task
from . import config as settings
from .api import search as run_search
from .artifact import locate, needs_class
from .deploy import commands as deploy
from .executors import check_executor
from .folder import JOURNAL, Existing, Retry, check, check_place
from .front import Front
from .journal import read
from .kept_settings import read_kept, save
from .latency_choice import integers_missing, timed_metric
from .plan import make_plan
from .profile_run import measure
from .profile_table import narrowed, profile_lines
from .report.data import FILE as REPORT
from .report.data import write_report
from .report.profile_data import write_profile
from .saved import behind, damaged, load_front
from .storage_address import without_password
from .tables import front_table, metrics_table, point_table, techniques_table
from .verify import command as verify

app = typer.Typer(
    name="paretopress",
    help="Search a network's per-layer compressions for the Pareto front of real, smaller models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
#: Where there is no terminal, a log file takes tables at their full width.
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
_err = Console(stderr=True, highlight=False)

#: What Ray prints, at length, of workers and nodes that die: a run says itself what became of its trials.
_RAYS = "^(A worker died or was killed|Raylet is terminated|The node with node id: .* has been marked dead)"

Folder = Annotated[Path, typer.Argument(help="The run folder, e.g. runs/digits.")]


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(version("paretopress"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Search a network's per-layer compressions for the Pareto front of real, smaller models."""


@app.command()
def search(
    file: Annotated[Path, typer.Argument(help="The run's YAML file; its folder is the file's name without .yaml.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Another run folder.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard a run that the folder holds.")] = False,
    trials: Annotated[int | None, typer.Option(help="Override budget.trials.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Override budget.minutes.")] = None,
    evaluations: Annotated[float | None, typer.Option(help="Override budget.evaluations.")] = None,
    seed: Annotated[int | None, typer.Option(help="Override seed.")] = None,
    executor: Annotated[str | None, typer.Option(help="Override executor: ray or local.")] = None,
    workers: Annotated[int | None, typer.Option(help="Override ray.workers.")] = None,
    address: Annotated[str | None, typer.Option(help="Override ray.address: a running cluster.")] = None,
    racing: Annotated[bool | None, typer.Option(help="Stop trials that can't reach the front any more.")] = None,
    storage: Annotated[str | None, typer.Option(help="Override storage: a PostgreSQL database for the record.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the space and how limits were read; run nothing.")
    ] = False,
) -> None:
    """Search the compressions of a model that a YAML file names."""
    chosen = settings.read_yaml(file)
    data = {**chosen.model_dump(), **_given(seed=seed, executor=executor, racing=racing, storage=storage)}
    data["budget"] |= _given(trials=trials, minutes=minutes, evaluations=evaluations)
    data["ray"] |= _given(workers=workers, address=address)
    chosen = settings.check(data, "command line")
    _run(chosen, _folder(output, file), file, "fresh" if fresh else "refuse", dry_run)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The run folder, e.g. runs/digits, or the run's YAML file.")],
    trials: Annotated[int | None, typer.Option(help="A new total of trials.")] = None,
    minutes: Annotated[float | None, typer.Option(help="A new limit for this session.")] = None,
    evaluations: Annotated[float | None, typer.Option(help="A new total of evaluations.")] = None,
    workers: Annotated[int | None, typer.Option(help="Override ray.workers.")] = None,
    address: Annotated[str | None, typer.Option(help="Override ray.address: a running cluster.")] = None,
    racing: Annotated[bool | None, typer.Option(help="Stop trials that can't reach the front any more.")] = None,
    storage: Annotated[str | None, typer.Option(help="Override storage, e.g. with its password.")] = None,
    task: Annotated[str | None, typer.Option(help="module:function, for a run that somebody else started.")] = None,
    retry: Annotated[
        Literal["unfinished", "errored", "restart-errored"],
        typer.Option(help="Which trials to run again; errored: failed ones too, restart-errored: from their start."),
    ] = "unfinished",
) -> None:
    """Continue a run where it stopped; finished trials are not repeated."""
    if folder.suffix in (".yaml", ".yml") and not folder.is_dir():
        chosen, file, folder = settings.read_yaml(folder), folder, folder.with_suffix("")
    else:
        kept = read_kept(folder)
        chosen, file = kept.config, (Path.cwd() if task is not None else kept.origin) / "run.yaml"
        if task is None and not kept.own:
            raise RunError(
                f"{folder}: names the task {chosen.task}, code that would be imported from {kept.origin} and run, and "
                "it wasn't you who started this run, or not from this home. If you know that code, name it: --task "
                f"{chosen.task} (of a module in the working folder, or installed), or give the run's YAML file instead "
                "of the folder."
            )
    data = {**chosen.model_dump(), **_given(task=task, racing=racing, storage=storage)}
    data["budget"] |= _given(trials=trials, minutes=minutes, evaluations=evaluations)
    data["ray"] |= _given(workers=workers, address=address)
    chosen = settings.check(data, "command line")
    if trials is not None and (folder / JOURNAL).exists() and trials < (done := len(read(folder)[1].results)):
        raise SettingError("trials", trials, f"is less than the {done} that the run has", "Give a larger total.")
    _run(chosen, folder, file, "resume", False, retry)


@app.command()
def profile(
    file: Annotated[Path, typer.Argument(help="The run's YAML file; its folder is the file's name without .yaml.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Another folder for the page.")] = None,
    executor: Annotated[str | None, typer.Option(help="Override executor: ray or local.")] = None,
    workers: Annotated[int | None, typer.Option(help="Override ray.workers.")] = None,
    technique: Annotated[str | None, typer.Option(help="Print one technique, with all its settings.")] = None,
    layers: Annotated[str, typer.Option(help="Print the layers, groups and blocks that this glob matches.")] = "*",
    latency: Annotated[
        bool | None, typer.Option(help="Time every layer, too; by default where the file asks for latency.")
    ] = None,
) -> None:
    """Measure how sensitive each layer is to each compression: what it saves, and what damage it will do."""
    data = {**settings.read_yaml(file).model_dump(), **_given(executor=executor)}
    data["ray"] |= _given(workers=workers)
    chosen, folder = settings.check(data, "command line"), _folder(output, file)
    check_place(folder)
    task = _task(chosen, folder, file)
    space = chosen.build_space(task)
    shown = narrowed(space, technique, layers)  # a name that doesn't exist is found before anything is measured
    asked = [*chosen.asked(task), *([Latency()] if latency else [])]
    timed = timed_metric(asked) if latency is not False else None
    try:
        found, checked = measure(task, space, chosen.executor, chosen.resources(), _err, timed)
    except KeyboardInterrupt:
        kept = "; the same command goes on with the sites that are not measured yet" if cache_folder() else ""
        _err.print(f"stopped{kept}", soft_wrap=True)
        raise typer.Exit(130) from None
    for line in profile_lines(found, technique, shown, _out.width, _out.color_system is not None):
        _out.print(line)
    if checked is not None:
        _out.print(f"· {checked.summary}", soft_wrap=True)
    if found.latency is not None:
        _out.print(f"· {found.latency.summary}", soft_wrap=True)
    page = write_profile(found, checked, task.name, _command(), folder)
    _out.print(f"map: {page}", soft_wrap=True)


def _command() -> str:
    """Return what was typed, for the report."""
    return without_password(shlex.join(["paretopress", *sys.argv[1:]]))


def _folder(output: Path | None, file: Path) -> Path:
    return output if output is not None else file.with_suffix("")


def _task(chosen: settings.Config, folder: Path, file: Path) -> Task:
    task = chosen.build_task(file.resolve().parent)
    if task.name == UNNAMED:
        task.name = folder.name
    return task


def _given(**options: object) -> dict[str, object]:
    """Return the options that were written on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _run(
    chosen: settings.Config, folder: Path, file: Path, existing: Existing, dry_run: bool, retry: Retry = "unfinished"
) -> None:
    check(folder, existing, chosen.storage is None)  # before a task that may take a while to build
    check_executor(chosen.executor, chosen.resources())
    if chosen.storage is not None and dry_run:
        from .database import check_database  # noqa: PLC0415 - Optuna and its databases take a second to import

        check_database(chosen.storage)
    task = _task(chosen, folder, file)
    options: dict[str, Any] = {
        "objectives": chosen.objectives,
        "metrics": chosen.build_metrics(),
        "budget": chosen.budget.trials,
        "minutes": chosen.budget.minutes,
        "evaluations": chosen.budget.evaluations,
        "constraints": chosen.constraints,
        "sampler": chosen.sampler,
        "seed": chosen.seed,
        "racing": chosen.racing,
        "storage": chosen.storage,
        "run": folder,
        "existing": existing,
        "retry": retry,
        "executor": chosen.executor,
        "resources": chosen.resources(),
    }
    plan = make_plan(task, **options)
    space = chosen.build_space(task)
    _out.print(f"{task.name}: {space!r}", soft_wrap=True)
    if dry_run:
        missing = integers_missing(space, plan.metrics)
        for line in (*plan.lines(), *(f"note: {note}" for note in (*space.notes, missing) if note)):
            _out.print(line, soft_wrap=True, markup=False)
        return
    about = {"command": _command(), "config": chosen.model_dump(mode="json")}
    try:
        front = run_search(task, space, **options, about=about, prepared=lambda: save(chosen, folder, file))
    except KeyboardInterrupt:
        _err.print(f"stopped; finished trials are kept. Continue with: paretopress resume {folder}", soft_wrap=True)
        raise typer.Exit(130) from None
    _show(front)


def _show(front: Front) -> None:
    _out.print(front_table(front))
    for note in front.notes:
        _out.print(f"· {note}", soft_wrap=True)
    assert front.folder is not None
    _out.print(f"report: {front.folder / REPORT}", soft_wrap=True)


def _warn(text: str) -> None:
    if text:
        _out.print(f"! {text}", style="yellow", soft_wrap=True)


@app.command()
def report(folder: Folder) -> None:
    """Write the report of a finished run again, and print the front."""
    front, about = load_front(folder)
    write_report(front, about, folder)
    _show(front)
    for warning in (behind(front, about), *(damaged(p, folder) for p in (front.baseline, *front))):
        _warn(warning)


def _share(text: str | float) -> float:
    """Return a number that may be written in per cent."""
    number = str(text).strip()
    try:
        return float(number.removesuffix("%")) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number. Write 0.01 or 1%.") from None


@app.command()
def pick(
    folder: Folder,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            parser=_share,
            metavar="FLOAT",
            help="Largest acceptable loss of quality: 0.01 or 1% is a point of accuracy.",
        ),
    ] = None,
    minimise: Annotated[str, typer.Option("--minimise", "--minimize", help="size, macs, latency, ...")] = "size",
    point: Annotated[
        str | None, typer.Option(help="A point by its number, or 'baseline' for the original, instead.")
    ] = None,
) -> None:
    """Choose a model: print its figures, its per-layer choices and where its file is."""
    front, about = load_front(folder)
    chosen = front.named(point) if point is not None else front.pick(
        max_accuracy_drop=max_accuracy_drop, minimise=minimise
    )  # fmt: skip
    if wrong := damaged(chosen, folder):
        raise RunError(wrong)
    own = needs_class(locate(chosen.path).read_bytes()) if chosen.path is not None else ""
    _out.print(point_table(chosen, front))
    for flag in (behind(front, about), *front.notes[: 0 if front.feasible else 1], *chosen.flags):
        _warn(flag)
    if point is None and max_accuracy_drop is None and len(front) > 1:
        hint = f"· best in {minimise}, whatever it loses: --max-accuracy-drop 1% asks for a good one"
        _out.print(hint, soft_wrap=True)
    _out.print(f"model: {chosen.path}", soft_wrap=True)
    more = ", model=MODEL), with the original model: it needs its class" if own else ")"
    _out.print(f"load it: paretopress.search.load({str(chosen.path)!r}{more}", soft_wrap=True)


@app.command()
def techniques() -> None:
    """List what can be searched: techniques, the layers they support, what they need, and metrics."""
    _out.print(techniques_table())
    _out.print(metrics_table())


app.command("verify")(verify)
app.command()(deploy.export)
app.command()(deploy.bench)
app.command()(deploy.doctor)


def main(words: list[str] | None = None) -> None:
    """Run the command line; print a user's mistake without a traceback and exit with 2."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", _RAYS)
    try:
        app(words)
    except PressError as error:
        _err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
