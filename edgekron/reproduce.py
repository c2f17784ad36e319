"""Reproduce: runs the artifact beside this file on its inputs and compares with PyTorch's outputs.

    python reproduce.py

The standard library, numpy and the runtime are all it needs. Exit code 1 if an output is above its limit,
2 if it does not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def run(folder: Path, artifact: str, runtime: str, inputs: dict[str, Any]) -> list[Any]:
    """Outputs of the artifact, from the worker beside this file; exits with 2 if it cannot run."""
    with tempfile.TemporaryDirectory() as place:
        paths = [str(Path(place) / name) for name in ("inputs.npz", "outputs.npz")]
        np.savez(paths[0], *inputs.values()) if len(inputs) == 1 else np.savez(paths[0], **inputs)
        command = [sys.executable, str(folder / "worker.py"), runtime, str(folder / artifact)]
        if subprocess.call([*command, "--inputs", paths[0], "--outputs", paths[1]]):
            print("the artifact did not run: see versions.json for where it did", file=sys.stderr)
            sys.exit(2)
        with np.load(paths[1]) as found:
            return [found[name] for name in found.files]


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
    runtime = about["runtime"].partition(":")[0]
    outputs = dict(enumerate(run(folder, about["artifact"], runtime, inputs)))
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
    sys.exit(main())
