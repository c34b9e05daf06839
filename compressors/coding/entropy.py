"""Entropy coding of the stored symbols with a static histogram: the last stage of Deep Compression."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import constriction
import numpy as np
import numpy.typing as npt

from ...spaces.knob import Knob
from ...spaces.site import Site
from ...spaces.stage import Stage
from ..base import Compressor, Params, register
from ..draft import Context, Draft
from ..encoding import Coder, Part, Symbols


@dataclass(frozen=True)
class AnsCoder(Coder):
    """Asymmetric numeral systems (Duda, 2013) by the constriction library (Bamler, 2022), one histogram each.

    Parts: the histogram (of the whole alphabet, or of the listed symbols that occur, whichever is
    shorter), then the payload. The coder's probabilities are derived from those stored integers alone, and
    the decoded symbols must have that histogram again.
    """

    kind: ClassVar[str] = "ans"

    def encode(self, symbols: Symbols, alphabet: int) -> tuple[dict[str, Any], list[Part]]:
        """Return the checksum as facts; histogram and payload (uint8) as arrays.

        Raises
        ------
        ValueError
            If there is no symbol, or one is outside ``range(alphabet)``.
        """
        if symbols.size == 0 or int(symbols.min()) < 0 or int(symbols.max()) >= alphabet:
            raise ValueError(f"ans: needs symbols in range({alphabet}), at least one")
        counts = np.bincount(symbols, minlength=alphabet)
        present = np.flatnonzero(counts)
        whole: list[Part] = [_narrow(counts)]
        listed: list[Part] = [_narrow(present), _narrow(counts[present])]
        table = min(whole, listed, key=_bytes)
        rank = np.zeros(alphabet, dtype=np.int32)
        rank[present] = np.arange(len(present))
        payload = _encode(rank[symbols], counts[present])
        return {"crc": _checksum([*table, payload])}, [*table, payload]

    def decode(self, facts: dict[str, Any], parts: list[Part], count: int, alphabet: int) -> Symbols:
        """Return the ``count`` symbols, (count,) int64.

        Raises
        ------
        ValueError
            If the parts are damaged or don't hold so many symbols of that alphabet.
        """
        if len(parts) not in (2, 3) or any(p.ndim != 1 or p.dtype.kind != "u" for p in parts):
            raise ValueError("ans: expected a histogram and a payload of unsigned integers")
        if facts.get("crc") != _checksum(parts):
            raise ValueError("ans: the checksum doesn't match: histogram or payload is damaged")
        present, counts = _histogram(parts[:-1], alphabet)
        if int(counts.sum()) != count:
            raise ValueError(f"ans: the histogram counts {int(counts.sum())} symbols instead of {count}")
        ranks = _decode(parts[-1], counts, count)
        if not np.array_equal(np.bincount(ranks, minlength=len(counts)), counts):
            raise ValueError("ans: the payload doesn't have the histogram it was stored with")
        return present[ranks]


def _narrow(numbers: npt.NDArray[Any]) -> Part:
    return numbers.astype(np.min_scalar_type(int(numbers.max())))


def _bytes(parts: list[Part]) -> int:
    return sum(part.nbytes for part in parts)


def _checksum(parts: list[Part]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(np.ascontiguousarray(part).tobytes(), value)
    return value


def _histogram(table: list[Part], alphabet: int) -> tuple[Symbols, Symbols]:
    """Return the symbols that occur, ascending, and how often each does."""
    counts = table[-1].astype(np.int64)
    if len(table) == 1:
        if len(counts) != alphabet:
            raise ValueError(f"ans: a histogram of {len(counts)} counts for an alphabet of {alphabet}")
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        present = table[0].astype(np.int64)
        if len(present) != len(counts) or (np.diff(present) <= 0).any() or (present >= alphabet).any():
            raise ValueError(f"ans: needs ascending symbols below {alphabet}, and a count for each")
    if len(counts) == 0 or (counts <= 0).any():
        raise ValueError("ans: a histogram needs a symbol, and positive counts")
    return present, counts


def _encode(ranks: npt.NDArray[np.int32], counts: Symbols) -> Part:
    """Return the payload without the unused high bytes of its last word; it is empty for a single symbol."""
    if len(counts) == 1:
        return np.zeros(0, dtype=np.uint8)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(ranks, _model(counts))
    raw = coder.get_compressed().astype("<u4").tobytes()
    return np.frombuffer(raw.rstrip(b"\0"), dtype=np.uint8).copy()


def _decode(payload: Part, counts: Symbols, count: int) -> Symbols:
    if payload.dtype != np.uint8:
        raise ValueError(f"ans: the payload must be uint8, not {payload.dtype}")
    if len(counts) == 1:
        if len(payload):
            raise ValueError("ans: a stream of one symbol has no payload")
        return np.zeros(count, dtype=np.int64)
    words = np.frombuffer(payload.tobytes() + bytes(-len(payload) % 4), dtype="<u4").astype(np.uint32)
    coder = constriction.stream.stack.AnsCoder(words)
    ranks: Symbols = coder.decode(_model(counts), count).astype(np.int64)
    if not coder.is_empty():
        raise ValueError(f"ans: the payload holds more than {count} symbols")
    return ranks


def _model(counts: Symbols) -> Any:
    return constriction.stream.model.Categorical(counts.astype(np.float64), perfect=False)


class EntropyCoding(Compressor):
    """Try the entropy coder on every weight tensor; each is written coded only where that is smaller."""

    name = "entropy"
    stage = Stage.CONTAINER
    kinds = frozenset({"model"})
    summary = "Entropy-codes the stored weights (ANS) wherever coded + histogram is smaller than raw."
    paper = "Han et al., Deep Compression, ICLR 2016; Duda, Asymmetric numeral systems, 2013"
    formats = (AnsCoder,)

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - the same at every site
        """Return none: the smallest form wins by itself."""
        return ()

    def apply(self, draft: Draft, site: Site, params: Params, context: Context) -> None:  # noqa: ARG002 - no knobs or data
        """Add the coder to the encoding of every parameter of two or more dimensions, a shared one once."""
        names: dict[int, str] = {}
        for name, parameter in draft.model.named_parameters(remove_duplicate=False):
            if parameter.ndim >= 2 and (id(parameter) not in names or name in draft.encodings):
                names[id(parameter)] = name
        for name in names.values():
            draft.encodings[name] = replace(draft.encoding(name), coder=AnsCoder())


register(EntropyCoding())
