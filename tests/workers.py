"""Files and environments for the tests of workers: real runtimes of this Python, and one that misbehaves."""

from __future__ import annotations

import sys
from pathlib import Path

from onnx import TensorProto, helper

PROGRAM = (
    "import runpy, sys; sys.path.insert(0, {path!r}); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
LIBRARY = """
import os
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
print("the library says hello")
os.write(1, b"so does native code")

class SessionOptions:
    pass

class Value:
    name, shape, type = "x", [1, 2], "tensor(float)"

class InferenceSession:
    def __init__(self, path, options, providers):
        self.program = path.decode() if isinstance(path, bytes) else open(path).read()
        exec(self.program, {"when": "load"})

    def get_inputs(self):
        return [Value]

    get_outputs = get_inputs

    def run(self, names, feed):
        os.write(1, b"native code again")
        exec(self.program, {"when": "run"})
        return list(feed.values())
"""
"""An onnxruntime whose files are Python programs: they are executed when loaded and when run."""


def sums(path: Path, *, batch: int | str = 2) -> Path:
    """An ONNX file with the inputs a, b of shape (batch, 3) and the outputs out/sum = a + b, file = a - b."""
    names = ("a", "b", "out/sum", "file")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in names]
    nodes = [helper.make_node("Add", ["a", "b"], ["out/sum"]), helper.make_node("Sub", ["a", "b"], ["file"])]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def rounded(path: Path, *, quantum: float = 0.5) -> Path:
    """An ONNX file with the input x of shape (2, 3), and x rounded to multiples of a quantum as output."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [quantum])
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [scale, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def environment(folder: Path, *, version: str = "", script: str = "") -> Path:
    """An environment in this folder with the packages of this Python.

    version: of onnxruntime, to have the misbehaving one instead; script: what its interpreter does.
    """
    library = folder / "lib"
    if version:
        about = library / f"onnxruntime-{version}.dist-info" / "METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {version}\n")
        (library / "onnxruntime.py").write_text(LIBRARY)
    program = PROGRAM.format(path=str(library))
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = script or f'isolated=$1; shift; exec {sys.executable} $isolated -c "{program}" "$@"'
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder
