"""Lab: the folder that `make arm` makes, in which an aarch64 Python runs on emulated cores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgekron.errors import UnavailableError

MAKE = "make arm, in a checkout of edgekron (EDGEKRON_ARM names another folder than its .arm)"
_CHECKOUT = Path(__file__).parents[2] / ".arm"


@dataclass(frozen=True)
class Lab:
    """A folder that is made; qemu: version of the emulator, for instance 7.2."""

    folder: Path
    qemu: str

    @staticmethod
    def find() -> Lab:
        """In EDGEKRON_ARM, or in .arm of this checkout; UnavailableError says how to make it."""
        folder = Path(os.environ.get("EDGEKRON_ARM") or _CHECKOUT).absolute()
        try:
            return Lab(folder, (folder / "made.by").read_text().strip())
        except OSError:
            raise UnavailableError(f"{folder} holds no emulated ARM: make it with: {MAKE}") from None

    def python(self, core: str, runtime: str) -> list[str]:
        """The aarch64 Python that holds this runtime, on this core."""
        return [str(self.folder / "run"), core, runtime, "-B"]
