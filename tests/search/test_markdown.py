"""Names of unknown origin stay what they are in Markdown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from paretopress.search.markdown import code, table, text

READER = MarkdownIt("commonmark").enable("table").enable("strikethrough")
NASTY = [
    "a|b", "c`d", "``", "<model>", "<script>", "x_y", "_x_", "*x*", "back\\|slash", "&amp;", "# x", "[a](b)", "~~x~~",
]  # fmt: skip


def shown(inline: Token) -> str:
    """Return what a reader sees of a paragraph or a cell."""
    return "".join(child.content for child in inline.children or ())


def cells(markdown: str) -> list[list[str]]:
    """Return what a reader sees of a table."""
    rows: list[list[str]] = []
    for token in READER.parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(shown(token))
    return rows


@pytest.mark.parametrize("write", [text, code])
@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_shown_as_it_is(name: str, write: Callable[[str], str]) -> None:
    """Pipes, backticks, tags and underlines of a module's name are letters, in a sentence and in a cell."""
    [inline] = [token for token in READER.parse(f"- x {write(name)} y") if token.type == "inline"]
    assert shown(inline) == f"x {name} y"
    assert cells(table(["a", "b"], [[write(name), "1"], ["2", write(name)]])) == [["a", "b"], [name, "1"], ["2", name]]


@given(st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8), min_size=2, max_size=2))
def test_any_text_keeps_the_table_in_shape(names: list[str]) -> None:
    """Whatever a cell holds, it ends no cell, no row and no table."""
    rows = cells(table(["a", "b"], [list(map(code, names)), list(map(text, names))]))
    assert [len(row) for row in rows] == [2, 2, 2]
    assert rows[2] == [" ".join(name.split()) for name in names]


def test_ordinary_names_stay_readable() -> None:
    """Without a reader of Markdown, too: a module path is no riddle of entities."""
    assert code("layer1.0.conv_1") == "`layer1.0.conv_1`"
    assert text("x86_64, 2.5 GHz (0.5-1.5)") == "x86_64, 2.5 GHz (0.5-1.5)"
