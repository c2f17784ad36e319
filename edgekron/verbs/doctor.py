"""Doctor: what is installed, what is missing, and the line that repairs it. Never installs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgekron import __version__, environments, plugins
from edgekron.errors import EdgekronError, MissingExtraError
from edgekron.host import machine
from edgekron.table import table
from edgekron.wording import one_line

PACKAGES = {
    "numpy": "pip install numpy",
    "scipy": "pip install scipy",
    "tensorly": "pip install tensorly",
    "torch": "pip install torch",
    "onnx": "pip install 'edgekron[onnx]'",
    "onnxscript": "pip install 'edgekron[onnx]'",
    "onnxruntime": "pip install 'edgekron[onnx]'",
    "onnxsim": "pip install 'edgekron[onnx]'",
    "litert-torch": "pip install 'edgekron[tflite]'",
    "ai-edge-litert": "pip install 'edgekron[tflite]'",
    "flatbuffers": "pip install 'edgekron[tflite]'",
}


@dataclass(frozen=True)
class Finding:
    """One thing examined; repair is the line that mends it, empty if nothing is wrong; note: in its place."""

    what: str
    found: str
    repair: str = ""
    note: str = "ok"


@dataclass(frozen=True)
class DoctorReport:
    """All findings."""

    machine: dict[str, str | int]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Nothing needs a repair."""
        return not any(finding.repair for finding in self.findings)

    def __str__(self) -> str:
        rows = [[f.what, f.found, f.repair or f.note] for f in self.findings]
        facts = ", ".join(str(value) for value in self.machine.values())
        return f"edgekron {__version__} on {facts}\n\n{table(['what', 'found', 'repair'], rows, left=3)}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"version": __version__, "healthy": self.healthy}


def doctor() -> DoctorReport:
    """Examine packages, then load every format and every runtime, here and in environments of their own."""
    findings = []
    for package, repair in PACKAGES.items():
        try:
            findings.append(Finding(f"package {package}", version(package)))
        except PackageNotFoundError:
            findings.append(Finding(f"package {package}", "missing", repair))
    for name in plugins.names("exporters"):
        findings.append(_loads(f"format {name}", lambda name=name: plugins.exporter(name).suffix))
    for name in plugins.names("runtimes"):
        findings.append(_loads(f"runtime {name}", lambda name=name: plugins.runtime(name).version()))
    devices = map(_reaches, plugins.names("devices"))
    return DoctorReport(machine(), (*findings, *_environments(), *devices))


def _reaches(kind: str) -> Finding:
    missing = plugins.device_kind(kind).missing()
    found = Finding(f"device {kind}", "reachable from here")
    return replace(found, found="not reachable from here", note=f"if wanted: {missing}") if missing else found


def _environments() -> Iterator[Finding]:
    """Those that exist, and how to make those that are known."""
    made = environments.found()
    for each in made:
        try:
            yield Finding(f"runtime {each.name}", each.about())
        except EdgekronError as error:
            yield Finding(f"runtime {each.name}", one_line(error), " && ".join(each.recipe(afresh=True)))
    for name in environments.KNOWN:
        if (each := environments.Environment.parse(name)) not in made:
            yield Finding(f"runtime {name}", "not made", note=f"if wanted: {' && '.join(each.recipe())}")


def _loads(what: str, examine: Any) -> Finding:
    try:
        return Finding(what, examine())
    except MissingExtraError as error:
        return Finding(what, "does not load", str(error).rpartition(": ")[2])
    except Exception as error:  # a library of another version may fail in any way
        return Finding(what, f"does not load: {one_line(error)}", "pip install --upgrade 'edgekron[all]'")
