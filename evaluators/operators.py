"""Multiply-accumulates of the operators that fvcore counts as 0, miscounts or fails on.

Conventions, beside fvcore's own (a fused multiply-add is 1, a bias is free):

- recurrent layers: the matrix products of every step, layer and direction; the gates' element-wise products
  are free;
- attention: query x key and weights x value, over all pairs even under a causal mask; softmax is free;
- an n-point FFT: 2.5 n log2 n for complex values and half of that for real ones, i.e. the 5 n log2 n
  floating-point operations of the split-radix estimate (Frigo & Johnson, FFTW3, Proc. IEEE 93, 2005) with two
  to a MAC;
- element-wise arithmetic, activations, reductions, pooling, look-ups and data movement: 0, as in fvcore's
  totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

Shape = list[int]
#: Inputs and outputs of a traced operator (`torch._C.Value`, which has no public type) -> its MACs.
Handler = Callable[[Sequence[Any], Sequence[Any]], float]


def _shape(value: Any) -> Shape:
    return list(value.type().sizes())


def _shapes(value: Any) -> list[Shape]:
    """Return the shapes of a list of tensors."""
    return [_shape(v) for v in value.node().inputs()]


def _integers(value: Any) -> list[Any] | None:
    """Return a list of integers, None for each that isn't constant; an absent argument is None."""
    if value.node().kind() == "prim::ListConstruct":
        return [v.toIValue() for v in value.node().inputs()]
    constant = value.toIValue()
    return None if constant is None else [constant]


