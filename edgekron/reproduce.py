"""Reproduce: runs the artifact beside this file on its inputs and compares with PyTorch's outputs.

    python reproduce.py

The standard library, numpy and the runtime are all it needs. Exit code 1 if an output is above its limit,
2 if the runtime is missing.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def run_onnx(path: str, inputs: dict[str, Any]) -> list[Any]:
    """Outputs of an ONNX file, on one thread."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it writes files in the user's cache
    library = import_module("onnxruntime")
    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def run_tflite(path: str, inputs: dict[str, Any], module: str) -> list[Any]:
    """Outputs of a TFLite file, on one thread; its inputs come in the order of the arrays."""
    interpreter = import_module(module).Interpreter(model_path=path, num_threads=1)
    details = interpreter.get_input_details()
    for k, x in enumerate(inputs.values()):
        interpreter.resize_tensor_input(details[k]["index"], x.shape)
    interpreter.allocate_tensors()
    for k, x in enumerate(inputs.values()):
        interpreter.set_tensor(details[k]["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def permuted(arrays: dict[Any, Any], order: tuple[int, ...]) -> dict[Any, Any]:
    """Images with their axes in this order."""
    return {k: np.ascontiguousarray(x.transpose(order)) if x.ndim == 4 else x for k, x in arrays.items()}


def main() -> int:
    """Print the error of each output; 1 if one is above its limit."""
    folder = Path(__file__).resolve().parent
    about = json.loads((folder / "run.json").read_text())
    inputs, reference = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "reference"))
    nhwc = about["layout"] == "nhwc"
    inputs = permuted(inputs, (0, 2, 3, 1)) if nhwc else inputs
    path, runtime = str(folder / about["artifact"]), about["runtime"].partition(":")[0]
    if runtime == "onnxruntime":
        found = run_onnx(path, inputs)
    else:
        modules = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
        found = run_tflite(path, inputs, modules[runtime])
    outputs = dict(enumerate(found))
    outputs = permuted(outputs, (0, 3, 1, 2)) if nhwc else outputs
    failed = len(outputs) != len(reference)
    for k, (name, expected) in enumerate(reference.items()):
        shape = outputs[k].shape if k in outputs else None
        if shape != expected.shape:
            print(f"{name}: shape {shape}, expected {expected.shape}: FAILED")
            failed = True
            continue
        error, limit = np.abs(expected.astype(np.float64) - outputs[k]).max(initial=0.0), about["limits"][k]
        passed = bool(error <= limit)  # not if NaN
        print(
            f"{name}: largest difference {error:.3g}, limit {limit:.3g}: {'passed' if passed else 'FAILED'}"
        )
        failed = failed or not passed
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ImportError as missing:
        print(f"{missing}: install what versions.json names", file=sys.stderr)
        sys.exit(2)
