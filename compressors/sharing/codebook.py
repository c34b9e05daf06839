"""Weight sharing by a scalar codebook: every weight is one of at most 2^bits values, found by k-means."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces.knob import Knob
from ...spaces.site import LAYER_KINDS, Site
from ..base import NumericCompressor, Params, register
from ..encoding import Codec, Part, Portable, Symbols, Trainable

Values = npt.NDArray[np.float64]
Edges = npt.NDArray[np.int64]

#: Iterations of Lloyd's algorithm at most; one costs O(clusters x log(values)).
LLOYD_ITERATIONS = 300
#: Each start is merged from this many times the runs that are wanted; the one with the least error is kept.
STARTS = (1, 2, 4)


@dataclass(frozen=True, eq=False)
class CodebookCodec(Codec):
    """Shared values.

    Attributes
    ----------
    centroids
        (k,) fp32, ascending and distinct. Where one is exactly 0.0, a weight that is zero stays zero.
    """

    kind: ClassVar[str] = "codebook"
    centroids: Tensor

    @property
    def bits(self) -> int:
        """Bits of an index into the codebook."""
        return max(1, (len(self.centroids) - 1).bit_length())

    @property
    def zero(self) -> int | None:
        """Index of the value 0.0, if there is one."""
        place = torch.nonzero(self.centroids == 0)
        return int(place[0]) if len(place) else None

    def indices(self, weight: Tensor) -> Tensor:
        """Return the index of the nearest shared value, int64, shaped like ``weight``."""
        # In double precision the middle between neighbouring floats is exact, so a shared value finds itself.
        wide = self.centroids.to(weight.device).double()
        return torch.bucketize(weight.double(), (wide[1:] + wide[:-1]) / 2)

    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest shared values."""
        return self.centroids.to(weight.device)[self.indices(weight)]

    def trainable(self, weight: Tensor) -> Trainable:
        """Return the form in which the shared values are trained."""
        return CodebookTraining(self, weight)

    def symbols(self, weight: Tensor) -> tuple[Symbols, int]:
        """Return the indices; the alphabet is the codebook."""
        return self.indices(weight).cpu().numpy().reshape(-1), len(self.centroids)

    def side(self) -> tuple[dict[str, Any], list[Part]]:
        """Return the shared values, (k,) fp32."""
        return {}, [self.centroids.cpu().numpy()]

    def portable(self, weight: Tensor) -> Portable | None:
        """Return indices and the table of values, or None if an index takes more than a byte."""
        if self.bits > 8:
            return None
        return Portable(self.indices(weight).cpu().numpy().astype(np.uint8), self.bits, self.centroids.cpu().numpy())

    @classmethod
    def rebuild(
        cls,
        facts: dict[str, Any],  # noqa: ARG003 - the parts say it all
        parts: list[Part],
        shape: tuple[int, ...],  # noqa: ARG003 - as above
    ) -> CodebookCodec:
        """Return the codec of a file's shared values."""
        if len(parts) != 1 or parts[0].ndim != 1 or parts[0].dtype != np.float32:
            raise ValueError("codebook: needs one float32 array of shared values")
        return cls(torch.from_numpy(np.array(parts[0])))

    @classmethod
    def restore(
        cls, facts: dict[str, Any], parts: list[Part], symbols: Symbols | None, shape: tuple[int, ...]
    ) -> Tensor:
        """Look the indices up."""
        values = cls.rebuild(facts, parts, shape).centroids
        if symbols is None or (symbols.size and int(symbols.max()) >= len(values)):
            raise ValueError(f"codebook: needs indices into its {len(values)} values")
        return values[torch.from_numpy(symbols)].reshape(shape)


class CodebookTraining(Trainable):
    """Train the shared values with fixed assignments (Han et al., 2016).

    The gradient of a shared value is the sum of its members' gradients. The value 0.0 is not trained, so that
    pruned weights stay pruned.
    """

    index: Tensor
    free: Tensor

    def __init__(self, codec: CodebookCodec, weight: Tensor) -> None:
        super().__init__()
        self.shape = weight.shape
        self.centroids = nn.Parameter(codec.centroids.to(weight.device).clone())
        self.register_buffer("index", codec.indices(weight.detach()).reshape(-1))
        self.register_buffer("free", self.centroids.detach() != 0)

    def forward(self) -> Tensor:
        """Return the dense weight."""
        values = torch.where(self.free, self.centroids, 0.0)
        return values.index_select(0, self.index).reshape(self.shape)

    def finish(self) -> tuple[Tensor, Codec]:
        """Return the dense weight and the codebook of the trained values, put in order again."""
        dense = self().detach() + 0.0  # a trained value of -0.0 is 0.0
        return dense, CodebookCodec(torch.unique(dense))


