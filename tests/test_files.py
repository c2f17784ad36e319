"""Files: atomic writing, whatever fails; one clear line for every path that cannot be used."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from edgekron.errors import UsageError
from edgekron.files import read_whole, require_writable, write_atomically


def test_writes_bytes_and_the_output_of_a_function(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "b", lambda file: file.write(b"two"))
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"two"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomically(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match=f"^{path} exists; use --force to overwrite it$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_a_file_made_in_the_meantime_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def slow(file: BinaryIO) -> None:
        file.write(b"mine")
        path.write_bytes(b"theirs")

    with pytest.raises(UsageError, match="exists; use --force"):
        write_atomically(path, slow)
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for use in (lambda p: write_atomically(p, b"", force=True), read_whole):
        with pytest.raises(UsageError, match="fifo is not a regular file"):
            use(tmp_path / "fifo")
        with pytest.raises(UsageError, match="is a folder, not a file"):
            use(tmp_path)


def test_a_missing_folder_and_a_file_as_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot write {tmp_path}/no/a: no such folder: {tmp_path}/no"):
        require_writable(tmp_path / "no" / "a", force=False)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"cannot write {tmp_path}/file/a: {tmp_path}/file is not a folder"):
        require_writable(tmp_path / "file" / "a", force=False)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(UsageError, match=f"^cannot write {tmp_path}/a: Permission denied$"):
        write_atomically(tmp_path / "a", b"")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    call: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else UsageError) as error:
        write_atomically(path, b"new", force=True)
    if isinstance(failure, OSError):
        assert str(error.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_of_the_writing_function_passes_through(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == []


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    program = f"""
import time
from pathlib import Path
from edgekron.files import write_atomically
def slow(file):
    file.write(b"ne")
    file.flush()
    print("half", flush=True)
    time.sleep(60)
write_atomically(Path({str(path)!r}), slow, force=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == b"old"


def test_reading_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=f"^no such file: {tmp_path}/no$"):
        read_whole(tmp_path / "no")
    with pytest.raises(UsageError, match=r"cannot read .*null"):
        read_whole(tmp_path / "a\0b")

    def denied(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "secret").touch()
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UsageError, match=f"^cannot read {tmp_path}/secret: Permission denied$"):
        read_whole(tmp_path / "secret")
