"""Matrix: the cases of the suite, network x structure x format x precision x batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from edgekron.precision import Precision
from runtime_tests.images import TRAINED
from runtime_tests.networks import NETWORKS
from runtime_tests.structures import PATTERNS

STRUCTURES = ("dense", *PATTERNS)
FORMATS = ("onnx", "tflite")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
BATCHES = ("1", "4", "dynamic")
UNSUPPORTED = {
    ("fsrcnn", "tflite", "dynamic"): "in TFLite: a constant of TRANSPOSE_CONV depends on it",
}
"""Network, format and batch that no artifact can have, and what the error says; README.md has the reasons."""

BELOW = {
    "resnet20-gkpd": "27 dB",
    "resnet20-cp": "29 dB",
    "resnet20-tt": "29 dB",
    "mobilenet_v2-dense": "20 dB",
    "efficientnet_lite0-dense": "23 dB",
}
"""Networks, structures (and formats) whose int8 misses the floor of 30 dB, and what it reaches; README.md
says why."""


@dataclass(frozen=True)
class Case:
    """One artifact."""

    network: str
    structure: str
    format: str
    precision: Precision
    batch: str

    def __str__(self) -> str:
        return "-".join((self.network, self.structure, self.format, self.precision, self.batch))

    @property
    def is_of_use(self) -> bool:
        """fp16 and int8 for one image, int8 of networks that can be trained: it hangs on what they see."""
        fits = self.batch == "1" and (self.precision == "fp16" or self.network in TRAINED)
        return self.precision == "fp32" or fits

    @property
    def refusal(self) -> str | None:
        """What the export says where there is no such artifact."""
        return UNSUPPORTED.get((self.network, self.format, self.batch))

    @property
    def below(self) -> str | None:
        """What int8 reaches where that is known not to be enough; such a case fails, as is expected."""
        if self.precision != "int8":
            return None
        return next((level for start, level in BELOW.items() if str(self).startswith(f"{start}-")), None)

    @property
    def group(self) -> str:
        """Cases of one compressed network, which is made once for them all; those of batch 1 apart."""
        return f"{self.network}-{self.structure}-{self.batch == '1'}"


FULL = tuple(
    sorted(
        (
            case
            for each in product(NETWORKS, STRUCTURES, FORMATS, PRECISIONS, BATCHES)
            if (case := Case(*each)).is_of_use
        ),
        key=lambda case: case.batch != "1",
    )
)
"""Every network once before the other batches."""
_QUICK_NETWORKS = {"resnet20": STRUCTURES, "fsrcnn": ("dense", "gkpd"), "vdsr": ("sekron",)}
_QUICK_AXES = {("resnet20", "dense"), ("resnet20", "sekron")}
"""In every precision and batch."""
QUICK = tuple(
    case
    for case in FULL
    if case.structure in _QUICK_NETWORKS.get(case.network, ())
    and ((case.network, case.structure) in _QUICK_AXES or (case.batch, case.precision) == ("1", "fp32"))
)
