"""Open: the bytes, the manifest and a session of an artifact on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgekron import plugins
from edgekron.artifact import Manifest, TensorInfo
from edgekron.errors import UsageError
from edgekron.exporter import Exporter
from edgekron.files import read_whole
from edgekron.precision import Precision, require_precision
from edgekron.runtime import Runtime, Session
from edgekron.verbs.trials import torch_layout


@dataclass(frozen=True, eq=False)
class Opened:
    """An artifact, which need not be edgekron's own (then it has no manifest)."""

    path: Path
    data: bytes
    exporter: Exporter
    manifest: Manifest | None

    @property
    def layout(self) -> str:
        """Layout of 4-D inputs and outputs; a file without manifest has its format's own."""
        if self.manifest:
            return self.manifest.layout
        return "nhwc" if self.exporter.format == "tflite" else "nchw"

    @property
    def precision(self) -> Precision:
        """Of the numbers in the file; without a manifest fp32."""
        return require_precision(self.manifest.precision if self.manifest else "fp32")

    def runtime(self, name: str | None = None) -> Runtime:
        """The named runtime, by default the format's own; UsageError if it runs other formats."""
        found = plugins.runtime(name or self.exporter.runtime)
        if self.exporter.format not in found.formats:
            raise UsageError(
                f"{self.path}: runtime '{found.name}' runs {', '.join(found.formats)} files, "
                f"not {self.exporter.format}"
            )
        return found

    def session(self, runtime: str | None = None, threads: int = 1) -> Session:
        """A session on the named runtime."""
        return self.runtime(runtime).open(self.path, threads=threads)

    def inputs(self, session: Session) -> tuple[TensorInfo, ...]:
        """The inputs as the PyTorch network takes them; those of an int8 file are floats there."""
        own = self.own_inputs(session)
        types = {info.name: info.dtype for info in self.manifest.inputs} if self.manifest else {}
        return tuple(replace(info, dtype=types.get(info.name, info.dtype)) for info in own)

    def own_inputs(self, session: Session) -> tuple[TensorInfo, ...]:
        """The inputs of the file, in its own types."""
        return torch_layout(session.inputs, self.layout)


def open_artifact(path: str | Path) -> Opened:
    """Read an artifact; UsageError for a missing file, an unknown suffix or damaged content."""
    path = Path(path)
    exporter = plugins.exporter(plugins.format_of(path))
    data = read_whole(path)
    try:
        return Opened(path, data, exporter, exporter.manifest(data))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
