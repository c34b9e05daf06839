"""The file format: exact, checked, harmless."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from paretopress.search import container
from paretopress.spaces.errors import ArtifactError


def example() -> tuple[bytes, list[np.ndarray]]:
    """Return a small file and the parts in it."""
    parts = [
        np.arange(5, dtype=np.uint8),
        np.ones((2, 3), np.float32),
        np.zeros(0, np.int64),
        np.arange(3, dtype=np.uint8),
    ]
    writer = container.PartWriter()
    references = [writer.add(p) for p in parts]
    return container.write({"references": references, "text": "é</x>"}, writer), parts


def test_parts_come_back_as_they_were() -> None:
    """Arrays of mixed types, shapes and lengths are read back equal, in order, with their document."""
    data, parts = example()
    document, reader = container.read(data)
    assert document["text"] == "é</x>"
    for reference, part in zip(document["references"], parts):
        found = reader.take(reference)
        assert found.dtype == part.dtype
        assert np.array_equal(found, part)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused(data: st.DataObject) -> None:
    """Truncation or a flipped bit anywhere gives ArtifactError or, in bytes nobody reads, the same content."""
    whole, _ = example()
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        position, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        damaged = bytes(damaged)
    try:
        document, _ = container.read(damaged)
    except ArtifactError:
        return
    assert document == container.read(whole)[0]


def _rewritten(version: int) -> bytes:
    """Return the example file as another version would write it."""
    arrays = load_safetensors(example()[0])
    return save_safetensors(arrays, metadata=container._stamp(container._checksum(arrays), version))


def test_other_versions_are_refused_with_advice() -> None:
    """A file of a later format says that paretopress must be upgraded, and is not half-read; there was none before."""
    assert container.read(_rewritten(container.VERSION))
    with pytest.raises(ArtifactError, match="Upgrade paretopress"):
        container.read(_rewritten(version=99))
    with pytest.raises(ArtifactError, match="damaged: there is no format version 0"):
        container.read(_rewritten(version=0))


def test_a_damaged_file_says_what_to_do() -> None:
    """Who has half a file, or one with a flipped bit, reads how to come by the whole one."""
    whole, _ = example()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        with pytest.raises(ArtifactError, match="paretopress resume"):
            container.read(damaged)


def test_other_safetensors_files_are_told_apart() -> None:
    """Somebody else's weights are recognised as not ours."""
    with pytest.raises(ArtifactError, match="not a model saved by paretopress"):
        container.read(save_safetensors({"w": np.ones(3, np.float32)}))


def test_a_document_that_inflates_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deflate bomb is refused at the limit, not expanded."""
    monkeypatch.setattr(container, "MAX_JSON", 1000)
    bomb = np.frombuffer(zlib.compress(json.dumps("a" * 100_000).encode()), np.uint8)
    arrays = {"json": bomb}
    metadata = container._stamp(container._checksum(arrays))
    with pytest.raises(ArtifactError, match="longer than"):
        container.read(save_safetensors(arrays, metadata=metadata))


@pytest.mark.parametrize(
    "reference", [["u8", 10**15], ["u8", -1], ["zz", 1], "u8", None, ["u8", 1.5], ["f32", 2, 2, 10**12]]
)
def test_references_beyond_the_file_are_refused(reference: object) -> None:
    """A part larger than the file is an error before anything is allocated."""
    _, reader = container.read(example()[0])
    with pytest.raises(ArtifactError, match="damaged"):
        reader.take(reference)
