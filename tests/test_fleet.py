"""Fleet: what a devices.toml may hold, and what is said of one that holds something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekron.errors import UsageError
from edgekron.fleet import Member, read_fleet


def fleet(folder: Path, text: str) -> Path:
    path = folder / "devices.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_members_in_order(tmp_path: Path) -> None:
    text = """
        [board]
        device = "ssh:pi@raspberrypi:2222"
        python = "edgekron/bin/python"
        [other]
        device = "ssh:other"
        max_temperature = 55
    """
    assert list(read_fleet(fleet(tmp_path, text)).values()) == [
        Member("board", "ssh:pi@raspberrypi:2222", {"python": "edgekron/bin/python"}),
        Member("other", "ssh:other", {}, 55),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not a TOML file: "),
        ('board = "ssh:pi"', '[board] names no device: expected for instance device = "ssh:pi@board"'),
        ("[board]\npython = 'p'", "[board] names no device"),
        ('[all]\ndevice = "host"', "[all]: 'all' has a meaning of its own: choose another name"),
        ('[host]\ndevice = "ssh:pi"', "[host]: 'host' has a meaning of its own"),
        ('[b]\ndevice = "ssh:pi"\npythn = "p"', "[b]: device 'ssh' has no option 'pythn': it has python."),
        ('[b]\ndevice = "ssh:-x"', "[b]: device 'ssh:-x': expected ssh:[USER@]HOST[:PORT]"),
        ('[b]\ndevice = "ssh:pi"\npython = 3', "[b]: python: expected a text in quotes"),
        ('[b]\ndevice = "ssh:pi"\nmax_temperature = "35"', "[b]: max_temperature: expected a number"),
        ('[b]\ndevice = "ssh:pi"\nmax_temperature = true', "[b]: max_temperature: expected a number"),
    ],
)
def test_what_is_no_fleet(text: str, message: str, tmp_path: Path) -> None:
    path = fleet(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_fleet(path)
    assert str(error.value).startswith(f"{path}: {message}")
