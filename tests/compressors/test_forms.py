"""What the cache keeps: whatever can be stored comes back bit for bit, everything else is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from paretopress.compressors.encoding import Float32
from paretopress.compressors.forms import CodecForm, Entry, UnstorableError, layer_facts
from paretopress.compressors.quantization.grid import IntegerCodec
from paretopress.compressors.quantization.integer import Integer
from paretopress.compressors.sharing.codebook import CodebookCodec

KEY = "0" * 64
DTYPES = ["bool", "uint8", "uint16", "int32", "int64", "float16", "float32", "float64"]


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    """Draw a scalar, an array or a tensor, with any bits."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    if draw(st.booleans()):
        return draw(scalars)
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    bits = rng.integers(0, 1 << 15, size=shape)
    array = np.asarray(bits).astype(draw(st.sampled_from(DTYPES)))
    return torch.from_numpy(array.copy()) if draw(st.booleans()) else array


trees = st.recursive(
    leaves(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def equal(a: Any, b: Any) -> bool:
    """Whether two trees have the same types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, Tensor | np.ndarray):
        one, other = np.asarray(a), np.asarray(b)
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return repr(a) == repr(b)


@given(trees)
def test_a_tree_comes_back_from_bytes_as_it_was(tree: Any) -> None:
    """Types, order, shapes and bits survive: a cached result is the computed one."""
    assert equal(Entry.from_bytes(KEY, Entry.of(tree).to_bytes(KEY)).tree(), tree)


def test_every_changed_byte_is_noticed() -> None:
    """A damaged file must not become a wrong weight."""
    data = Entry.of([torch.arange(4.0), "text", 3]).to_bytes(KEY)
    assert equal(Entry.from_bytes(KEY, data).tree(), [torch.arange(4.0), "text", 3])
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        try:
            again = Entry.from_bytes(KEY, bytes(damaged))
        except ValueError:
            continue
        assert equal(again.tree(), [torch.arange(4.0), "text", 3])  # e.g. a space in the header
    for end in range(len(data)):
        with pytest.raises(ValueError, match="stored layer result"):
            Entry.from_bytes(KEY, data[:end])


def test_a_file_under_another_key_is_refused() -> None:
    """A renamed file would be another layer's result."""
    with pytest.raises(ValueError, match="damaged"):
        Entry.from_bytes("1" * 64, Entry.of([1]).to_bytes(KEY))


def test_what_is_stored_and_what_is_built_are_copies() -> None:
    """Training changes weights in place; that must reach neither the store nor the next reader."""
    tensor, array = torch.zeros(3), np.zeros(3)
    entry = Entry.of([tensor, array])
    tensor += 1
    array += 1
    first = entry.tree()
    first[0] += 2
    first[1] += 2
    assert equal(entry.tree(), [torch.zeros(3), np.zeros(3)])


@pytest.mark.parametrize(
    "value",
    [
        np.float64(1), {1: 2}, {1, 2}, object(), nn.Parameter(torch.zeros(1)), torch.zeros(2, requires_grad=True),
        torch.zeros(2, 3).T, torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, device="meta"),
        np.zeros((2, 3)).T, np.array(["text"]), torch.zeros(1).to_sparse(), torch.zeros(1, dtype=torch.complex64),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_not_come_back_the_same_is_refused(value: object) -> None:
    """A subclass, a stride or a gradient would be lost without a word."""
    with pytest.raises(UnstorableError):
        Entry.of([value])


@dataclass(frozen=True, eq=False)
class Known(Float32):
    """A codec with fields of all kinds."""

    kind: ClassVar[str] = "known"
    scale: Tensor
    name: str = "a"
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, eq=False)
class Changing(Known):
    """A class whose constructor changes what it is given."""

    kind: ClassVar[str] = "changing"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", self.scale * 2)


class Undeclared(Known):
    """A class that the technique doesn't list."""


def test_a_codec_comes_back_with_all_its_fields() -> None:
    """Any frozen dataclass of tensors and scalars is stored without code of its own."""
    form = CodecForm([Known])
    codec = Known(torch.tensor([0.1, -0.0, float("inf")]), "b", (3,))
    again = form.build(Entry.of(form.flatten(codec)).tree())
    assert type(again) is Known
    assert equal(vars(again), vars(codec))
    integer = Integer().fit(torch.randn(4, 70), None, 0, {"bits": 3, "granularity": "group", "group": 32}, 0)
    form = CodecForm(Integer.formats)
    again = form.build(Entry.of(form.flatten(integer)).tree())
    assert isinstance(again, IntegerCodec)
    assert equal(vars(again), vars(integer))


def test_a_codec_that_no_format_names_is_refused() -> None:
    """Only declared classes are built, and only when their fields are all they know."""
    form = CodecForm([Known])
    with pytest.raises(UnstorableError, match="Undeclared"):
        form.flatten(Undeclared(torch.zeros(1)))
    with pytest.raises(UnstorableError, match="CodebookCodec"):
        form.flatten(CodebookCodec(torch.zeros(1)))
    codec = Known(torch.zeros(1))
    object.__setattr__(codec, "more", 1)
    with pytest.raises(UnstorableError, match="more than its fields"):
        form.flatten(codec)
    with pytest.raises(UnstorableError, match="changes what it is given"):
        CodecForm([Changing]).flatten(Changing(torch.ones(1)))


def test_a_layer_is_told_by_all_its_settings_and_tensors() -> None:
    """Two layers with equal weights and another stride, name or tie are different layers."""

    def told(layer: nn.Module) -> tuple[str, list[bytes]]:
        facts, tensors = layer_facts(layer)
        return repr(facts), [t.detach().numpy().tobytes() for t in tensors]

    def conv(**settings: Any) -> nn.Conv2d:
        torch.manual_seed(0)
        return nn.Conv2d(4, 4, 3, **settings)

    frozen, tied = conv(), nn.Sequential(conv(), conv())
    frozen.weight.requires_grad_(False)
    tied[1].weight = tied[0].weight
    layers = [
        conv(), conv(stride=2), conv(padding=1), conv(padding="same"), conv(padding_mode="circular"), conv(bias=False),
        conv(dilation=2), frozen, nn.Sequential(conv()), nn.Sequential(conv(), conv()), tied,
    ]  # fmt: skip
    described = [told(layer) for layer in layers]
    assert all(described[i] != described[j] for i in range(len(layers)) for j in range(i))
    assert told(conv()) == described[0]


def test_a_layer_with_more_than_settings_is_refused() -> None:
    """What can't be looked at can't be compared."""
    odd, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    odd.helper = lambda x: x  # type: ignore[assignment]  # not a module, which is the point
    hooked.register_forward_hook(lambda *_: None)
    for layer in (odd, hooked):
        with pytest.raises(UnstorableError, match="plain settings"):
            layer_facts(layer)
