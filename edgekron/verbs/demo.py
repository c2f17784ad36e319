"""Demo: the whole story on the bundled trained network."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekron import bundled, plugins
from edgekron.checkpoint import read_checkpoint
from edgekron.choice import PlanChoice
from edgekron.cifar10 import load, normalise
from edgekron.errors import UsageError
from edgekron.export_report import ExportReport
from edgekron.latency import LatencyReport, SpeedUp
from edgekron.precision import Precision
from edgekron.progress import Progress, silent
from edgekron.table import table
from edgekron.verbs.bench import bench
from edgekron.verbs.export import export
from edgekron.verbs.open import open_artifact

CHECKOUT_IMAGES = Path(__file__).parents[2] / "benchmarks" / "data"
"""200 test images, in a source checkout only: CIFAR-10 has no licence to ship them in a package."""


_VARIANTS: tuple[tuple[PlanChoice, Precision], ...] = (
    *(("dense", "fp32"), ("auto", "fp32"), ("auto", "fp16")),
    *(("dense", "int8"), ("auto", "int8")),
)
"""Files of each format; the first is the baseline. Those in int8 need images."""


@dataclass(frozen=True)
class DemoRow:
    """One artifact. latency: ms, the median; accuracy: % of the images, None without images."""

    file: str
    runtime: str
    size: int
    parameters: int
    macs: int
    latency: float
    speedup: str
    max_error: float
    accuracy: float | None


@dataclass(frozen=True)
class DemoReport:
    """Dense against compressed on every runtime; reports has the raw samples."""

    rows: tuple[DemoRow, ...]
    images: int
    latency: tuple[LatencyReport, ...]

    def __str__(self) -> str:
        head = [
            "file",
            "runtime",
            "size",
            "parameters",
            "MACs",
            "latency",
            "speed-up",
            "max error",
            "accuracy",
        ]
        rows = [
            [
                row.file,
                row.runtime,
                f"{row.size / 1e6:.2f} MB",
                f"{row.parameters / 1e6:.2f} M",
                f"{row.macs / 1e6:.0f} M",
                f"{row.latency:.2f} ms",
                row.speedup,
                f"{row.max_error:.0e}",
                "-" if row.accuracy is None else f"{row.accuracy:.2f} %",
            ]
            for row in self.rows
        ]
        smaller = self.rows[0].size / self.rows[1].size
        quantized = [f"{name} {speedup}" for name, speedup in self.int8_speedups.items()]
        what = (
            f"accuracy on {self.images:,} CIFAR-10 test images"
            if self.images
            else "no images for the accuracy: name a folder with test_batch.bin by --cifar10"
        )
        lines = [
            table(head, rows, left=2),
            f"{smaller:.1f}x smaller file; latency of one image on one thread; max error of the outputs "
            f"relative to their range, against PyTorch; {what}",
            *([f"speed-up against the dense network in int8: {', '.join(quantized)}"] if quantized else []),
            f"{self.latency[0].machine['cpu']}, {self.latency[0].rounds} interleaved rounds",
        ]
        lines += [f"warning: {text}" for report in self.latency for text in report.warnings]
        return "\n".join(lines)

    @property
    def int8_speedups(self) -> dict[str, SpeedUp]:
        """Of the compressed network against the dense one where both are int8, by file."""
        found = {}
        for report in self.latency:
            dense, small = (
                next((c.name for c in report.candidates if Path(c.name).stem == stem), None)
                for stem in (_stem("dense", "int8"), _stem("auto", "int8"))
            )
            if dense and small:
                found[Path(small).name] = report.against(dense)[small].speedup
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, with the raw samples."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "images": self.images,
            "int8_speedups": {name: asdict(speedup) for name, speedup in self.int8_speedups.items()},
            "latency": [report.to_json() for report in self.latency],
        }


def demo(
    *,
    folder: Path | None = None,
    cifar10: Path | None = None,
    formats: Sequence[str] = ("onnx", "tflite"),
    seconds: float = 8.0,
    progress: Progress = silent,
) -> DemoReport:
    """Export the bundled compressed ResNet-18 and its densified twin, verify, time and score them.

    In fp32, the compressed one in fp16, and both in int8, calibrated with 128 of the images.

    folder: keeps the files (default: nowhere); cifar10: folder of the test set (default: 200 images
    of a source checkout, else no accuracy); seconds: of measurement per format.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return demo(
                folder=Path(temporary), cifar10=cifar10, formats=formats, seconds=seconds, progress=progress
            )
    images = cifar10 or (CHECKOUT_IMAGES if CHECKOUT_IMAGES.is_dir() else None)
    pixels, labels = load(images) if images else (None, None)
    checkpoint = read_checkpoint(bundled.RESNET18_KRONECKER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    samples = None if pixels is None else normalise(pixels)
    variants = [each for each in _VARIANTS if each[1] != "int8" or samples is not None]
    steps, done, rows, latencies = (len(variants) + 2) * len(formats), 0, [], []

    def step(what: str) -> None:
        nonlocal done
        progress(what, done, steps)
        done += 1

    for format in formats:
        exports: list[ExportReport] = []
        for plan, precision in variants:
            path = folder / f"{_stem(plan, precision)}.{format}"
            step(f"exporting {path.name}")
            exports.append(
                export(
                    checkpoint.model,
                    path,
                    example_inputs=checkpoint.example_inputs(),
                    plan=plan,
                    precision=precision,
                    data=samples if precision == "int8" else None,
                    force=True,
                    source=checkpoint,
                )
            )
        step(f"measuring {format}")
        latencies.append(bench([report.path for report in exports], seconds=seconds))
        step(f"scoring {format}")
        for report in exports:
            measured = latencies[-1][str(report.path)]
            assert report.parity is not None
            rows.append(
                DemoRow(
                    report.path.name,
                    plugins.exporter(format).runtime,
                    report.size,
                    report.manifest.parameters[1],
                    report.manifest.macs[1],
                    measured.median,
                    "baseline" if report is exports[0] else str(measured.speedup),
                    report.parity.worst.relative_error,
                    None if samples is None else accuracy(report.path, samples, labels),
                )
            )
    progress("done", steps, steps)
    return DemoReport(tuple(rows), 0 if pixels is None else len(pixels), tuple(latencies))


def _stem(plan: PlanChoice, precision: Precision) -> str:
    """Name of a file without its suffix."""
    kind = "dense" if plan == "dense" else "kronecker"
    return f"resnet18_{kind}" if precision == "fp32" else f"resnet18_{kind}_{precision}"


def accuracy(path: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None) -> float:
    """Top-1 accuracy of a classifier's artifact in %, one image at a time."""
    opened = open_artifact(path)
    session = opened.session()
    nhwc = opened.layout == "nhwc"
    right = 0
    for image, label in zip(images[:, None], labels if labels is not None else (), strict=True):
        logits = session.run([np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if nhwc else image])[0]
        right += int(logits[0].argmax() == label)
    return 100 * right / len(images)
