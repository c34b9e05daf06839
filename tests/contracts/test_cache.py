"""What every technique must do with a cache: nothing that it wouldn't do without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paretopress.compressors import fingerprint
from paretopress.compressors.base import LayerCompressor, NumericCompressor, apply_step
from paretopress.compressors.cache import LayerCache
from paretopress.compressors.draft import Draft
from paretopress.compressors.packing import pack_tensor
from paretopress.search.layers import ModuleForm
from paretopress.spaces.recipe import Step

Case = Any  # a technique at a site of a model, from conftest.py, which can't be imported
#: Techniques whose results are kept by their own call of `recall`.
CALLING = {"magnitude"}

#: Applies a step to weights made from a seed, with the cache of the environment, and prints what came out.
FRESH = """
import hashlib, json, sys, torch
from torch import nn
from paretopress.compressors.cache import LayerCache
from paretopress.compressors.draft import Context, Draft
from paretopress.compressors.base import apply_step
from paretopress.compressors.packing import pack_tensor
from paretopress.search.layers import ModuleForm
from paretopress.spaces.catalogue import techniques
from paretopress.spaces.recipe import Step
from paretopress.spaces.sites import find_sites
from paretopress.spaces.task import Task
from paretopress.compressors import fingerprint
fingerprint._STARTED = float("inf")
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 12))
task = Task(model, [(torch.randn(4, 3, 6, 6), torch.arange(4))])
sites = {s.name: s for s in find_sites(task.model, task.example)[0]}
cache = LayerCache(worth=0, modules=ModuleForm())
context, state = Context(task, sites, 0, cache), hashlib.sha256()
for name, params in (("magnitude", {"density": 0.5}), ("svd", {"fraction": 0.5}), ("codebook", {"bits": 3}),
                     ("integer", {"bits": 3, "granularity": "group", "group": 32})):
    draft = Draft.of(task.model)
    for site in ("0", "3"):
        apply_step(techniques()[name], draft, Step.of(site, name, **params), context)
    for key, tensor in draft.model.named_parameters():
        spec, parts = pack_tensor(tensor.detach(), draft.encoding(key), cache)
        state.update(key.encode() + json.dumps(spec).encode() + b"".join(p.tobytes() for p in parts))
print(json.dumps([cache.hits, cache.misses, state.hexdigest()]))
"""


@pytest.fixture(autouse=True)
def _unedited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the source for the code that runs, also while somebody edits it."""
    monkeypatch.setattr(fingerprint, "_STARTED", float("inf"))
    fingerprint.fingerprint.cache_clear()


def everything(draft: Draft) -> list[Any]:
    """Return all that a draft is: modules, tensors, encodings and what files would hold."""
    found: list[Any] = [(path, type(module), module.extra_repr()) for path, module in draft.model.named_modules()]
    for name, tensor in (*draft.model.named_parameters(), *draft.model.named_buffers()):
        found.append((name, tensor.requires_grad, tensor.dtype, tensor.stride(), tensor.detach().numpy().tobytes()))
    for name, encoding in sorted(draft.encodings.items()):
        spec, parts = pack_tensor(draft.parameter(name).detach(), encoding)
        mask = None if encoding.mask is None else encoding.mask.numpy().tobytes()
        found.append((name, type(encoding.codec), json.dumps(spec), [p.tobytes() for p in parts], mask, encoding.coder))
    return found


@pytest.mark.parametrize("end", ["gentlest", "strongest"])
def test_a_cached_result_is_the_computed_one(case: Case, end: str, tmp_path: Path) -> None:
    """Computed, from memory, or from disk: the same draft bit for bit, after changes in place too."""
    step = Step.of(case.where, case.name, **case.params(end))

    def applied(cache: LayerCache) -> Draft:
        draft = Draft.of(case.context.task.model)
        apply_step(case.technique, draft, step, replace(case.context, cache=cache))
        return draft

    expected, cache = everything(applied(LayerCache.none())), LayerCache(str(tmp_path), worth=0, modules=ModuleForm())
    for kept in (cache, cache, LayerCache(str(tmp_path), worth=0, memory=0, modules=ModuleForm())):
        draft = applied(kept)
        assert everything(draft) == expected
        with torch.no_grad():  # as training would
            for tensor in draft.model.parameters():
                tensor.add_(1)
            for encoding in draft.encodings.values():
                for value in (encoding.mask, *vars(encoding.codec).values()):
                    if isinstance(value, torch.Tensor):
                        value.zero_()
    by_itself = isinstance(case.technique, NumericCompressor | LayerCompressor) or case.name in CALLING
    if by_itself and end == "strongest":
        assert kept.hits > 0
        assert kept.misses == 0


def test_a_fresh_process_finds_them_bit_for_bit(tmp_path: Path) -> None:
    """Workers and later runs get what another process computed, and it is what they would have computed."""

    def run(setting: str) -> list[Any]:
        environ = {**os.environ, "PARETOPRESS_CACHE": setting}
        out = subprocess.run([sys.executable, "-c", FRESH], env=environ, capture_output=True, text=True, check=True)
        return list(json.loads(out.stdout))

    computed, cold, warm = run("off"), run(str(tmp_path)), run(str(tmp_path))
    assert computed[2] == cold[2] == warm[2]
    assert warm[1] == 0
    assert warm[0] == cold[0] + cold[1] > 8
