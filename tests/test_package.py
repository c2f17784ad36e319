"""The package itself: what the wheel holds, what is public, what imports load, what a missing extra says."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import edgekron

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("torch", "onnx", "onnxscript", "onnxruntime", "onnxsim", "litert_torch", "ai_edge_litert", "jax"),
    *("ai_edge_quantizer", "PIL"),
)


def python(program: str, *, code: int = 0) -> str:
    """What a fresh interpreter prints; its exit code must be the given one."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.iterdir()
    assert path.name == "edgekron-0.1.0-py3-none-any.whl"
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names} == {
        *("edgekron", "edgekron_adb", "edgekron_onnx", "edgekron_qemu", "edgekron_ssh", "edgekron_tflite"),
        "edgekron-0.1.0.dist-info",
    }
    for name in (
        "edgekron/__init__.py",
        "edgekron/py.typed",
        "edgekron/bundled/resnet18_kronecker.pt",
        "edgekron/bundled/resnet20.pt",
        "edgekron/cli/__init__.py",
        "edgekron/networks/resnet.py",
        "edgekron_adb/profile.sh",
        "edgekron_adb/py.typed",
        "edgekron_adb/runner/ekrun.c",
        "edgekron_onnx/exporter.py",
        "edgekron_onnx/py.typed",
        "edgekron_qemu/py.typed",
        "edgekron_ssh/py.typed",
        "edgekron_tflite/rewrite.py",
        "edgekron_tflite/py.typed",
        "edgekron-0.1.0.dist-info/licenses/LICENSE",
    ):
        assert name in names
    kinds = {Path(name).suffix for name in names if "dist-info" not in name}
    assert kinds == {".py", ".pt", ".typed", ".c", ".h", ".sh"}  # ekrun and profile.sh travel as source
    assert not [name for name in names if "test" in name or "benchmark" in name or "data/" in name]
    assert sum(info.compress_size for info in wheel.infolist()) < 4_000_000


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    rooms = [*(ROOT / "exporters").glob("edgekron_*"), *(ROOT / "devices").glob("edgekron_*")]
    packages = [ROOT / "edgekron", *rooms]
    modules = {
        str(path.relative_to(package.parent)) for package in packages for path in package.rglob("*.py")
    }
    assert {name for name in wheel.namelist() if name.endswith(".py")} == modules


def test_metadata_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read("edgekron-0.1.0.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("edgekron", edgekron.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == [
        "adb",
        "all",
        "benchmarks",
        "dev",
        "images",
        "onnx",
        "tflite",
    ]
    always = {
        line.split(">")[0] for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line
    }
    assert {"numpy", "scipy", "torch", "rich", "typer"} <= always
    assert not always & {"onnx", "onnxruntime", "onnxsim", "litert-torch", "ai-edge-litert"}
    points = wheel.read("edgekron-0.1.0.dist-info/entry_points.txt").decode()
    for line in (
        "edgekron = edgekron.cli:main",
        "onnx = edgekron_onnx.exporter:OnnxExporter",
        "tflite = edgekron_tflite.exporter:TfliteExporter",
        "onnxruntime = edgekron_onnx.runtime:OnnxRuntime",
        "litert = edgekron_tflite.runtime:LiteRuntime",
        "adb = edgekron_adb.device:AdbDevice",
        "host = edgekron.host_device:HostDevice",
        "qemu = edgekron_qemu.device:QemuDevice",
        "ssh = edgekron_ssh.device:SshDevice",
    ):
        assert line in points


LIGHT = ["edgekron", *(f"edgekron.{name}" for name in ("cli", "structure", "plan", "parity", "latency"))]


