"""The cache of layer results: found by content, bounded, private copies, and silent when it can't."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from paretopress.compressors import cache as module
from paretopress.compressors import fingerprint
from paretopress.compressors.base import Compressor, NumericCompressor, Params
from paretopress.compressors.cache import VARIABLE, LayerCache
from paretopress.compressors.coding.entropy import AnsCoder
from paretopress.compressors.draft import Context
from paretopress.compressors.encoding import Codec, Encoding, Float32
from paretopress.compressors.forms import PlainForm
from paretopress.compressors.packing import pack_tensor
from paretopress.compressors.quantization.integer import Integer
from paretopress.spaces.catalogue import DataNeed
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.stage import Stage
from paretopress.spaces.task import Task

PLAIN: PlainForm[Any] = PlainForm()


@pytest.fixture(autouse=True)
def _unedited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the source for the code that runs, also while somebody edits it."""
    monkeypatch.setattr(fingerprint, "_STARTED", math.inf)
    fingerprint.fingerprint.cache_clear()
    fingerprint._source.cache_clear()
    yield
    fingerprint.fingerprint.cache_clear()


class Counted:
    """Counts how often it computes."""

    def __init__(self, value: Callable[[], Any] = lambda: torch.ones(3)) -> None:
        self.calls, self.value = 0, value

    def __call__(self, *_: object) -> Any:
        self.calls += 1
        return self.value()


def ask(
    cache: LayerCache, make: Callable[[], Any], settings: Any = "s", content: Any = (), code: type = Integer
) -> Any:
    """Look something up."""
    return cache.recall((code,), settings, content, make, PLAIN)


def new(folder: Path | str, **settings: Any) -> LayerCache:
    """Return a cache that keeps everything."""
    return LayerCache(str(folder), worth=0, **settings)


# --- found or not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"memory": 0}, {"disk": 0}, {}])
def test_a_result_is_computed_once(tmp_path: Path, settings: dict[str, int]) -> None:
    """From memory, from disk, or both; and hits and misses are counted."""
    make, cache = Counted(), new(tmp_path, **settings)
    values = [ask(cache, make) for _ in range(3)]
    assert all(torch.equal(value, torch.ones(3)) for value in values)
    assert (make.calls, cache.hits, cache.misses) == (1, 2, 1)
    assert cache.taken() == {"hits": 2, "misses": 1}
    assert cache.taken() == {"hits": 0, "misses": 0}


def test_another_cache_on_the_folder_finds_it(tmp_path: Path) -> None:
    """Workers and later runs share the disk."""
    make = Counted()
    for _ in range(2):
        ask(new(tmp_path), make)
    assert make.calls == 1
    assert (tmp_path / "layers").is_dir()


def test_everything_that_matters_is_in_the_key(tmp_path: Path) -> None:
    """One changed bit, shape, type, parameter, class or thread is another result."""
    weight = torch.zeros(2, 6)
    changed, threads = weight.clone(), torch.get_num_threads()
    changed[1, 5] = -0.0
    contents: list[Any] = [
        (), (None,), (weight,), (changed,), (weight.reshape(3, 4),), (weight.int(),), (weight, None), (None, weight),
        (weight[:1], weight[1:]), (weight.numpy().astype("f2"),),
    ]  # fmt: skip
    cases: list[tuple[Any, Any, type]] = [("s", content, Integer) for content in contents]
    cases += [(settings, (), Integer) for settings in ("t", 1, 1.0, True, None, {"bits": 2}, {"bits": 3}, ["s"])]
    cases += [("s", (), Float32)]
    cache = new(tmp_path)
    for number, (settings, content, code) in enumerate(cases):
        ask(cache, Counted(lambda number=number: number), settings, content, code)
    assert cache.misses == len(cases)
    torch.set_num_threads(threads + 1)
    try:
        ask(cache, Counted())
    finally:
        torch.set_num_threads(threads)
    assert cache.hits == 0
    for number, (settings, content, code) in enumerate(cases):
        assert ask(cache, Counted(), settings, content, code) == number


def test_changes_in_place_reach_no_one(tmp_path: Path) -> None:
    """Recovery training writes into weights, masks and centroids; the next trial must get the original ones."""
    for cache in (new(tmp_path / "a"), new(tmp_path / "b", memory=0), new("off")):
        for _ in range(3):
            value = ask(cache, lambda: torch.zeros(4))
            assert torch.equal(value, torch.zeros(4))
            value += 1


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, torch.zeros(2, 3).T, nn.Linear(1, 1)], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_stored_is_computed(tmp_path: Path, value: object) -> None:
    """A newcomer's technique is right in any case, only not faster."""
    make, cache = Counted(lambda: value), new(tmp_path)
    assert all(ask(cache, make) is value for _ in range(3))
    assert make.calls == 3


