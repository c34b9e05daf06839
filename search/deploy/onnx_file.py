"""A compressed model as the bytes of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_letters, digits
from typing import Any

import onnx
import onnx_ir as ir
from torch import Tensor, nn

from ...compressors.encoding import Encoding
from .skeleton import Exporter
from .unpacking import IR_VERSION
from .weights import Weight, pack_weights

_DIGITS = ascii_letters + digits
#: Attributes of convolutions and pools whose numbers are all this, if they aren't given.
_USUAL = {"strides": 1, "dilations": 1, "pads": 0}


def to_onnx(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    example: Sequence[Tensor],
    exporter: Exporter | None = None,
) -> bytes:
    """Return a model as an ONNX file with packed weights.

    Parameters
    ----------
    model
        In eval mode, dense weights.
    encodings
        Parameter name -> how it is stored.
    example
        The model's inputs, the batch first; the file takes any batch.
    exporter
        Another one than that of this process and machine.

    Raises
    ------
    ArtifactError
        If torch can't export the model.
    """
    return _slim(to_graph(model, encodings, example, exporter))


def to_graph(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    example: Sequence[Tensor],
    exporter: Exporter | None = None,
) -> ir.Model:
    """Return what `to_onnx` writes, as a graph that still tells where its nodes came from."""
    onnx_model = (exporter or Exporter())(model, example)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = {
        name: Weight(parameters[name].detach().cpu().numpy(), encoding)
        for name, encoding in encodings.items()
        if name in parameters
    }
    pack_weights(onnx_model.graph, weights)
    return onnx_model


def _slim(model: ir.Model) -> bytes:
    """Return the bytes of a model without what no runtime reads: where nodes came from, shapes between them, names, and
    what goes without saying.
    """
    graph = model.graph
    kept = {*graph.inputs, *graph.outputs}
    number = 0
    for node in graph:
        node.name = ""
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in kept:
                value.shape = value.type = None
                value.name, number = _short(number), number + 1
    for value in (*kept, *graph.initializers.values()):
        value.metadata_props.clear()
    for value in list(graph.initializers.values()):
        if value not in kept:
            value.name, number = _short(number), number + 1
    graph.metadata_props.clear()
    graph.doc_string = None
    model.metadata_props.clear()
    model.ir_version = IR_VERSION
    proto: Any = ir.to_proto(model)
    del proto.graph.value_info[:]
    version = next(entry.version for entry in proto.opset_import if not entry.domain)
    for node in proto.graph.node:
        node.ClearField("name")
        given = [a for a in node.attribute if node.domain or not _goes_without_saying(node.op_type, a, version)]
        del node.attribute[:]
        node.attribute.extend(given)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


def _goes_without_saying(kind: str, attribute: onnx.AttributeProto, version: int) -> bool:
    """Whether an attribute of an operator has the value that it has where it is left out."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name in _USUAL and all(x == _USUAL[attribute.name] for x in value):
        return True
    default = onnx.defs.get_schema(kind, version).attributes[attribute.name].default_value
    return bool(default.type) and bool(onnx.helper.get_attribute_value(default) == value)


def _short(number: int) -> str:
    """Return a name of few letters, another one for each number."""
    number, first = divmod(number, len(ascii_letters))
    name = ascii_letters[first]
    while number:
        number, digit = divmod(number - 1, len(_DIGITS))
        name += _DIGITS[digit]
    return name