@pytest.mark.parametrize("module", LIGHT)
def test_an_import_that_loads_no_framework(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(program) == "[]\n"


def test_the_core_loads_no_format_and_no_runtime() -> None:
    program = (
        "import sys, edgekron.compression, edgekron.checkpoint, edgekron.plugins, edgekron.verbs.export\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert python(program) == "['torch']\n"


def test_the_help_loads_no_framework() -> None:
    program = (
        "import sys\nfrom edgekron.cli import main\nsys.argv = ['edgekron', 'export', '--help']\n"
        f"try:\n    main()\nexcept SystemExit:\n    print([n for n in {HEAVY} if n in sys.modules])"
    )
    assert python(program).endswith("\n[]\n")


PUBLIC = [
    *("CompressionReport", "EdgekronError", "Factor", "Factors", "KroneckerConv2d", "KroneckerLinear"),
    *("Structure", "bench", "compress", "decompose", "export", "inspect", "kronecker_to_tensor", "load"),
    *("save", "verify"),
]


def test_public_names() -> None:
    assert set(PUBLIC) <= set(edgekron.__all__)
    assert edgekron.__all__ == sorted(edgekron.__all__)
    for name in edgekron.__all__:
        assert getattr(edgekron, name).__name__ == name
        assert getattr(edgekron, name).__doc__
    assert {*edgekron.__all__, "__version__"} <= set(dir(edgekron))
    with pytest.raises(AttributeError) as error:
        edgekron.__getattr__("comprss")
    assert str(error.value) == "module 'edgekron' has no attribute 'comprss'"


def test_public_names_in_fresh_interpreters() -> None:
    names = edgekron.__all__
    assert python(f"from edgekron import *\nprint([callable(eval(n)) for n in {names}].count(True))") == (
        f"{len(names)}\n"
    )
    # importing a submodule sets an attribute of the package: it must not hide a public name
    program = (
        "import importlib, pkgutil, edgekron\n"
        "for found in pkgutil.walk_packages(edgekron.__path__, 'edgekron.'):\n"
        "    importlib.import_module(found.name)\n"
        f"print([n for n in {names} if getattr(edgekron, n).__name__ != n])"
    )
    assert python(program) == "[]\n"


def test_every_module_says_what_it_is_for() -> None:
    for name in (
        "edgekron",
        "edgekron_adb",
        "edgekron_onnx",
        "edgekron_qemu",
        "edgekron_ssh",
        "edgekron_tflite",
    ):
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            assert importlib.import_module(found.name).__doc__, found.name


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Blocker())
"""
COMMAND = """
from edgekron.cli import main
sys.argv = ["edgekron", *{arguments}]
main()
"""


@pytest.mark.parametrize(
    ("blocked", "arguments", "message"),
    [
        (
            "onnxruntime",
            ("bench", "m.onnx"),
            "runtime 'onnxruntime' needs the package 'onnxruntime': pip install 'edgekron[onnx]'",
        ),
        (
            "onnxsim",
            ("export", "m.pt", "-f", "onnx"),
            "format 'onnx' needs the package 'onnxsim': pip install 'edgekron[onnx]'",
        ),
        (
            "litert_torch",
            ("export", "m.pt", "-f", "tflite"),
            "format 'tflite' needs the package 'litert_torch': pip install 'edgekron[tflite]'",
        ),
        (
            "ai_edge_litert",
            ("inspect", "m.tflite"),
            "format 'tflite' needs the package 'ai_edge_litert': pip install 'edgekron[tflite]'",
        ),
    ],
)
def test_a_missing_extra_is_the_line_that_installs_it(
    blocked: str, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # the smallest ONNX file: a graph of one node
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x3a\x0c\x0a\x0a\x0a\x01x\x12\x01y\x22\x02Id")
    program = BLOCKED.format(blocked={blocked}) + COMMAND.format(arguments=arguments)
    assert python(program, code=2) == f"error: {message}\n"


def test_doctor_without_any_extra() -> None:
    blocked = {"onnx", "onnxruntime", "onnxsim", "litert_torch", "ai_edge_litert"}
    program = BLOCKED.format(blocked=blocked) + (
        "from edgekron.verbs.doctor import doctor\n"
        "for f in doctor().findings:\n    if f.repair: print(f.what, '|', f.found, '|', f.repair)"
    )
    assert python(program).splitlines() == [
        "format onnx | does not load | pip install 'edgekron[onnx]'",
        "format tflite | does not load | pip install 'edgekron[tflite]'",
        "runtime litert | does not load | pip install 'edgekron[tflite]'",
        "runtime onnxruntime | does not load | pip install 'edgekron[onnx]'",
    ]


def test_torch_networks_work_without_any_extra() -> None:
    program = BLOCKED.format(blocked=set(HEAVY[1:])) + (
        "import torch, edgekron\n"
        "small = edgekron.compress(torch.nn.Linear(64, 64), example_inputs=torch.zeros(1, 64), ratio=4)\n"
        "print(small.compression.ratio >= 4)"
    )
    assert python(program) == "True\n"


def test_telemetry_is_off() -> None:
    program = (
        "import os\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "from edgekron import plugins\nplugins.runtime('onnxruntime')\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    assert python(program) == "1\n"
