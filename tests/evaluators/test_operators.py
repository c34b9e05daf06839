"""Which operators are free, and that a real network's all are or have a handler."""

import pytest

from paretopress.evaluators.operators import HANDLERS, without_macs


@pytest.mark.parametrize(
    "operator",
    [
        "add", "add_", "mul", "sigmoid_", "softmax", "mean", "max_pool2d", "view", "embedding", "hardswish_", "Float",
        "fake_quantize_per_tensor_affine",
    ],
)  # fmt: skip
def test_arithmetic_without_accumulation_is_free(operator: str) -> None:
    """Element-wise operators, reductions, pooling and views must not be reported as unknown work."""
    assert without_macs(f"aten::{operator}")


@pytest.mark.parametrize(
    "operator", ["aten::cdist", "aten::bilinear", "aten::_native_multi_head_attention", "mine::add", "prim::PythonOp.F"]
)
def test_whatever_may_multiply_isnt_free(operator: str) -> None:
    """An operator that nobody knows must be reported, even if it has a harmless name."""
    assert not without_macs(operator)


def test_no_operator_with_a_handler_is_called_free() -> None:
    """The two lists must not contradict each other."""
    assert [op for op in HANDLERS if without_macs(op)] == []
