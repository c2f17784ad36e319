"""onnxruntime on this machine's CPU."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it writes files in the user's cache; before the import

import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgekron.artifact import Array, TensorInfo
from edgekron.delegation import DelegationReport
from edgekron.errors import UsageError
from edgekron.operator_times import OperatorTime, OperatorTimes
from edgekron.wording import one_line
from edgekron_onnx import delegation
from edgekron_onnx.operators import MOVERS

WARMUP = 5
"""Runs of a profile that do not count: the first ones allocate."""
_KERNEL = "_kernel_time"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}


def _dtype(name: str) -> str:
    if name not in _DTYPES:
        raise UsageError(f"an input of type {name} is not supported, only {', '.join(_DTYPES)}")
    return _DTYPES[name]


class OnnxSession:
    """One ONNX file in onnxruntime."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = tuple(
            TensorInfo(
                value.name,
                tuple(n if isinstance(n, int) else -1 for n in value.shape),
                _dtype(value.type),
            )
            for value in session.get_inputs()
        )

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs for these inputs."""
        feed = {info.name: x for info, x in zip(self.inputs, inputs, strict=True)}
        outputs: list[Array] = self._session.run(None, feed)
        return outputs


class OnnxRuntime:
    """onnxruntime, CPU provider."""

    name = "onnxruntime"
    formats = ("onnx",)

    def version(self) -> str:
        """Version of onnxruntime."""
        return str(onnxruntime.__version__)

    def open(self, path: Path, *, threads: int = 1) -> OnnxSession:
        """Load a file with full graph optimisation on this many threads."""
        try:
            return OnnxSession(_session(path, _options(threads)))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        except Exception as error:  # onnxruntime's exception classes are private
            raise UsageError(f"{path}: onnxruntime cannot load this file: {one_line(error)}") from error

    def delegation(self, path: Path) -> DelegationReport:
        """The nodes that stay on slow kernels once the graph is optimised."""
        try:
            optimized = _optimized(path)
        except Exception as error:  # onnxruntime's exception classes are private
            raise UsageError(f"{path}: onnxruntime cannot load this file: {one_line(error)}") from error
        return delegation.report(onnx.load(path), optimized, blocked=has_blocked_kernels())

    def profile(
        self, path: Path, inputs: Sequence[Array], *, threads: int = 1, runs: int = 30
    ) -> OperatorTimes:
        """The nodes of the optimised graph, in whole microseconds as onnxruntime's profiler writes them."""
        with tempfile.TemporaryDirectory() as folder:
            options = _options(threads)
            options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
            try:
                own = _session(path, options)
                session = OnnxSession(own)
                for _ in range(WARMUP + runs):
                    session.run(inputs)
                events = json.loads(Path(own.end_profiling()).read_text())
            except Exception as error:  # onnxruntime's exception classes are private
                raise UsageError(f"{path}: onnxruntime cannot run this file: {one_line(error)}") from error
        return OperatorTimes(f"{self.name} {self.version()}", threads, runs, operator_times(events))


def operator_times(events: Sequence[dict[str, Any]]) -> tuple[OperatorTime, ...]:
    """Median of each node, the warm-up left out."""
    durations: dict[tuple[str, str, str], list[int]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            about = event["args"]
            node = (event["name"].removesuffix(_KERNEL), about["op_name"], about["node_index"])
            durations.setdefault(node, []).append(event["dur"])
    return tuple(
        OperatorTime(name, kind, median(each[WARMUP:]) / 1000, kind in MOVERS)
        for (name, kind, _), each in durations.items()
    )


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:  # a spinning thread of one session would slow the others measured beside it
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _optimized(path: Path) -> onnx.ModelProto:
    """The graph that onnxruntime executes on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = _options(1)
        options.optimized_model_filepath = str(target)
        _session(path, options)
        return onnx.load(target)


@cache
def has_blocked_kernels() -> bool:
    """Whether onnxruntime runs a convolution of 16 channels on blocked kernels on this CPU."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 8, 8]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [16, 16, 1, 1], [1.0] * 256)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "probe", values[:1], values[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save(model, path)
        return any(node.domain == delegation.BLOCKED for node in _optimized(path).graph.node)
