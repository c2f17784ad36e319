"""Doctor: finds what is missing or broken and says the line that repairs it."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import pytest

from edgekron import plugins
from edgekron.errors import MissingExtraError
from edgekron.verbs.doctor import PACKAGES, Finding, doctor


def test_a_healthy_installation() -> None:
    report = doctor()
    assert report.healthy
    found = {finding.what: finding for finding in report.findings}
    assert list(found) == [
        *(f"package {name}" for name in PACKAGES),
        *("format onnx", "format tflite", "runtime litert", "runtime onnxruntime"),
    ]
    assert found["package torch"].found == importlib.metadata.version("torch")
    assert found["format onnx"] == Finding("format onnx", ".onnx")
    assert found["runtime onnxruntime"].found == importlib.metadata.version("onnxruntime")
    lines = str(report).splitlines()
    assert lines[0].startswith("edgekron 0.1.0 on ")
    assert all(line.endswith(" ok") for line in lines[3:])
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["healthy"] is True
    assert content["version"] == "0.1.0"


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onnxsim":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr("edgekron.verbs.doctor.version", version)
    report = doctor()
    assert not report.healthy
    [finding] = [finding for finding in report.findings if finding.repair]
    assert finding == Finding("package onnxsim", "missing", "pip install 'edgekron[onnx]'")
    assert "pip install 'edgekron[onnx]'" in str(report)
    assert report.to_json()["healthy"] is False


@pytest.mark.parametrize(
    ("error", "found", "repair"),
    [
        (
            MissingExtraError("runtime 'litert' needs the package 'x': pip install 'edgekron[tflite]'"),
            "does not load",
            "pip install 'edgekron[tflite]'",
        ),
        (
            AttributeError("module 'numpy' has no attribute 'object'\nand more"),
            "does not load: AttributeError: module 'numpy' has no attribute 'object'",
            "pip install --upgrade 'edgekron[all]'",
        ),
    ],
)
def test_a_runtime_that_does_not_load(
    error: Exception, found: str, repair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = plugins.runtime

    def runtime(name: str) -> Any:
        if name == "litert":
            raise error
        return right(name)

    monkeypatch.setattr(plugins, "runtime", runtime)
    report = doctor()
    assert [finding for finding in report.findings if finding.repair] == [
        Finding("runtime litert", found, repair)
    ]
