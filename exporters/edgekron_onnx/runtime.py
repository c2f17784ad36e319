"""onnxruntime on this machine's CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it writes files in the user's cache; before the import

import onnxruntime

from edgekron.artifact import Array, TensorInfo
from edgekron.errors import UsageError
from edgekron.wording import one_line

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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if threads > 1:  # a spinning thread of one session would slow the others measured beside it
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            return OnnxSession(session)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        except Exception as error:  # onnxruntime's exception classes are private
            raise UsageError(f"{path}: onnxruntime cannot load this file: {one_line(error)}") from error
