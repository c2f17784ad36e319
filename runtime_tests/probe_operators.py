"""Probe: the newest version of each TFLite operator that a runtime runs.

    python runtime_tests/probe_operators.py PYTHON > runtime_tests/tflite_2_14_operators.json

PYTHON: of an environment with tflite-runtime 2.14.0. Its interpreter refuses a file that names an
operator or a version that it does not know, whether or not a graph uses it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from edgekron_tflite.flatbuffer import code_names, pack

NEWEST = 16
DEPRECATED_BELOW = 127
OPEN = """
import sys
from tflite_runtime.interpreter import Interpreter
for path in sys.stdin.read().split():
    try:
        Interpreter(model_path=path)
        print("yes")
    except (ValueError, RuntimeError) as error:
        print("no" if "Registration failed" in str(error) else sys.exit(str(error)))
"""


def main() -> None:
    """Print the table as JSON."""
    codes = sorted(code for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_"))
    codes.remove(schema.BuiltinOperator.CUSTOM)
    asked = [(code, version) for code in codes for version in range(1, NEWEST + 1)]
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for code, version in asked:
            paths.append(Path(folder) / f"{code}-{version}.tflite")
            paths[-1].write_bytes(pack(naming(code, version)))
        run = subprocess.run(
            [sys.argv[1], "-c", OPEN],
            input="\n".join(map(str, paths)),
            capture_output=True,
            text=True,
            timeout=600,
        )
    if run.returncode:
        sys.exit(run.stderr)
    for (code, version), answer in zip(asked, run.stdout.split(), strict=True):
        if answer == "yes":
            (name,) = code_names(naming(code, version))
            found[name] = version
    print(json.dumps(dict(sorted(found.items())), indent=1))


def naming(code: int, version: int) -> schema.ModelT:
    """A model that names one operator, and does nothing."""
    model, graph, named = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    named.builtinCode, named.version = code, version
    named.deprecatedBuiltinCode = min(code, DEPRECATED_BELOW)
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [named]
    model.buffers = [schema.BufferT()]
    return model


if __name__ == "__main__":
    main()
