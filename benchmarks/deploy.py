"""Whether compressed models are small and fast where they are deployed, and whether that was foreseen.

Four parts, the first three on the ResNet-20 (the digits where its folder is absent) and on a small transformer encoder:

forms
    The same model pruned, factorised, on integers, pruned and on integers, in mixed bits, and in 4 bits that are
    entropy coded. For each, the bytes of the native and the ONNX file beside the entropy of what they hold (its
    symbols, each as likely as it is frequent in its tensor, and all else as it is), the speed-up in ONNX Runtime at
    batch 1 and 32 on one thread, and how far outputs are from the model's on validation data. Nothing is trained, so
    accuracies aren't looked at.
predicted
    Recipes drawn at random, from hardly compressed to compressed everywhere: their latency by the table of layers, and
    measured.
found
    A search for accuracy, bytes of the ONNX file and latency with short recovery training; accuracy on test images.
linear
    Two linear layers of 4 bits, of several widths: which the exporter lets compute with weights of 4 bits, because that
    is faster on this machine, and how fast the files are.

Bars
----
bytes
    The ONNX file is at most 1.10 times the native one, for every form but the entropy-coded one.
error, rank
    Of the predicted latency: the median of the absolute errors over both networks and batches at most 15 %, the rank
    correlation at least 0.9 for each of them.
fast
    A model of the front is at least 2.5 times as fast, at batch 1 or 32, within 1.5 points of the original's accuracy.
small
    A model of the front has an ONNX file of at most 0.12 of the original's, within 1 point of its accuracy, and is as
    fast as the original with all layers on integers, or faster (at batch 32, less 5 % for noise).
verified
    A fresh process reads every model of the front, and finds size, accuracy and multiply-accumulates as they were.
as they are
    Where linear layers compute with 4 bits as they are, the file is faster than the original's, at batch 1 and 32.

Run: ``python benchmarks/deploy.py [--quick] [--parts forms,...] [--minutes N] [--data DIR] [--json FILE]``; exits 1
when a bar is missed. ``--quick`` draws fewer recipes, at batch 32 only, and leaves out the search. The full run
searches ``--minutes``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from encoder import encoder
from resnet20 import DATA, resnet20
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from verdict import Bar, arguments, conclude, terminal

from paretopress.compressors.packing import pack_tensor, packed_bytes
from paretopress.evaluators.base import Subject
from paretopress.evaluators.latency import Latency
from paretopress.evaluators.onnx_session import Session
from paretopress.search import Resources, Space, Task, search
from paretopress.search.deploy.export import compared
from paretopress.search.deploy.four_bits import KIND
from paretopress.search.examples.digits import task as digits
from paretopress.search.latency_check import check_latency
from paretopress.search.profile_store import ProfileStore
from paretopress.search.sensitivity import Profiler
from paretopress.search.trial import Bench
from paretopress.spaces.recipe import Recipe, Step

PARTS = ("forms", "predicted", "found", "linear")
BATCHES = (1, 32)
SMALLER, ERROR, RANK = 1.10, 0.15, 0.9
FAST, LOST = 2.5, 0.015
SMALL, LOST_SMALL, NOISE = 0.12, 0.01, 0.95
CODED = "4 bits, coded"
SECONDS = 1.0
_DATA = "PARETOPRESS_BENCHMARK_DATA"
WIDTHS = (64, 128, 256, 768)


def networks(data: Path) -> dict[str, Task]:
    """Return the two tasks."""
    there = (data / "resnet20.safetensors").is_file()
    return {
        "ResNet-20" if there else "digits": resnet20(data, 250, 2_560, calibration=128) if there else digits(),
        "encoder": encoder(),
    }


def forms(space: Space) -> Iterator[tuple[str, Recipe]]:
    """Yield the recipes that are looked at."""
    layers = [s for s in space.sites.values() if s.kind in ("conv2d", "linear", "attention")]
    groups = [s for s in space.sites.values() if s.kind in ("group", "heads")]

    def offered(technique: str, site: str) -> bool:
        return any(o.technique == technique for d in space.decisions if d.site == site for o in d.options)

    def steps(technique: str, sites: list[Any], **params: Any) -> list[Step]:
        return [Step.of(s.name, technique, **params) for s in sites if offered(technique, s.name)]

    pruned = steps("channels", [g for g in groups if g.kind == "group"], ratio=0.5, criterion="l2", round_to=8)
    pruned += steps("channels", [g for g in groups if g.kind == "heads"], ratio=0.5)
    integers = steps("int8", layers, bits=7)
    yield "original", Recipe()
    yield "pruned", Recipe(tuple(pruned))
    yield "low rank", Recipe(tuple(steps("svd", layers, fraction=0.5)))
    yield "int8", Recipe(tuple(integers))
    yield "pruned, int8", Recipe(tuple(pruned + integers))
    mixed = [Step.of(s.site, "int8", bits=(6, 4, 3)[n % 3]) for n, s in enumerate(integers)]
    yield "mixed bits", Recipe(tuple(mixed))
    coded = steps("integer", layers, bits=4, granularity="channel")
    yield CODED, Recipe((*coded, Step.of("<model>", "entropy")))


def entropy(model: torch.nn.Module, encodings: Any) -> float:
    """Return the bytes of what a model's file holds at least: symbols by their frequency, the rest as it is."""
    held = 0.0
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        encoding = encodings.get(name)
        if name.endswith("num_batches_tracked"):
            continue
        found = encoding.codec.symbols(tensor.detach()) if encoding is not None else None
        if found is None:
            held += tensor.numel() * tensor.element_size()
            continue
        counts = np.bincount(np.asarray(found[0]).reshape(-1))
        shares = counts[counts > 0] / counts.sum()
        symbols = float(-(shares * np.log2(shares)).sum()) * counts.sum() / 8
        spec, parts = pack_tensor(tensor.detach(), encoding)
        largest = max(parts, key=lambda p: p.nbytes)  # the symbols; the others are scales and the like
        held += symbols + packed_bytes(spec, parts) - largest.nbytes
    return held


