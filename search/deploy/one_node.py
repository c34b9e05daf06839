"""A file of one node, to time what a kernel does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .unpacking import IR_VERSION

_OPSET = 20


def one_node(
    node: onnx.NodeProto, x: Sequence[int], y: Sequence[int], constants: Mapping[str, npt.NDArray[Any]]
) -> bytes:
    """Return the ONNX file of a node from ``x`` to ``y``, fp32, of these shapes; its other inputs are constants."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x), ("y", y))]
    values = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], values)
    imports = [helper.make_opsetid("", _OPSET), *([helper.make_opsetid(node.domain, 1)] if node.domain else [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model.SerializeToString()  # type: ignore[no-any-return]  # onnx says nothing of its type
