"""The shape of the code base: who may import whom, how long a file is, what it must say of itself."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Room -> the rooms that it may import.
ARROWS = {
    "spaces": {"spaces"},
    "compressors": {"spaces", "compressors"},
    "evaluators": {"spaces", "evaluators"},
    "search": {"spaces", "compressors", "evaluators", "search"},
}
SOURCES = sorted(path for room in ARROWS for path in (ROOT / room).rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
#: Library -> the files that import it.
OWNERS = {
    "optuna": {f"search/{file}.py" for file in ("optuna_samplers", "drop_in", "study_record", "database")},
    "ray": {f"search/ray_{part}.py" for part in ("cluster", "executor", "pool", "shipping", "worker")},
}
LONGEST = 400
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def name_of(path: Path) -> str:
    """Return a file's path for messages and test ids."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, at any depth: as ``room.module`` within the project, else by absolute name."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                # `from . import container` names a module, `from .container import write` something in one.
                deeper = ROOT.joinpath(*module, f"{alias.name}.py")
                yield ".".join([*module, alias.name] if node.level and deeper.exists() else module)


def file_of(module: str) -> Path | None:
    """Return the file of a module within the project, or None for others."""
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((c for c in candidates if c.exists()), None)


def is_technique(path: Path) -> bool:
    """Say whether a file in ``compressors`` registers a technique at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = (node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "register" for call in calls)


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and text of every comment in a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_the_checks_see_the_code() -> None:
    """The other tests of this file would pass on an empty folder: make sure that they have something to read."""
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ARROWS)
    assert "spaces.knob" in set(imports(ROOT / "spaces/space.py"))
    assert "spaces.recipe" in set(imports(ROOT / "search/engine.py"))
    assert "search.container" in set(imports(ROOT / "search/artifact.py"))
    assert sum(is_technique(path) for path in (ROOT / "compressors").rglob("*.py")) >= 3


def test_imports_point_one_way() -> None:
    """Spaces know nothing of the other rooms, compressors and evaluators nothing of each other."""
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in SOURCES
        for module in imports(path)
        if module.split(".")[0] in ARROWS.keys() - ARROWS[path.relative_to(ROOT).parts[0]]
    ]
    assert not wrong


def test_imports_within_the_project_are_relative() -> None:
    """An absolute import of ourselves would bypass the arrows and break a copy under another name."""
    absolute = [name_of(path) for path in SOURCES if "paretopress" in {m.split(".")[0] for m in imports(path)}]
    assert not absolute


def test_technique_imports_no_sibling() -> None:
    """A technique is one file: it can be read, changed and deleted without looking at another."""
    techniques = [path for path in (ROOT / "compressors").rglob("*.py") if is_technique(path)]
    siblings = [
        f"{name_of(path)} imports {module}"
        for path in techniques
        for module in imports(path)
        if file_of(module) in techniques
    ]
    assert not siblings


@pytest.mark.parametrize("library", OWNERS)
def test_library_has_its_owners(library: str) -> None:
    """The sampler's library and the cluster's stay replaceable: only the files that are about them know them."""
    users = {name_of(path) for path in SOURCES if library in {m.split(".")[0] for m in imports(path)}}
    assert users == OWNERS[library]


def test_files_are_short() -> None:
    """A file that needs scrolling for minutes holds two ideas: it is split before 400 lines."""
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}


def test_modules_say_what_they_are_for() -> None:
    """Every module with code in it begins with a docstring."""
    trees = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in ALL}
    assert not [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)]


def test_no_module_is_a_drawer() -> None:
    """A name like ``utils`` says where things were put, not what they are."""
    parts = {name_of(path): set(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
    assert not [name for name, words in parts.items() if words & VAGUE]


def test_suppressed_warnings_give_their_reason() -> None:
    """A ``noqa`` or ``type: ignore`` names its code and then says why, on the same line."""
    reasoned = re.compile(r"#\s*(noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\])\s*[-–#(]+\s*\w+")
    bare = [
        f"{name_of(path)}:{line} {comment}"
        for path in ALL
        for line, comment in comments(path)
        if re.search(r"noqa|type:\s*ignore", comment) and not reasoned.search(comment)
    ]
    assert not bare