def kmeans(values: Values, clusters: int) -> Values:
    """Return at most ``clusters`` centres of little squared distance to ``values``, ascending and distinct.

    In one dimension a cluster is a run of the sorted values, so that with prefix sums an exact iteration of
    Lloyd's algorithm costs O(clusters x log(values)): far faster than a general implementation
    on 100,000 weights. So there is time for several starts, each of more runs than are wanted, merged: evenly
    spaced centres, many of which stay empty in the tails, and random ones end at a higher error.

    Parameters
    ----------
    values
        (n,), any order, at least one.
    clusters
        1 or more. If there are no more distinct values than that, they are the answer.
    """
    distinct = np.unique(values)
    if len(distinct) <= clusters:
        return distinct
    ordered = np.sort(values)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    found = [
        _settled(ordered, sums, merge(sums, divide(ordered, sums, excess * clusters), clusters)) for excess in STARTS
    ]
    return min(found, key=lambda centres: _inertia(ordered, centres))


def _settled(ordered: Values, sums: Values, edges: Edges) -> Values:
    centres = np.diff(sums[edges]) / np.diff(edges)
    for _ in range(LLOYD_ITERATIONS):
        moved = lloyd(ordered, sums, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.unique(centres)


def _inertia(ordered: Values, centres: Values) -> float:
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, ordered)
    return float(np.square(ordered - centres[nearest]).sum())


def lloyd(ordered: Values, sums: Values, centres: Values) -> Values:
    """Return the centres after one iteration: each moves to the mean of the values it is nearest to.

    Parameters
    ----------
    ordered
        (n,) ascending.
    sums
        (n + 1,) sums of the first 0 ... n values.
    centres
        (k,) ascending. One without values stays where it is.
    """
    middles = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate(([0], np.searchsorted(ordered, middles), [len(ordered)]))
    members = np.diff(edges)
    return np.where(members > 0, np.diff(sums[edges]) / np.maximum(members, 1), centres)


def divide(ordered: Values, sums: Values, runs: int) -> Edges:
    """Return the edges of runs: that of largest squared error is split at its mean until there are enough.

    This is Var-Part (Su & Dy, 2007) in one dimension; it draws nothing at random.

    Parameters
    ----------
    ordered, sums
        As for `lloyd`.
    runs
        How many at most.
    """
    squares = np.concatenate(([0.0], np.cumsum(ordered * ordered)))

    def run(first: int, last: int) -> tuple[float, int, int]:
        total = sums[last] - sums[first]
        return float(total * total / (last - first) - (squares[last] - squares[first])), first, last

    heap = [run(0, len(ordered))]  # by negative squared error
    while len(heap) < runs and heap[0][0] < 0:
        _, first, last = heap[0]
        split = int(np.searchsorted(ordered, (sums[last] - sums[first]) / (last - first)))
        if first < split < last:
            heapq.heapreplace(heap, run(first, split))
            heapq.heappush(heap, run(split, last))
        else:
            heapq.heapreplace(heap, (0.0, first, last))  # equal values: only rounding gave it an error
    return np.array([0, *sorted(last for _, _, last in heap)])


def merge(sums: Values, edges: Edges, runs: int) -> Edges:
    """Return the edges after merging the neighbours that raise the squared error least (Ward, 1963).

    Parameters
    ----------
    sums
        As for `lloyd`.
    edges
        (runs + 1,) first position of each run, and the end of the last.
    runs
        How many to leave.
    """
    while len(edges) > runs + 1:
        members = np.diff(edges)
        means = np.diff(sums[edges]) / members
        rise = members[1:] * members[:-1] / (members[1:] + members[:-1]) * np.square(np.diff(means))
        edges = np.delete(edges, 1 + int(rise.argmin()))
    return edges


class Codebook(NumericCompressor):
    """K-means scalar codebook, one for each tensor."""

    name = "codebook"
    kinds = LAYER_KINDS
    summary = "Shares at most 2^bits values within a tensor (k-means); one value is kept for pruned weights."
    paper = "Gong et al., 2014, arXiv:1412.6115; Han et al., Deep Compression, ICLR 2016"
    formats = (CodebookCodec,)

    def knobs(self, site: Site) -> tuple[Knob, ...]:  # noqa: ARG002 - the same at every site
        """Return the bits of an index."""
        return (Knob("bits", (8, 6, 5, 4, 3, 2), bounds=(1, 8)),)

    def fit(
        self,
        weight: Tensor,
        mask: Tensor | None,
        axis: int,  # noqa: ARG002 - all channels share one codebook
        params: Params,
        seed: int,  # noqa: ARG002 - nothing is drawn at random
    ) -> CodebookCodec:
        """Return the codebook of the kept weights, with a value reserved for zero if there is a mask."""
        kept = weight if mask is None else weight[mask]
        clusters = 2 ** int(params["bits"]) - (mask is not None)
        values = kept.detach().cpu().double().numpy().reshape(-1)
        centres = kmeans(values, clusters) if len(values) else values
        if mask is not None:
            centres = np.append(centres, 0.0)
        return CodebookCodec(torch.from_numpy(np.unique(centres.astype(np.float32) + np.float32(0.0))))


register(Codebook())