def _product(left: int, inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Count any (batched, broadcast) product whose left factor contracts its last dimension."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[left])[-1]


def _summed_product(inputs: Sequence[Any], _: Sequence[Any]) -> float:
    return math.prod(_shape(inputs[1])) * _shape(inputs[2])[-1]


def _tensordot(inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    # |a| |b| |out| = (M K)(K N)(M N): the square of what is sought.
    return math.isqrt(math.prod(_shape(inputs[0])) * math.prod(_shape(inputs[1])) * math.prod(_shape(outputs[0])))


def _same_padding(inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Count a convolution with padding="same" or "valid"."""
    weight, out = _shape(inputs[1]), _shape(outputs[0])
    positions = math.prod(out[-(len(weight) - 2) :])
    examples = out[0] if len(out) == len(weight) else 1
    return examples * math.prod(weight) * positions


def _recurrent(inputs: Sequence[Any], _: Sequence[Any]) -> float:
    """Count an LSTM, GRU or RNN of any depth: each row of the input meets each weight matrix once.

    With packed sequences the rows are those that exist, without padding.
    """
    weights = [v for v in inputs if str(v.type()) == "List[Tensor]"][-1]
    rows = math.prod(_shape(inputs[0])[:-1])
    return rows * sum(math.prod(s) for s in _shapes(weights) if len(s) == 2)


def _cell(inputs: Sequence[Any], _: Sequence[Any]) -> float:
    rows = math.prod(_shape(inputs[0])[:-1])
    return rows * (math.prod(_shape(inputs[2])) + math.prod(_shape(inputs[3])))


def _attention(inputs: Sequence[Any], _: Sequence[Any]) -> float:
    """Count (heads, L, E) x (heads, S, E) and (heads, L, S) x (heads, S, V)."""
    query, key, value = (_shape(v) for v in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _fourier(axes: int | None, real: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Count a transform over ``axes`` dimensions (None: any number); ``real`` is the side that is, if any."""
    sizes = _shape(inputs[0] if real == "in" else outputs[0])
    lengths, dims = _integers(inputs[1]) or [], _integers(inputs[2])
    if dims is None:
        dims = list(range(-(axes or len(lengths) or len(sizes)), 0))
    if real == "in":  # the input is cut or padded to a length given; an output has it already
        for dim, length in zip(dims, lengths):
            sizes[dim] = length if length and length > 0 else sizes[dim]
    points = math.prod([sizes[dim] for dim in dims])
    return (1.25 if real else 2.5) * math.prod(sizes) * math.log2(points)


def _rms_norm(inputs: Sequence[Any], _: Sequence[Any]) -> float:
    # One operation fewer than fvcore's 5 and 4 for a layer norm: no mean is taken away.
    return math.prod(_shape(inputs[0])) * (4 if inputs[2].isCompleteTensor() else 3)


def _einsum(inputs: Sequence[Any], _: Sequence[Any]) -> float:
    """Count the pairwise contractions in the order in which torch does them.

    fvcore reads numpy's report, which is rounded to four digits.
    """
    terms, kept, sizes = _letters(inputs[0].toIValue(), _shapes(inputs[1]))
    path = _integers(inputs[2]) if len(inputs) > 2 else None
    order = list(zip(path[::2], path[1::2])) if path else [(0, 1)] * (len(terms) - 1)
    macs = 0
    for i, j in order:
        pair = [set(terms[i]), set(terms[j])]
        rest = [t for n, t in enumerate(terms) if n not in (i, j)]
        needed = set(kept).union(*rest)
        # Letters of one factor alone that nobody needs any more are summed before the product.
        both = (pair[0] & (pair[1] | needed)) | (pair[1] & (pair[0] | needed))
        macs += math.prod(sizes[letter] for letter in both)
        result = "".join(sorted(both & needed))
        terms = [*rest, result] if path else [result, *rest]
    return macs


def _letters(equation: str, shapes: list[Shape]) -> tuple[list[str], str, dict[str, int]]:
    """Return each factor's letters, those of the output, and the length of each letter's dimension.

    The dimensions of an ellipsis get characters of their own, counted from the right.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    terms = []
    widest = ""
    for term, shape in zip(left.split(","), shapes, strict=True):
        dots = "".join(chr(0x4E00 + n) for n in reversed(range(len(shape) - len(term.replace("...", "")))))
        widest = max(widest, dots, key=len)
        terms.append(term.replace("...", dots))
        for letter, size in zip(terms[-1], shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))  # a dimension of 1 broadcasts
    if arrow:
        kept = right.replace("...", widest)
    else:
        joined = "".join(terms)
        kept = widest + "".join(c for c in joined if joined.count(c) == 1 and c not in widest)
    return terms, kept, sizes


#: Operator -> handler, in the form that `fvcore.nn.FlopCountAnalysis.set_op_handle` takes.
HANDLERS: dict[str, Handler] = {
    "aten::matmul": partial(_product, 0),
    "aten::mm": partial(_product, 0),
    "aten::bmm": partial(_product, 0),
    "aten::mv": partial(_product, 0),
    "aten::dot": partial(_product, 0),
    "aten::inner": partial(_product, 0),
    "aten::addmm": partial(_product, 1),
    "aten::addmv": partial(_product, 1),
    "aten::baddbmm": partial(_product, 1),
    "aten::addbmm": _summed_product,
    "aten::tensordot": _tensordot,
    "aten::einsum": _einsum,
    "aten::_convolution_mode": _same_padding,
    "aten::rms_norm": _rms_norm,
    "aten::scaled_dot_product_attention": _attention,
    **{f"aten::{name}": _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{f"aten::{name}_cell": _cell for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{
        f"aten::fft_{kind}{suffix}": partial(_fourier, axes, real)
        for kind, real in (("fft", ""), ("ifft", ""), ("rfft", "in"), ("irfft", "out"))
        for suffix, axes in (("", 1), ("2", 2), ("n", None))
    },
}


#: Operators without multiply-accumulates that torch doesn't tag as element-wise, reduction or view.
_FREE = frozenset(
    """
    _pack_padded_sequence _pad_packed_sequence _shape_as_tensor _unsafe_view adaptive_avg_pool1d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator
    alpha_dropout arange argsort atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d bernoulli
    block_diag broadcast_tensors bucketize cat channel_shuffle col2im complex concat concatenate constant_pad_nd
    copy cummax cummin cumprod cumsum diag diag_embed divide dropout embedding embedding_bag empty empty_like
    eye fake_quantize_per_tensor_affine feature_alpha_dropout feature_dropout fft_fftshift fft_ifftshift fill
    flip fliplr flipud floor_divide full full_like gather gelu glu hardswish hstack im2col index index_add
    index_copy index_fill index_put index_select is_nonzero item linspace log_sigmoid log_softmax masked_scatter
    masked_select max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_unpool2d
    max_unpool3d median meshgrid multinomial multiply negative new_empty new_full new_ones new_zeros nonzero
    normal numel one_hot ones ones_like pad pixel_shuffle pixel_unshuffle polar prelu rand rand_like randint
    randn randn_like randperm reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d roll rot90 rrelu scalar_tensor scatter scatter_add
    searchsorted softmax sort stack subtract take take_along_dim tensor tile topk trapezoid tril tril_indices
    triu triu_indices unsafe_chunk unsafe_split unsafe_split_with_sizes upsample_nearest1d upsample_nearest3d
    vstack zeros zeros_like
    """.split()  # noqa: SIM905 - two hundred quoted words are no easier to read
)
_FREE_TAGS = (torch.Tag.pointwise, torch.Tag.reduction)


def without_macs(operator: str) -> bool:
    """Whether an operator such as ``aten::add_`` only does element-wise arithmetic, sums, or moves data.

    An operator of another library is taken to multiply.
    """
    library, _, name = operator.partition("::")
    if library != "aten":
        return False
    if name.removesuffix("_") in _FREE or name[0].isupper():  # aten::Float and the like convert a number
        return True
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return any(o.is_view or any(tag in o.tags for tag in _FREE_TAGS) for o in overloads)
