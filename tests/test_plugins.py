"""Plug-ins: found by name, suggested when nearly right, and a line to install what is missing."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edgekron import plugins
from edgekron.errors import MissingExtraError, UsageError


def test_names() -> None:
    assert plugins.names("exporters") == ["onnx", "tflite"]
    assert plugins.names("runtimes") == ["litert", "onnxruntime"]
    assert plugins.names("devices") == ["adb", "host", "qemu", "ssh"]


def test_what_a_plug_in_says_of_itself() -> None:
    for name in plugins.names("exporters"):
        exporter = plugins.exporter(name)
        assert (exporter.format, exporter.suffix) == (name, f".{name}")
        assert name in plugins.runtime(exporter.runtime).formats
    for name in plugins.names("runtimes"):
        assert plugins.runtime(name).name == name
        assert plugins.runtime(name).version()[0].isdigit()


def test_every_plug_in_has_an_extra() -> None:
    assert {*plugins.names("exporters"), *plugins.names("runtimes")} == {*plugins.EXTRAS}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onxx", "unknown format 'onxx': known are onnx, tflite. Did you mean 'onnx'?"),
        ("tf-lite", "unknown format 'tf-lite': known are onnx, tflite. Did you mean 'tflite'?"),
        ("coreml", "unknown format 'coreml': known are onnx, tflite."),
        ("", "unknown format '': known are onnx, tflite."),
    ],
)
def test_unknown_formats(name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        plugins.exporter(name)
    assert str(error.value) == message


def test_an_unknown_runtime() -> None:
    with pytest.raises(UsageError) as error:
        plugins.runtime("tflite_runtime")
    assert str(error.value) == (
        "unknown runtime 'tflite_runtime': known are litert, onnxruntime, tflite-runtime. "
        "Did you mean 'tflite-runtime'?"
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("shh:pi", {}, "unknown device 'shh': known are adb, host, qemu, ssh. Did you mean 'ssh'?"),
        ("host", {"python": "p"}, "device 'host' has no option 'python': it has none."),
        (
            "ssh:pi",
            {"pyhton": "p"},
            "device 'ssh' has no option 'pyhton': it has python. Did you mean 'python'?",
        ),
        ("host:pi", {}, "device 'host:pi': the host is this machine, without an address"),
    ],
)
def test_devices_that_are_none(text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        plugins.device(text, options)
    assert str(error.value) == message


def test_a_device_is_its_address_and_options() -> None:
    device = plugins.device("ssh:pi@board:2222", {"python": "venv/bin/python"})
    assert device.address == "pi@board:2222"
    assert device == plugins.device("ssh:pi@board:2222", {"python": "venv/bin/python"})
    assert device != plugins.device("ssh:pi@board:2222")


def test_suffixes() -> None:
    assert plugins.format_of(Path("a/b.c.onnx")) == "onnx"
    for path in ("model", "model.pt", "onnx", ".onnx", "m.ONNX"):
        with pytest.raises(UsageError, match=r"the suffix says no format; known are \.onnx, \.tflite"):
            plugins.format_of(Path(path))
    onnx = plugins.exporter("onnx")
    plugins.require_suffix(Path("m.onnx"), onnx)
    plugins.require_suffix(Path("m.bin"), onnx)
    with pytest.raises(UsageError) as error:
        plugins.require_suffix(Path("m.tflite"), onnx)
    assert str(error.value) == "m.tflite: the suffix says tflite, but the format is onnx"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            ModuleNotFoundError("No module named 'onnx'", name="onnx"),
            "format 'onnx' needs the package 'onnx': pip install 'edgekron[onnx]'",
        ),
        (
            ImportError("libgomp.so.1: cannot open shared object file"),
            "format 'onnx' needs the package 'libgomp.so.1: cannot open shared object file': pip install "
            "'edgekron[onnx]'",
        ),
    ],
)
def test_a_plug_in_that_cannot_be_imported(
    failure: ImportError, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: EntryPoint) -> None:
        raise failure

    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(MissingExtraError) as error:
        plugins.exporter("onnx")
    assert str(error.value) == message
    assert error.value.exit_code == 2
