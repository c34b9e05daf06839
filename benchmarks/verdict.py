"""How every benchmark ends: its bars held against its figures, a table, a file for machines, an exit code.

options = arguments(__doc__, quick="two seeds").parse_args()
...
return conclude([Bar("work saved", median(saved), least=2.0, over=saved)], options, {"seconds": 12.3})
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: Of tables that go to a file, in characters.
WIDTH = 140


@dataclass(frozen=True)
class Bar:
    """A figure, and what it must reach.

    Attributes
    ----------
    name
        Of the figure, with its unit.
    value
        What was measured. NaN misses every bar.
    least, most
        The value must be at least and at most so much. One of them is enough.
    over
        The single runs' values where ``value`` is their median, worst or sum: their range is shown.
    form
        How numbers are written, a format specification.
    why
        Why the bar can't be reached, if that is known: shown where it is missed.
    """

    name: str
    value: float
    least: float = -math.inf
    most: float = math.inf
    over: Sequence[float] = ()
    form: str = ".4g"
    why: str = ""

    def __post_init__(self) -> None:
        if self.least == -math.inf and self.most == math.inf:
            raise ValueError(f"bar {self.name!r} needs least or most")

    @property
    def met(self) -> bool:
        """Whether the value is where it must be."""
        return self.least <= self.value <= self.most

    @property
    def shown(self) -> str:
        """The value, and the range of the runs."""
        value = f"{self.value:{self.form}}"
        return f"{value} ({span(self.over, self.form)})" if self.over else value

    @property
    def needed(self) -> str:
        """The bar, in words."""
        ends = ((">=", self.least), ("<=", self.most))
        return ", ".join(f"{sign} {end:{self.form}}" for sign, end in ends if math.isfinite(end))

    def to_json(self) -> dict[str, Any]:
        """Return the bar and whether it was met."""
        ends = {"least": self.least, "most": self.most}
        limits = {name: end for name, end in ends.items() if math.isfinite(end)}
        return {
            "bar": self.name,
            "value": self.value,
            **limits,
            "over": list(self.over),
            "met": self.met,
            "why": self.why,
        }


def span(values: Sequence[float], form: str = ".4g") -> str:
    """Return the least and the largest value in words."""
    return f"{min(values):{form}} to {max(values):{form}}"


def arguments(doc: str | None, quick: str, parts: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser that knows ``--quick`` and ``--json``; a benchmark adds what only it takes.

    Parameters
    ----------
    doc
        The benchmark's docstring, shown by ``--help``.
    quick
        What ``--quick`` leaves out.
    parts
        That can be run alone, by ``--parts``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{quick}; under five minutes in all")
    parser.add_argument("--json", type=Path, help="also write bars and figures to this file")
    if parts:

        def some(text: str) -> list[str]:
            if strange := set(text.split(",")) - {*parts}:
                raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(strange))}, but {', '.join(parts)}")
            return text.split(",")

        parser.add_argument("--parts", type=some, default=[*parts], help=f"some of {','.join(parts)}")
    return parser


def terminal() -> Console:
    """Return where tables are printed: where no terminal says how wide it is, as wide as the widest of them."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDTH)


def conclude(bars: Sequence[Bar], options: argparse.Namespace, figures: Mapping[str, Any] | None = None) -> int:
    """Print the bars, write the file that ``--json`` names, and return the exit code: 1 if a bar is missed.

    Parameters
    ----------
    bars
        At least one.
    options
        What `arguments` parsed.
    figures
        For the file. Those that are single numbers are printed too.
    """
    if not bars:
        raise ValueError("a benchmark needs at least one bar")
    figures = dict(figures or {})
    numbers = {name: x for name, x in figures.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    console = terminal()
    if numbers:
        measured = Table("figure", "value")
        for name, number in numbers.items():
            measured.add_row(name.replace("_", " "), f"{number:.4g}")
        console.print(measured)
    verdict = Table("bar", "value", "needed", "")
    for bar in bars:
        verdict.add_row(bar.name, bar.shown, bar.needed, "met" if bar.met else "MISSED")
    console.print(verdict)
    for bar in bars:
        if bar.why and not bar.met:
            console.print(f"{bar.name}: {bar.why}", highlight=False)
    if options.quick:
        console.print("These are the figures of --quick; the bars are meant for the full run.")
    if options.json:
        document = {"quick": options.quick, "bars": [bar.to_json() for bar in bars], "figures": figures}
        options.json.write_text(json.dumps(document, indent=1))
    return 0 if all(bar.met for bar in bars) else 1
