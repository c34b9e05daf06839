"""``paretopress export``, ``bench`` and ``doctor``: models as files for other runtimes, and how fast they are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ...spaces.errors import ArtifactError, RunError, SettingError
from ...spaces.task import Task
from .. import config as settings
from ..artifact import NEEDS, locate
from ..front import Front
from ..kept_settings import read_kept
from ..saved import load_front

_out = Console(highlight=False, width=None if sys.stdout.isatty() else 130)


def export(
    folder: Annotated[Path, typer.Argument(help="The run folder, e.g. runs/digits.")],
    point: Annotated[str, typer.Option(help="A point of the front by its number, or 'baseline' for the original.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; by default beside the model.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
    format: Annotated[  # noqa: A002 - as users know it
        Literal["onnx", "torch"], typer.Option(help="onnx: small and fast; torch: a program of torch.export, dense.")
    ] = "onnx",
    task: Annotated[
        str | None,
        typer.Option(help="module:function that builds the task, where a model needs its class."),
    ] = None,
) -> None:
    """Write a model of the front as a file that runs without paretopress, and check its outputs."""
    from .export import ENDINGS  # noqa: PLC0415 - the exporter takes seconds to import
    from .export import export as export_file  # noqa: PLC0415 - as above

    front, _ = load_front(folder)
    source = _source(front, point)
    target = out if out is not None else source / f"model{ENDINGS[format]}"
    own, remark = _task(folder, task)
    inputs: tuple[Tensor, ...] = own.validation.first()[0] if own is not None else ()
    model = own.model if own is not None else None
    try:
        found = export_file(source, target, format, model=model, inputs=inputs, overwrite=overwrite or out is None)
    except ArtifactError as error:
        if own is not None or NEEDS not in str(error):
            raise
        raise ArtifactError(f"{error} Here: --task module:function, which returns the run's Task.") from error
    _out.print(f"{found.path}: {found.bytes:,} bytes (model.safetensors: {found.native_bytes:,})", soft_wrap=True)
    _out.print(f"· {found.parity}{remark}", soft_wrap=True)
    if not found.parity.close:
        _out.print("! these are not the model's outputs: the file is of no use here", style="red", soft_wrap=True)
        raise typer.Exit(1)
    if format == "onnx":
        _out.print(f"· how fast it is: paretopress bench {found.path} --against ORIGINAL.onnx", soft_wrap=True)


def _source(front: Front, point: str) -> Path:
    """Return the folder of a point's model."""
    place = front.named(point).path
    if place is None:
        raise RunError(f"point {point}: this run kept no files.")
    locate(place)
    return place


def _task(folder: Path, named: str | None) -> tuple[Task | None, str]:
    """Return the task that is named, or the run's if this user started it from a file, and else what to say of that."""
    if named is not None:
        return settings.check({"task": named}, "command line").build_task(Path.cwd()), ""
    try:
        kept = read_kept(folder)
    except RunError:
        return None, ""
    if not kept.own:
        return None, "; somebody else started the run, so its task was not imported"
    return kept.config.build_task(kept.origin), ""


def doctor(
    file: Annotated[Path, typer.Argument(help="A run's YAML file.")],
) -> None:
    """Try, before a search, what its model can become: whether it can be traced, exported, and run on integers here."""
    from .doctor import examine  # noqa: PLC0415 - the exporter takes seconds to import

    chosen = settings.read_yaml(file)
    task = chosen.build_task(file.resolve().parent)
    for finding in examine(task, chosen.asked(task)):
        style = {"yes": "green", "partly": "yellow", "no": "red"}[finding.verdict]
        _out.print(f"[{style}]{finding.verdict:>6}[/{style}]  {finding.what}")
        for detail in finding.details:
            _out.print(f"        · {detail}", soft_wrap=True, markup=False)
    for note in chosen.build_space(task).notes:
        _out.print(f"  note  {note}", soft_wrap=True, markup=False)


def bench(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    against: Annotated[Path, typer.Option(help="The ONNX file of the original.")],
    batch: Annotated[
        list[int] | None, typer.Option(help="Examples in a pass; may be repeated.  [default: 1, 32]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads; with one, processor time is what counts.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="To spend on each batch; more where it is noisy.")] = 2.0,
) -> None:
    """Time an ONNX file beside another, in turns, in ONNX Runtime on this machine."""
    from ...evaluators.onnx_session import Session, compare  # noqa: PLC0415 - no other command needs the runtime

    candidate, baseline = Session(model, threads), Session(against, threads)
    table = Table("batch", "ms", "ms, original", "speed-up", "95 % interval", "")
    for size in batch or ([1, 32] if candidate.batched and baseline.batched else [1]):
        if size < 1:
            raise SettingError("batch", size, "must be at least 1")
        found = compare(candidate, baseline, size, seconds, threads)
        table.add_row(
            str(size), f"{found.milliseconds:.3g}", f"{found.baseline_milliseconds:.3g}", f"{1 / found.ratio:.2f}x",
            f"{1 / found.high:.2f}-{1 / found.low:.2f}", found.doubts,
        )  # fmt: skip
    _out.print(table)
    mine, theirs = model.stat().st_size, against.stat().st_size
    clock = "processor time on one thread" if threads == 1 else f"elapsed time on {threads} threads"
    _out.print(f"· {clock}; {mine:,} bytes are {mine / theirs:.3f} of the original's {theirs:,}", soft_wrap=True)
    if not (candidate.batched and baseline.batched):
        _out.print("· the files take no batches of any size: they were timed as they are")
    _out.print(f"· loading takes {candidate.load_seconds:.2f} s, the original's {baseline.load_seconds:.2f} s")
