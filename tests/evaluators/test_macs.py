"""MACs against closed forms, and what a trace must not do."""

import copy
import logging
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from paretopress.evaluators import macs as module
from paretopress.evaluators.base import Subject
from paretopress.evaluators.macs import Macs, macs_by_module
from paretopress.spaces.attention import convert_attention
from paretopress.spaces.errors import ModelError
from paretopress.spaces.task import Task


class Basic(nn.Module):
    """A residual block of two 3x3 convolutions with a projection where the stride is 2."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short = nn.Sequential() if stride == 1 else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.short(x))


def residual() -> nn.Module:
    """Return a small residual network."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        Basic(16, 16, 1),
        Basic(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def total(model: nn.Module, *example: Tensor) -> int:
    """Return all MACs, after checking that nothing is uncounted."""
    counts, uncounted = macs_by_module(model, example)
    assert uncounted == {}
    return sum(counts.values())


def test_linear_layers_multiply_once_per_weight() -> None:
    """The closed form of the simplest layer, for any leading dimensions."""
    assert total(nn.Linear(7, 5), torch.randn(3, 7)) == 35
    assert total(nn.Linear(7, 5), torch.randn(2, 11, 7)) == 11 * 35


@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_convolutions_with_stride_and_groups(padding: int | str) -> None:
    """Out positions x kernel x channels per group, also for padding that fvcore doesn't know."""
    stride = 2 if padding == 1 else 1
    conv = nn.Conv2d(8, 12, 3, stride, padding, groups=4)
    x = torch.randn(2, 8, 9, 9)
    side = conv(x).shape[-1]
    assert total(conv, x) == side * side * 12 * (8 // 4) * 9


def test_transposed_convolutions_multiply_once_per_input() -> None:
    """A transposed convolution's work goes with its input positions."""
    assert total(nn.ConvTranspose2d(3, 4, 3, stride=2), torch.randn(1, 3, 8, 8)) == 64 * 3 * 4 * 9


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers(kind: Callable[..., nn.Module], gates: int, layers: int, both: bool) -> None:
    """Steps x gates x (inputs + hidden) x hidden for each layer and direction; fvcore says 0."""
    model = kind(6, 5, layers, batch_first=True, bidirectional=both)
    ways = 2 if both else 1
    first = ways * gates * 5 * (6 + 5)
    further = (layers - 1) * ways * gates * 5 * (ways * 5 + 5)
    assert total(model, torch.randn(3, 7, 6)) == 7 * (first + further)


def test_a_recurrent_projection_counts() -> None:
    """An LSTM with a projection has a third matrix and a smaller second one."""
    model = nn.LSTM(6, 5, batch_first=True, proj_size=2)
    assert total(model, torch.randn(1, 7, 6)) == 7 * (20 * 6 + 20 * 2 + 5 * 2)


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_recurrent_cells(cell: type[nn.Module], gates: int) -> None:
    """A single step, however torch writes it down in a trace."""
    assert total(cell(6, 5), torch.randn(2, 6)) == gates * 5 * (6 + 5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_two_products(causal: bool) -> None:
    """Scaled-dot-product attention is 2 x heads x L x S x d; fvcore says 0."""

    class Product(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, is_causal=causal)

    heads, length, source, dim = 3, 7, 7 if causal else 11, 8
    query, key = torch.randn(2, heads, length, dim), torch.randn(2, heads, source, dim)
    assert total(Product(), query, key, key) == 2 * heads * length * source * dim


def test_an_encoder_layer_counts_the_same_before_and_after_its_conversion() -> None:
    """Neither torch's fused encoder nor our separate projections may hide a product."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    expected = 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 4 + 2 * (5 * 5 * 8)
    assert total(layer, x) == expected
    assert total(convert_attention(copy.deepcopy(layer)), x) == expected


class Transform(nn.Module):
    def __init__(self, name: str, **arguments: object) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(torch.fft, self.name)(x, **self.arguments)
        return out


@pytest.mark.parametrize(
    ("transform", "shape", "expected"),
    [
        (Transform("fft"), (2, 16), 2.5 * 16 * 4),
        (Transform("fft", n=32), (2, 16), 2.5 * 32 * 5),
        (Transform("rfft"), (2, 16), 1.25 * 16 * 4),
        (Transform("rfft", n=32), (2, 16), 1.25 * 32 * 5),
        (Transform("irfft", n=16), (2, 9), 1.25 * 16 * 4),
        (Transform("fft2"), (2, 8, 8), 2.5 * 64 * 6),
        (Transform("rfftn", dim=(1, 2)), (2, 8, 8), 1.25 * 64 * 6),
        (Transform("irfftn", s=(8, 8), dim=(1, 2)), (2, 8, 5), 1.25 * 64 * 6),
        (Transform("fft", dim=1), (2, 8, 3), 2.5 * 3 * 8 * 3),
    ],
)
def test_fourier_transforms(transform: nn.Module, shape: tuple[int, ...], expected: float) -> None:
    """2.5 n log2 n for complex values and half of it for real ones; fvcore says 0."""
    assert total(transform, torch.randn(shape)) == expected


class Einsum(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, *factors: Tensor) -> Tensor:
        return torch.einsum(self.equation, *factors)


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("bi,oi->bo", [(2, 1237), (2, 1237)], 2 * 1237),
        ("bi,bo->bio", [(2, 3), (2, 5)], 3 * 5),
        ("...i,oi", [(2, 3, 8), (2, 8)], 3 * 2 * 8),
        ("bnqd,bnkd->bnqk", [(2, 3, 7, 4), (2, 3, 5, 4)], 3 * 7 * 5 * 4),
        ("bi,bj,bk->b", [(2, 3), (2, 4), (2, 5)], 1 + 1),
        ("bi,bij,bj->b", [(2, 3), (2, 3, 4), (2, 4)], 3 * 4 + 4),
        ("bii->b", [(2, 3, 3)], 0),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], expected: int) -> None:
    """Each pairwise contraction costs the product of its letters, exactly and not to four digits."""
    assert total(Einsum(equation), *(torch.randn(s) for s in shapes)) == expected


class Call(nn.Module):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Tensor:
        dims = [([1, 2], [0, 1])] if self.function == "tensordot" else []
        out: Tensor = getattr(torch, self.function)(*args, *dims)
        return out


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        ("matmul", [(1, 4, 5), (5, 3)], 60),
        ("matmul", [(1, 4, 5), (5,)], 20),
        ("matmul", [(2,), (2, 3, 2, 4)], 24),  # batch of 2: (3 x 2 x 4) for each
        ("mv", [(1, 5), (5,)], 5),
        ("bmm", [(1, 2, 3), (1, 3, 4)], 24),
        ("baddbmm", [(1, 2, 4), (1, 2, 3), (1, 3, 4)], 24),
        ("addbmm", [(1, 4), (3, 1, 5), (3, 5, 4)], 60),
        ("addmv", [(1,), (1, 5), (5,)], 5),
        ("tensordot", [(1, 3, 4), (3, 4, 5)], 60),
    ],
)
def test_products_of_any_form(function: str, shapes: list[tuple[int, ...]], expected: int) -> None:
    """Products that fvcore doesn't know, or fails on when a factor is a vector."""
    assert total(Call(function), *(torch.randn(s) for s in shapes)) == expected


def test_a_residual_network_adds_up() -> None:
    """A whole network: convolutions, shortcuts and the classifier, with two operations per batch-norm element."""
    convolutions = 32 * 32 * 16 * 27 + 2 * 32 * 32 * 16 * 144 + 16 * 16 * 32 * (144 + 288 + 16)
    norms = 2 * (2 * 32 * 32 * 16 + 2 * 16 * 16 * 32)
    pooling = 16 * 16 * 32
    model, x = residual().eval(), torch.randn(1, 3, 32, 32)
    assert total(model, x) == convolutions + norms + pooling + 320
    reference = FlopCountAnalysis(copy.deepcopy(model), x).unsupported_ops_warnings(False)
    assert total(model, x) == reference.total()


def test_modules_get_their_own_operators_and_not_their_childrens() -> None:
    """Bit operations weight each module by its own bits, so nothing may be counted in two places."""
    counts, _ = macs_by_module(residual(), (torch.randn(1, 3, 32, 32),))
    assert counts["1.conv1"] == 32 * 32 * 16 * 144
    assert counts["2.short"] == 16 * 16 * 32 * 16
    assert "1" not in counts
    assert "" not in counts


def test_a_module_called_twice_counts_twice_under_one_name() -> None:
    """Sharing a layer saves weights, not work."""
    shared = nn.Linear(4, 4)
    counts, _ = macs_by_module(nn.Sequential(shared, nn.ReLU(), shared), (torch.randn(1, 4),))
    assert counts == {"0": 32}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_count_is_for_one_example(batch: int) -> None:
    """The example's batch must not show in the figure."""
    assert total(residual(), torch.randn(batch, 3, 16, 16)) == total(residual(), torch.randn(1, 3, 16, 16))


class Square(torch.autograd.Function):
    """An operator written in Python: nobody can know what it multiplies."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x @ x.mT


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.pair = nn.Bilinear(4, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pair(x, x)
        y = self.layer(F.softmax(F.gelu(x) * 2, -1)).unsqueeze(-1)
        out: Tensor = Square.apply(y).mean(-1)  # type: ignore[no-untyped-call] # torch has no types here
        return out


def test_unknown_operators_are_listed_and_never_a_silent_zero() -> None:
    """A front must not show fewer MACs because an operator has no handler."""
    task = Task(Odd(), [(torch.randn(4, 4), torch.zeros(4, dtype=torch.long))])
    measured = Macs().measure(Subject(task.model, task, task.validation))
    assert measured.value == 16
    assert measured.detail == {"uncounted": {"aten::bilinear": 1, "prim::PythonOp.Square": 1}}


def test_nothing_is_printed_or_warned(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """A search measures thousands of times: neither fvcore's log nor torch's warnings may fill the terminal."""
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        macs_by_module(Odd(), (torch.randn(3, 4),))
    captured = capsys.readouterr()
    assert (captured.out, captured.err, caplog.records) == ("", "", [])


def test_a_model_that_cant_be_traced_says_so_and_is_left_without_hooks() -> None:
    """Tracing puts hooks on every module and leaves them when it fails; the user's model must not keep them."""

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no way")

    model = Failing()
    with pytest.raises(ModelError, match="can't be traced.*no way"):
        macs_by_module(model, (torch.randn(1, 4),))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_structure_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most recipes of a search share a structure: a trace is paid for once, whatever the weights."""
    traced: list[nn.Module] = []
    count = module._count

    def counting(model: nn.Module, inputs: tuple[Tensor, ...]) -> module.Counts:
        traced.append(model)
        return count(model, inputs)

    monkeypatch.setattr(module, "_count", counting)
    module._remembered.clear()
    x = (torch.randn(1, 3, 16, 16),)
    first, second = residual(), copy.deepcopy(residual())
    assert macs_by_module(first, x) == macs_by_module(second, x)
    assert len(traced) == 1
    macs_by_module(first, (torch.randn(1, 3, 32, 32),))
    assert len(traced) == 2
    found, _ = macs_by_module(first, x)
    found.clear()  # what a caller does to its answer must not reach the next one
    assert macs_by_module(second, x)[0]


def test_memory_of_the_counts_is_bounded() -> None:
    """A long search with structural choices must not collect structures for ever."""
    module._remembered.clear()
    for width in range(1, module.REMEMBERED + 20):
        macs_by_module(nn.Linear(1, width), (torch.zeros(1, 1),))
    assert len(module._remembered) == module.REMEMBERED
