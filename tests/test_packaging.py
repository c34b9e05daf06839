"""What a user installs: the wheel holds every file of the four packages and works without the repository."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("spaces", "compressors", "evaluators", "search")
LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", "build", "dist", "runs", "tests", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
)


def name_of(requirement: str) -> str:
    """Return the normalised name of the distribution in a requirement."""
    return re.split(r"[<>=!~\[ ]", requirement)[0].lower().replace("_", "-")


def shipped() -> set[str]:
    """Return every file of the four packages, under the name that it has in the wheel."""
    files = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file())
    return {f"paretopress/{f.relative_to(ROOT).as_posix()}" for f in files if f.parent.name != "__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tree, so that nothing of the build is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist")]
    done = subprocess.run([*command, str(folder / "source")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [built] = (folder / "dist").glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """A package or asset missing from the build's lists is silently absent: compare with what is on disk."""
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == shipped()
    assert {f"paretopress/{room}/py.typed" for room in ROOMS} <= inside


def test_wheel_installs_one_top_level_name(wheel: Path) -> None:
    """Folders called ``search`` or ``spaces`` must not land in site-packages, where they would shadow others."""
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"paretopress"}


def test_wheel_carries_its_licence_and_command(wheel: Path) -> None:
    """The licence travels with the code, and installing gives the command and both groups of entry points."""
    archive = zipfile.ZipFile(wheel)
    texts = {
        name.split(".dist-info/")[1]: archive.read(name).decode() for name in archive.namelist() if "-info/" in name
    }
    assert "Apache License" in texts["licenses/LICENSE"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    points = texts["entry_points.txt"]
    for line in ("paretopress = paretopress.search.cli:main", "[paretopress.techniques]", "[paretopress.evaluators]"):
        assert line in points


PROGRAM = """
import importlib, pkgutil, sys
names = ["paretopress." + room for room in ("spaces", "compressors", "evaluators", "search")]
for name in names:
    module = importlib.import_module(name)
    assert module.__file__.startswith(sys.argv[1]), f"{name} comes from {module.__file__}"
    names += [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()), name + ".")]
print(len(names))
"""


def test_installed_wheel_imports_outside_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Every module can be imported from an installed copy alone: nothing relies on the repository's files."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(target)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == sum(name.endswith(".py") for name in shipped())


def test_every_imported_library_is_declared() -> None:
    """A library that happens to be installed along with another would be missing once that one drops it; those of an
    extra are imported where they are asked for.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra != "dev"]
    declared = set(map(name_of, [*project["dependencies"], *chain.from_iterable(extras)]))
    distributions = packages_distributions()
    undeclared: dict[str, str] = {}
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names):
                if not declared & set(map(name_of, distributions.get(top, []))):
                    undeclared[top] = path.relative_to(ROOT).as_posix()
    assert not undeclared


def test_constraints_pin_every_dependency() -> None:
    """A fresh set-up gets tested versions: each declared dependency, torch above all, has one exact pin."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name_of(line): line.split("==")[1] for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert not set(map(name_of, wanted)) - pins.keys()
    assert re.fullmatch(r"\d+\.\d+\.\d+", pins["torch"]), "a local suffix such as +cpu is on no public index"
