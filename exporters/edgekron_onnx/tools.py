"""Tools: the parts of onnxruntime that convert models, imported where they are needed.

They find one another by a folder that the first of them adds to sys.path, and fail where it was taken away
again; so it is there whenever one is imported.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekron.errors import MissingExtraError


def tool(name: str, precision: str) -> Any:
    """The module of onnxruntime of this name; MissingExtraError if there is no onnxruntime.

    precision: what it is needed for.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it writes files in the user's cache; before the import
    path = list(sys.path)
    try:
        folder = Path(import_module("onnxruntime").__file__ or "").parent / "transformers"
        sys.path.append(str(folder))
        return import_module(f"onnxruntime.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"{precision} needs the package 'onnxruntime': pip install 'edgekron[onnx]'"
        ) from error
    finally:
        sys.path[:] = path
