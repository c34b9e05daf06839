"""The configurations of docs/scaling.md, as far as they can be checked without the systems that they are for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretopress.search.config import Config, check

TEXT = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return [code for name, code in BLOCKS if name == language]


@pytest.mark.parametrize("code", blocks("bash"))
def test_scripts_are_whole(code: str) -> None:
    """The shell reads every script to its end."""
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)


def test_a_rayjob_is_whole() -> None:
    """Head and workers share one pod, which mounts the volume that the search writes into, and every key is known."""
    [job] = [d for d in map(yaml.safe_load, blocks("yaml")) if d.get("kind") == "RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert job["spec"].keys() == {"entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec"}
    cluster: dict[str, Any] = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["template"] == head["template"]
    pod = head["template"]["spec"]
    [container], [volume] = pod["containers"], pod["volumes"]
    [mount] = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    command, action, place = job["spec"]["entrypoint"].split()
    assert (command, action) == ("paretopress", "search")
    assert place.startswith(mount["mountPath"] + "/")


def test_settings_are_settings() -> None:
    """What the page says to write into a run's file is accepted there."""
    own = [d for d in map(yaml.safe_load, blocks("yaml")) if "kind" not in d]
    assert own
    for data in own:
        assert data.keys() <= Config.model_fields.keys()
        check({"task": "module:function", **data}, "docs/scaling.md")
