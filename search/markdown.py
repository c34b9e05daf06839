"""Text of unknown origin inside Markdown: it is shown as it is, and never taken for markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What may mean something to some reader of Markdown, HTML and formulae among it; inside words, underlines don't.
_SPECIAL = re.compile(r"[\\`*\[<>|~&#$]|(?<![^\W_])_|_(?![^\W_])")


def text(value: str) -> str:
    """Return text as one line whose special characters are written as entities."""
    line = " ".join(value.split())
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


def code(value: str) -> str:
    """Return a name in the letters of code, or as plain text where it has characters that end code or a cell."""
    line = " ".join(value.split())
    return f"`{line}`" if line and not re.search(r"[`|\\]", line) else text(line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table.

    Parameters
    ----------
    head, rows
        Cells in Markdown, e.g. of `text` and `code`; every row has as many as the head.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