def test_content_that_cannot_be_compared_is_computed(tmp_path: Path) -> None:
    """Settings that are no JSON, and tensors in another order in memory."""
    make, cache = Counted(), new(tmp_path)
    for settings, content in ((object(), ()), ("s", (torch.zeros(2, 3).T,)), ("s", (torch.zeros(1, device="meta"),))):
        ask(cache, make, settings, content)
        ask(cache, make, settings, content)
    assert (make.calls, cache.hits, cache.misses) == (6, 0, 0)


def test_a_failure_is_the_callers(tmp_path: Path) -> None:
    """What computing raises fails the trial as before, and isn't kept."""
    cache = new(tmp_path)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ask(cache, lambda: 1 / 0)
    assert ask(cache, lambda: 7) == 7


# --- bounds, damage, places -----------------------------------------------------------------------------


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    """A worker's memory belongs to its trial."""
    cache = new("off", memory=1 << 16)
    make = Counted(lambda: torch.zeros(1000))
    for number in range(100):
        ask(cache, make, number)
        ask(cache, make, 0)
    assert make.calls == 100
    assert cache._bytes == sum(entry.size for entry in cache._kept.values()) <= 1 << 16
    ask(cache, make, 99)
    ask(cache, make, 50)
    assert make.calls == 101
    ask(cache, Counted(lambda: torch.zeros(10_000)), "too large")
    assert cache._bytes == sum(entry.size for entry in cache._kept.values()) <= 1 << 16


def test_a_damaged_file_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    """A crash, a full disk or a curious user must not become a wrong weight or an error."""
    make = Counted()
    ask(new(tmp_path), make)
    [file] = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"\x80\x04pickle"):
        file.write_bytes(damaged)
        calls = make.calls
        assert torch.equal(ask(new(tmp_path), make), torch.ones(3))
        assert make.calls == calls + 1
        assert file.read_bytes() == whole


def test_quick_results_are_not_kept_and_soon_not_looked_up(tmp_path: Path) -> None:
    """Digesting weights and writing files must cost less than they save."""
    make, cache = Counted(), LayerCache(str(tmp_path), worth=3600)
    for number in range(10):
        ask(cache, make, number, (torch.zeros(8),))
    assert (make.calls, cache.misses, len(cache._kept)) == (10, 3, 0)
    ask(cache, make, 0, (torch.zeros(8000),))
    assert cache.misses == 4  # larger weights may take longer
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable names a folder or switches the disk off; the default is the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    for variable, folder in (("named", "named/layers"), (None, "xdg/paretopress/layers")):
        if variable is None:
            monkeypatch.delenv(VARIABLE)
        ask(LayerCache(worth=0), Counted())
        assert list((tmp_path / folder).rglob("*.safetensors"))
    monkeypatch.setenv(VARIABLE, "off")
    cache = LayerCache()
    assert cache.active
    assert cache._shelf is None
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(module.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("nobody knows")))
    assert LayerCache()._shelf is None


def test_a_worker_gets_an_empty_one_on_the_same_folder(tmp_path: Path) -> None:
    """What travels to a worker are the settings, not megabytes of results."""
    make, cache = Counted(), new(tmp_path, memory=1 << 20, disk=1 << 22)
    ask(cache, make)
    again = pickle.loads(pickle.dumps(cache))
    assert (again.memory, again.disk, again.worth, len(again._kept), again.misses) == (1 << 20, 1 << 22, 0, 0, 0)
    ask(again, make)
    assert make.calls == 1


# --- techniques -----------------------------------------------------------------------------------------


class Noise(NumericCompressor):
    """Draws from every generator, and so depends on its seed alone."""

    name = "noise"
    kinds = frozenset({"linear"})

    def __init__(self, factor: object = 1.0) -> None:
        self.factor = factor

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return ()

    def fit(self, weight: Tensor, mask: Tensor | None, axis: int, params: Params, seed: int) -> Codec:
        raise NotImplementedError


class Calibrated(Compressor):
    """Looks at calibration data."""

    name = "calibrated"
    stage = Stage.MASK
    kinds = frozenset({"linear"})
    data_need: ClassVar[DataNeed] = DataNeed.CALIBRATION

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return ()

    def apply(self, draft: Any, site: Site, params: Params, context: Context) -> None:
        raise NotImplementedError


class Trained(Calibrated):
    """Trains."""

    name = "trained"
    data_need = DataNeed.TRAINING


