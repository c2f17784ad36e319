"""Sizes, errors and accuracy of the bundled ResNet-18 in every precision, in both formats.

    python benchmarks/precisions.py --cifar10 DIR

DIR holds `test_batch.bin` of CIFAR-10's binary version; without it the 200 bundled images are scored. int8 is
calibrated with 128 of the 200, without their labels. SQNR is that of the outputs on these 128.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import get_args

import edgekron
from edgekron import bundled, cifar10
from edgekron.checkpoint import read_checkpoint
from edgekron.precision import Precision
from edgekron.table import table
from edgekron.verbs.demo import CHECKOUT_IMAGES, accuracy


def rows(folder: Path, images: Path) -> list[list[str]]:
    """One for each file; they are left in the folder."""
    checkpoint = read_checkpoint(bundled.RESNET18_KRONECKER)
    calibration = cifar10.normalise(cifar10.load(CHECKOUT_IMAGES)[0])
    pixels, labels = cifar10.load(images)
    found = []
    for format in ("onnx", "tflite"):
        for precision in get_args(Precision):
            report = edgekron.export(
                checkpoint.model,
                folder / f"{precision}.{format}",
                example_inputs=checkpoint.example_inputs(),
                precision=precision,
                data=calibration,
                force=True,
            )
            assert report.parity is not None
            sqnr = next(row.sqnr for row in report.parity.rows if row.input.startswith("128 samples"))
            rate = accuracy(report.path, cifar10.normalise(pixels), labels)
            cells = [format, precision, f"{report.size / 1e6:.2f} MB", f"{sqnr:.1f} dB", f"{rate:.2f} %"]
            found.append([*cells, str(report.rebalancing or "-")])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cifar10", type=Path, default=CHECKOUT_IMAGES, metavar="DIR")
    images = parser.parse_args().cifar10
    with tempfile.TemporaryDirectory() as folder:
        head = ["format", "precision", "size", "SQNR", "accuracy", "rebalancing"]
        print(table(head, rows(Path(folder), images), left=2))


if __name__ == "__main__":
    main()
