"""For all tests."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

# The models here are tiny: threads only make them wait for each other, the more so on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results of an earlier test run, or of another version of the code, must not reach this one.
os.environ["PARETOPRESS_CACHE"] = "off"
# Nor may the tests leave anything in the home of who runs them; processes that they start share this one.
_HOME = tempfile.TemporaryDirectory(prefix="tests-of-paretopress-")
os.environ["XDG_CONFIG_HOME"] = _HOME.name

#: Files that take minutes begin first, so that processes which share the tests end together.
LONG = ("faults/", "readme", "test_ray_executor", "test_search.py", "test_cli", "test_profile_command", "test_plans")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if name in item.path.as_posix()), len(LONG)))
