"""LiteRT (ai-edge-litert) on this machine's CPU, with the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgekron.artifact import Array, TensorInfo
from edgekron.delegation import DelegationReport
from edgekron.errors import UsageError
from edgekron.operator_times import OperatorTimes
from edgekron.quiet import quiet
from edgekron.wording import one_line
from edgekron_tflite import delegation
from edgekron_tflite.flatbuffer import parse


class LiteSession:
    """One TFLite file in a LiteRT interpreter."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        interpreter.allocate_tensors()
        self._inputs = interpreter.get_input_details()
        self._outputs = interpreter.get_output_details()
        self.inputs = tuple(
            TensorInfo(
                detail["name"].removeprefix("serving_default_").removesuffix(":0"),
                tuple(int(n) for n in detail["shape_signature"]),
                np.dtype(detail["dtype"]).name,
            )
            for detail in self._inputs
        )
        self._shapes = [tuple(detail["shape"]) for detail in self._inputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs; a file with a free batch is resized to theirs.

        Of an int8 file: floats, or its own numbers if it was given its own.
        """
        encoded = [_encoded(x, detail) for x, detail in zip(inputs, self._inputs, strict=True)]
        triples = zip(inputs, encoded, self._inputs, strict=True)
        own = any(detail["quantization"][0] and x is code for x, code, detail in triples)
        shapes = [x.shape for x in inputs]
        if shapes != self._shapes:
            for detail, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(detail["index"], shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for detail, x in zip(self._inputs, encoded, strict=True):
            self._interpreter.set_tensor(detail["index"], x)
        self._interpreter.invoke()
        outputs = [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]
        if own:
            return outputs
        return [_decoded(y, detail) for y, detail in zip(outputs, self._outputs, strict=True)]


def _encoded(x: Array, detail: dict[str, Any]) -> Array:
    """Floats as the numbers of a quantized input that stand for them; anything else as it is."""
    (scale, zero), kind = detail["quantization"], np.dtype(detail["dtype"])
    if not scale or x.dtype.kind != "f" or kind.kind not in "iu":
        return x
    limits = np.iinfo(kind)
    encoded: Array = np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(kind)
    return encoded


def _decoded(y: Array, detail: dict[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    return (y.astype(np.float32) - zero) * np.float32(scale) if scale and y.dtype.kind in "iu" else y


class LiteRuntime:
    """ai-edge-litert, CPU."""

    name = "litert"
    formats = ("tflite",)

    def version(self) -> str:
        """Version of ai-edge-litert."""
        return version("ai-edge-litert")

    def open(self, path: Path, *, threads: int = 1) -> LiteSession:
        """Load a file on this many threads."""
        try:
            with quiet():
                return LiteSession(Interpreter(model_path=str(path), num_threads=threads))
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"{path}: LiteRT cannot load this file: {one_line(error)}") from error

    def delegation(self, path: Path) -> DelegationReport:
        """The operators that XNNPACK takes."""
        try:
            data = path.read_bytes()
            with quiet():
                # Else a run of operators is one delegate node, which does not say what is in it.
                alone = {"experimental_disable_delegate_node_fusion": True}
                interpreter = Interpreter(model_content=data, num_threads=1, **alone)
                interpreter.allocate_tensors()
                nodes = interpreter._get_ops_details()
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"{path}: LiteRT cannot load this file: {one_line(error)}") from error
        return delegation.report(parse(data), nodes)

    def profile(
        self, path: Path, inputs: Sequence[Array], *, threads: int = 1, runs: int = 30
    ) -> OperatorTimes:
        """Refused: the interpreter's Python interface has no profiler."""
        raise UsageError(
            f"{path}: LiteRT's Python interpreter gives no time per operator; its benchmark_model does, "
            "with --enable_op_profiling=true"
        )