def subject_of(bench: Bench, recipe: Recipe) -> tuple[Subject, float, int]:
    """Return a recipe's model as it is read back, the entropy of what it holds, and the bytes of its file."""
    saved, draft = bench.compress(recipe, 0)
    model = bench.reload(saved, draft)
    return bench.subject(model, draft.encodings), entropy(model, draft.encodings), len(saved.data)


def play_forms(name: str, task: Task, console: Console) -> tuple[list[Bar], list[dict[str, Any]]]:
    """Print a network's forms; return its bars and rows."""
    space = Space.from_task(task, "deployed")
    bench = Bench(task, space.sites, (), ())
    rows: list[dict[str, Any]] = []
    for form, recipe in forms(space):
        subject, least, native = subject_of(bench, recipe)
        parity = compared(subject.model, Session(subject.deployed()), task.validation.first()[0], True)
        row = {"form": form, "entropy": least, "native": native, "onnx": len(subject.deployed())}
        row |= {"difference": parity.difference, "agreement": parity.agreement}
        for batch in BATCHES:
            found = Latency(batch, SECONDS).measure(subject)
            row[f"batch {batch}"] = 1 / found.value
            row[f"interval {batch}"] = [1 / x for x in reversed(found.interval or ())]
        rows.append(row)
    table = Table(title=f"{name}: files, and speed-up in ONNX Runtime on one thread", title_justify="left")
    columns = (
        "form",
        "native B",
        "/ entropy",
        "ONNX B",
        "/ native",
        "/ original",
        "batch 1",
        "batch 32",
        "difference",
        "same",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "form" else "right")
    for r in rows:
        table.add_row(
            r["form"], f"{r['native']:,}", f"{r['native'] / r['entropy']:.3f}", f"{r['onnx']:,}",
            f"{r['onnx'] / r['native']:.3f}", f"{r['onnx'] / rows[0]['onnx']:.3f}",
            *(f"{r[f'batch {b}']:.2f}x\n{r[f'interval {b}'][0]:.2f}-{r[f'interval {b}'][1]:.2f}" for b in BATCHES),
            f"{r['difference']:.1e}", f"{r['agreement']:.1%}",
        )  # fmt: skip
    console.print(table)
    ratios = [r["onnx"] / r["native"] for r in rows if r["form"] != CODED]
    return [Bar(f"{name}: ONNX / native bytes", max(ratios), most=SMALLER, over=ratios)], rows


