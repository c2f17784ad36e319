"""What `make arm` says where it cannot work; what it makes is shown by test_arm.py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import edgekron_qemu
from tests.edgekron_ssh.boards import program

MAKE = Path(edgekron_qemu.__file__).parent / "arm" / "make.sh"
NEEDED = ("awk", "basename", "cat", "dirname", "head", "mkdir", "rm", "sed", "sha256sum", "sh")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of programs; those of Debian fail, and the system is Linux on x86-64."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    program(folder / "uname", "echo Linux x86_64")
    program(folder / "gcc", "exit 1")
    program(folder / "dpkg-deb", "exit 1")
    program(folder / "apt-get", 'if [ "$1" = indextargets ]; then echo "Debian mirror:/"; else exit 100; fi')
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    return folder


def made(folder: Path) -> str:
    """What it says of this folder."""
    command = ["sh", str(MAKE), str(folder), "python", "worker.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_programs_that_are_missing(tools: Path, tmp_path: Path) -> None:
    program(tools / "uname", "echo Darwin arm64")
    assert made(tmp_path / "arm") == (
        "make arm: it emulates ARM on Linux on x86-64 only, this is Darwin arm64"
    )
    program(tools / "uname", "echo Linux x86_64")
    (tools / "dpkg-deb").unlink()
    assert made(tmp_path / "arm").startswith("make arm: dpkg-deb is needed: ")
    (tools / "gcc").unlink()
    assert made(tmp_path / "arm") == ("make arm: gcc is needed: install gcc and the headers of the C library")
    assert not (tmp_path / "arm").exists()


def test_folders_that_are_not_touched(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert made(tmp_path / "mine") == (
        f"make arm: {tmp_path}/mine exists, and is not of make arm: name another by EDGEKRON_ARM"
    )
    assert made(tmp_path / "a,b") == (
        f"make arm: {tmp_path}/a,b: qemu takes no path with a comma or a colon: name another by EDGEKRON_ARM"
    )
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent != tools) == [
        "bin",
        "file",
        "mine",
    ]


def test_a_mirror_that_fails(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there remains."""
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "made").write_text("from another recipe")
    monkeypatch.setenv("DEBIAN_KEYRING", str(tmp_path / "keys"))
    assert made(tmp_path / "arm") == (
        f"make arm: there are no keys of Debian in {tmp_path}/keys: "
        "install debian-archive-keyring, or name them by DEBIAN_KEYRING"
    )
    (tmp_path / "keys").touch()
    assert made(tmp_path / "arm") == "make arm: apt-get update failed"
    assert (tmp_path / "arm" / "made").read_text() == "from another recipe"
    program(tools / "apt-get", "exit 0")
    assert made(tmp_path / "arm").startswith("make arm: apt is set to no mirror of Debian: name one by ")
