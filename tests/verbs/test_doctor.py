"""Doctor: finds what is missing or broken and says the line that repairs it."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import pytest

from edgekron import environments, plugins
from edgekron.errors import MissingExtraError
from edgekron.verbs.doctor import PACKAGES, Finding, doctor
from tests.workers import environment


def test_a_healthy_installation() -> None:
    report = doctor()
    assert report.healthy
    found = {finding.what: finding for finding in report.findings}
    assert list(found) == [
        *(f"package {name}" for name in PACKAGES),
        *("format onnx", "format tflite", "runtime litert", "runtime onnxruntime"),
        *(f"runtime {name}" for name in environments.KNOWN),
        *(f"device {kind}" for kind in plugins.names("devices")),
    ]
    assert found["package torch"].found == importlib.metadata.version("torch")
    assert found["format onnx"] == Finding("format onnx", ".onnx")
    assert found["runtime onnxruntime"].found == importlib.metadata.version("onnxruntime")
    lines = str(report).splitlines()
    assert lines[0].startswith("edgekron 0.1.0 on ")
    installed = len(PACKAGES) + 4
    assert all(line.endswith(" ok") for line in lines[3 : 3 + installed])
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["healthy"] is True
    assert content["version"] == "0.1.0"


def test_a_device_that_cannot_be_reached_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = {finding.what: finding for finding in doctor().findings}
    assert (found["device host"].found, found["device host"].note) == ("reachable from here", "ok")
    ssh = Finding("device ssh", "not reachable from here", note="if wanted: install openssh-client")
    assert found["device ssh"] == ssh


def test_environments_are_information_unless_they_are_broken() -> None:
    root = environments.default_root()
    made, *wanted = (environments.Environment.parse(name) for name in environments.KNOWN)
    environment(made.folder, version=made.version)
    report = doctor()
    assert report.healthy
    found = {finding.what: finding for finding in report.findings}
    assert found[f"runtime {made.name}"].found.startswith(f"{made.version}, Python ")
    for each in wanted:
        note = f"if wanted: {' && '.join(each.recipe())}"
        assert found[f"runtime {each.name}"] == Finding(f"runtime {each.name}", "not made", note=note)
        assert note in str(report)
    environment(root / "litert-7.0", script="echo and >&2; echo 'no module' >&2; exit 3")
    report = doctor()
    assert not report.healthy
    [finding] = [finding for finding in report.findings if finding.repair]
    folder = f"{root}/litert-7.0"
    assert finding == Finding(
        "runtime litert:7.0",
        "UnavailableError: runtime 'litert:7.0' does not load: no module",
        f"python3.11 -m venv --clear {folder} && {folder}/bin/python -m pip install ai-edge-litert==7.0",
    )


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