def play_predicted(
    name: str, task: Task, batches: tuple[int, ...], recipes: int, console: Console
) -> tuple[list[float], list[Bar], dict[str, Any]]:
    """Print how good predicted latencies of a network are at some batches; return errors, bars and pairs."""
    techniques = {"depth": {}, "channels": {"criterion": "l2"}, "svd": {}, "int8": {"bits": [7, 6, 4]}}
    space = Space.from_task(task, techniques)
    errors: list[float] = []
    bars, found = [], {}
    for batch in batches:
        profiler = Profiler(task, space, ProfileStore(task, None), Latency(batch))
        assert profiler.layers is not None
        profiler.layers.lines.known.clear()  # measured now, whatever an earlier run knew
        profile = profiler.measure(100_000)
        table = check_latency(profile, profiler.layers, Bench(task, space.sites, (), ()), recipes).latency
        assert table is not None
        predicted, measured = np.array(table.checked).T
        off = (predicted / measured - 1).tolist()
        rank = float(spearmanr(predicted, measured)[0])
        errors += map(abs, off)
        found[f"{name}, batch {batch}"] = {"predicted": predicted.tolist(), "measured": measured.tolist(), "rank": rank}
        console.print(
            f"{name}, batch {batch}: {len(off)} recipes, measured {measured.min():.2f} to {measured.max():.2f} of the "
            f"original's; predictions off by {100 * statistics.median(map(abs, off)):.1f} % (median), "
            f"{100 * min(off):+.0f} to {100 * max(off):+.0f} %; rank correlation {rank:.3f}",
            highlight=False,
        )
        bars.append(Bar(f"{name}, batch {batch}: rank correlation of predicted latency", rank, least=RANK))
    return errors, bars, found


def searched() -> Task:
    """Return the task of the search, here and in the process that reads its models again."""
    data = Path(os.environ[_DATA])
    return resnet20(data, 2_500, 40_000, 2_500) if (data / "resnet20.safetensors").is_file() else digits()


