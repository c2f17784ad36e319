"""Corruption: one wrong number in a file, at a product of a known layer.

The products of a file stand in the order in which PyTorch runs its layers; each layer has as many as its
plan, a dense one has one. Names and values have no part in this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgekron.network import has_weight
from edgekron.verbs.open import open_artifact
from edgekron_tflite.flatbuffer import code_names, pack, parse

PRODUCTS = {"CONV_2D", "FULLY_CONNECTED", "Conv", "Gemm", "MatMul"}


def layers_of_products(path: Path, model: nn.Module, x: Tensor) -> list[str]:
    """The layer that each product of the file belongs to, in order of execution."""
    manifest = open_artifact(path).manifest
    assert manifest is not None
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in model.named_modules()
        if has_weight(module)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    names = []
    for name in order:
        steps = manifest.layers[name].plans[0].steps if name in manifest.layers else ()
        names += [name] * (sum(step.text.startswith(("convolve", "matmul")) for step in steps) or 1)
    return names


class OnnxFile:
    """The products of an ONNX file."""

    def __init__(self, path: Path) -> None:
        self.proto = onnx.load(path)
        self.products = [node for node in self.proto.graph.node if node.op_type in PRODUCTS]

    def change_weight(self, product: int) -> None:
        constants = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        node = self.products[product]
        [name] = [name for name in node.input[:2] if name in constants]
        own = copy.deepcopy(constants[name])
        own.CopyFrom(numpy_helper.from_array(_changed(numpy_helper.to_array(own)), f"{name}_changed"))
        self.proto.graph.initializer.append(own)  # another node may have the same constant
        node.input[list(node.input).index(name)] = own.name

    def set(self, node: onnx.NodeProto, **attributes: Any) -> None:
        for name, value in attributes.items():
            kept = [each for each in node.attribute if each.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def transposes_between(self, product: int) -> list[onnx.NodeProto]:
        nodes = list(self.proto.graph.node)
        first, last = (nodes.index(self.products[k]) for k in (product, product + 1))
        return [node for node in nodes[first:last] if node.op_type == "Transpose"]

    def write(self, path: Path) -> Path:
        onnx.save(self.proto, path)
        return path


class TfliteFile:
    """The products of a TFLite file."""

    def __init__(self, path: Path) -> None:
        self.model = parse(path.read_bytes())
        self.graph, names = self.model.subgraphs[0], code_names(self.model)
        self.named = [(names[each.opcodeIndex], each) for each in self.graph.operators]
        self.products = [each for name, each in self.named if name in PRODUCTS]

    def change_weight(self, product: int) -> None:
        self.change_constant(self.products[product], 1, np.float32, _changed)

    def change_constant(self, operator: Any, place: int, kind: Any, change: Callable[[Any], Any]) -> None:
        """Give the operator a constant of its own: others may have the same."""
        tensor = copy.copy(self.graph.tensors[operator.inputs[place]])
        buffer = copy.copy(self.model.buffers[tensor.buffer])
        values = np.asarray(buffer.data, np.uint8).view(kind).reshape(tensor.shape)
        buffer.data = np.ascontiguousarray(change(values)).reshape(-1).view(np.uint8)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        operator.inputs = np.array(operator.inputs)
        operator.inputs[place] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)

    def before(self, product: int, name: str) -> Any:
        """The last operator of this kind in front of a product."""
        operators = [each for _, each in self.named]
        end = operators.index(self.products[product])
        return [each for kind, each in self.named[:end] if kind == name][-1]

    def write(self, path: Path) -> Path:
        path.write_bytes(pack(self.model))
        return path


def _changed(values: Any) -> Any:
    own = np.array(values)
    own.reshape(-1)[-1] += np.abs(own).max()
    return own