def context(cache: LayerCache, scale: float = 1.0, seed: int = 0) -> Context:
    """Return the context of a small task."""
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3), torch.arange(4) % 2)]
    calibration = [(batches[0][0] * scale, batches[0][1])]
    return Context(Task(nn.Linear(3, 2), batches, calibration=calibration), {}, seed, cache)


def drawn(seed: int) -> Tensor:
    """Draw from the seed and from torch's generator."""
    return torch.cat([torch.rand(2), torch.tensor([float(seed)])])


def test_randomness_follows_the_content_and_not_the_recipe(tmp_path: Path) -> None:
    """With or without a cache, found or computed, in whatever recipe: the same draw; and none is taken from others."""
    weight, values = torch.zeros(2, 3), []
    for seed in (0, 1):
        for cache in (LayerCache.none(), new("off"), new(tmp_path), new(tmp_path)):
            here = context(cache, seed=seed)
            before = torch.get_rng_state()
            values += [Noise().recall(here, {"a": 1}, (weight,), drawn, PLAIN) for _ in range(2)]
            assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, values[0]) for value in values)
    assert not torch.equal(Noise().recall(context(LayerCache.none()), {"a": 2}, (weight,), drawn, PLAIN), values[0])


def test_what_a_technique_carries_is_part_of_the_key(tmp_path: Path) -> None:
    """Two instances of one class may differ; attributes that can't be compared switch the cache off."""
    here, make = context(new(tmp_path)), Counted()
    for factor in (1.0, 2.0, 1.0):
        Noise(factor).recall(here, {}, (), make, PLAIN)
    assert make.calls == 2
    for _ in range(2):
        Noise(object()).recall(here, {}, (), make, PLAIN)
    assert make.calls == 4


def test_calibration_data_are_part_of_the_key(tmp_path: Path) -> None:
    """A technique that looks at data gets other results for other data, and its own again for the same."""
    make, cache = Counted(), new(tmp_path)
    for scale in (1.0, 2.0, 1.0):
        Calibrated().recall(context(cache, scale), {}, (), make, PLAIN)
    assert make.calls == 2
    for scale in (1.0, 2.0):
        Noise().recall(context(cache, scale), {}, (), make, PLAIN)
    assert make.calls == 3


def test_training_is_never_kept(tmp_path: Path) -> None:
    """It depends on everything."""
    make, cache = Counted(), new(tmp_path)
    for _ in range(2):
        Trained().recall(context(cache), {}, (), make, PLAIN)
    assert (make.calls, cache.misses) == (2, 0)


@pytest.mark.parametrize("coder", [None, AnsCoder()])
def test_a_tensor_is_packed_once_for_each_codec_and_coder(tmp_path: Path, coder: AnsCoder | None) -> None:
    """Description and arrays are those of packing anew, in the same order; another codec is another file."""
    torch.manual_seed(0)
    weight, cache = torch.randn(16, 40), new(tmp_path)
    for bits in (3, 4):
        encoding = Encoding(Integer().fit(weight, None, 0, {"bits": bits, "granularity": "channel"}, 0), None, coder)
        dense = encoding.project(weight)
        plain = pack_tensor(dense, encoding)
        for other in (cache, cache, new(tmp_path)):
            spec, parts = pack_tensor(dense, encoding, other)
            assert repr(spec) == repr(plain[0])
            assert [(p.dtype, p.tobytes()) for p in parts] == [(p.dtype, p.tobytes()) for p in plain[1]]
    assert (cache.hits, cache.misses) == (2, 2)
    other = new(tmp_path)
    pack_tensor(dense, Encoding(encoding.codec, None, AnsCoder() if coder is None else None), other)
    assert other.misses == 1


def test_packed_tensors_follow_the_code_that_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that lays tensors out in another way makes another file."""
    weight = torch.randn(16, 40)
    encoding = Encoding(Integer().fit(weight, None, 0, {"bits": 4, "granularity": "channel"}, 0))
    asked: list[type] = []
    real = fingerprint.fingerprint

    def noted(cls: type) -> tuple[str, bool]:
        asked.append(cls)
        return real(cls)

    monkeypatch.setattr("paretopress.compressors.cache.fingerprint", noted)
    pack_tensor(encoding.project(weight), encoding, new(tmp_path))
    assert pack_tensor.__module__ in {cls.__module__ for cls in asked}


def test_a_tensor_off_its_grid_is_refused_with_a_cache_too(tmp_path: Path) -> None:
    """The check that packing makes is not skipped."""
    weight = torch.randn(4, 4)
    encoding = Encoding(Integer().fit(weight, None, 0, {"bits": 2, "granularity": "channel"}, 0))
    for _ in range(2):
        with pytest.raises(ValueError, match="not on the grid"):
            pack_tensor(weight, encoding, new(tmp_path))