def play_found(data: Path, minutes: float, console: Console) -> tuple[list[Bar], dict[str, Any]]:
    """Search the ResNet-20, print the front, and return the bars and the points."""
    os.environ[_DATA] = str(data.absolute())
    task = searched()
    techniques = {
        "depth": {}, "channels": {"criterion": "l2", "round_to": 8}, "int8": {"bits": [7, 6, 5, 4, 3]},
        "distillation": {
            "steps": [300, 1000, 2000], "learning_rate": [0.0007, 0.0015], "temperature": 4.0, "weight": 0.5,
        },
    }  # fmt: skip
    space = Space.from_task(task, techniques)
    metrics = [Latency(32, name="latency"), Latency(1, name="latency_batch1")]
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        front = search(
            task, space, ["accuracy", "onnx_size", "latency"], metrics=metrics, minutes=minutes,
            constraints=["accuracy drop <= 1%"], run=Path(folder) / "run", resources=Resources(workers=2),
        )  # fmt: skip
        again = subprocess.run(
            [sys.executable, "-m", "paretopress.search.cli", "verify", f"{folder}/run", "--task", "deploy:searched"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
    console.print((again.stdout + again.stderr).strip(), highlight=False)
    bench = Bench(task, space.sites, (), ())
    integers = next(recipe for form, recipe in forms(Space.from_task(task, "deployed")) if form == "int8")
    reference = Latency(32, SECONDS).measure(subject_of(bench, integers)[0]).value
    whole = front.baseline.value("accuracy")
    table = Table(
        "point", "accuracy lost", "ONNX, share", "batch 32", "batch 1", "flags", title="front, on test images"
    )
    rows = []
    for point in front:
        row = {
            "lost": whole - point.value("accuracy"),
            "share": point.final["onnx_size"].value / front.baseline.final["onnx_size"].value,
            "batch 32": 1 / point.value("latency"), "batch 1": 1 / point.value("latency_batch1"),
        }  # fmt: skip
        rows.append(row)
        speeds = (f"{row['batch 32']:.2f}x", f"{row['batch 1']:.2f}x")
        table.add_row(str(point.id), f"{row['lost']:+.4f}", f"{row['share']:.3f}", *speeds, "; ".join(point.flags))
    console.print(table)
    console.print(f"all layers on integers, batch 32: {1 / reference:.2f}x", highlight=False)
    good = [max(r["batch 1"], r["batch 32"]) for r in rows if r["lost"] <= LOST]
    small = [r["share"] for r in rows if r["lost"] <= LOST_SMALL and r["batch 32"] >= NOISE / reference]
    bars = [
        Bar("speed-up within 1.5 points", max(good, default=float("nan")), least=FAST),
        Bar("share of the original's file within 1 point, at int8 speed", min(small, default=float("nan")), most=SMALL),
        Bar("exit status of paretopress verify, in a fresh process", again.returncode, most=0),
    ]
    return bars, {"points": rows, "int8": 1 / reference, "trials": len(front.results)}


def play_linear(console: Console) -> tuple[list[Bar], list[dict[str, Any]]]:
    """Print how fast linear layers of 4 bits are; return the bar, if there is any to judge, and the rows."""
    table, rows = Table("width", "as they are", "ONNX, share", "batch 1", "batch 32", title="linear layers, 4 bits"), []
    for width in WIDTHS:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(width, 4 * width), torch.nn.ReLU(), torch.nn.Linear(4 * width, width)
        )
        task = Task(model, [(torch.randn(64, width), torch.zeros(64, dtype=torch.long))])
        bench = Bench(task, Space.from_task(task).sites, (), ())
        shared = {"bits": 4, "granularity": "group", "group": 32}
        subject, _, _ = subject_of(bench, Recipe.of([Step.of(layer, "integer", **shared) for layer in ("0", "2")]))
        kept = sum(node.op_type == KIND for node in onnx.load_from_string(subject.deployed()).graph.node)
        share = len(subject.deployed()) / len(subject.deployed_baseline())
        speeds = [1 / Latency(batch, SECONDS).measure(subject).value for batch in BATCHES]
        rows.append({"width": width, "kept": kept, "share": share, "speeds": speeds})
        table.add_row(f"{width:,}", f"{kept} of 2", f"{share:.3f}", *(f"{speed:.2f}x" for speed in speeds))
    console.print(table)
    judged = [speed for row in rows if row["kept"] for speed in row["speeds"]]
    return [Bar("linear layers of 4 bits as they are", min(judged), least=1.0, over=judged)] if judged else [], rows


def main() -> int:
    """Run, print, judge."""
    parser = arguments(__doc__, quick="fewer recipes, of one batch, and no search", parts=PARTS)
    parser.add_argument("--minutes", type=float, default=60, help="of the search")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, bars, found = terminal(), [], {}
    parts = options.parts
    tasks = networks(options.data) if {"forms", "predicted"} & set(parts) else {}
    if "forms" in parts:
        for name, task in tasks.items():
            more, found[f"forms, {name}"] = play_forms(name, task, console)
            bars += more
    if "predicted" in parts:
        errors: list[float] = []
        extent = (BATCHES[-1:], 6) if options.quick else (BATCHES, 32)
        for name, task in tasks.items():
            own, more, pairs = play_predicted(name, task, *extent, console)
            errors, bars, found = errors + own, bars + more, found | pairs
        bars.append(Bar("error of predicted latency, median", statistics.median(errors), most=ERROR, form=".1%"))
    if "found" in parts and not options.quick:
        more, found["found"] = play_found(options.data, options.minutes, console)
        bars += more
    if "linear" in parts:
        more, found["linear"] = play_linear(console)
        bars += more
    return conclude(bars, options, found)


if __name__ == "__main__":
    sys.exit(main())
