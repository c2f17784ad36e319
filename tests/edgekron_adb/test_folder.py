"""Folder: its keeper, in every shell that is here; mksh is Android's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekron_adb.folder import keeper
from tests.edgekron_adb.phones import until, working

SHELLS = [
    name.split() for name in ("sh", "dash", "bash", "mksh", "busybox sh") if shutil.which(name.split()[0])
]
Keeper = subprocess.Popen[str]


def close(process: Keeper) -> None:
    assert process.stdin
    process.stdin.close()


def hang_up(process: Keeper) -> None:
    process.send_signal(signal.SIGHUP)


def terminate(process: Keeper) -> None:
    process.terminate()


def begin(shell: list[str], folder: Path) -> Keeper:
    command = [*shell, "-c", keeper(str(folder))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("end", [close, hang_up, terminate])
def test_a_keeper_ends_what_works_in_its_folder(
    shell: list[str], end: Callable[[Keeper], None], tmp_path: Path
) -> None:
    """Also a process that ignores the hang-up, in a folder below; nothing that works beside it."""
    folder, beside = tmp_path / "edgekron-1", tmp_path / "edgekron-10"
    beside.mkdir()
    process = begin(shell, folder)
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("x")
    stubborn = subprocess.Popen(["sh", "-c", "trap '' HUP TERM; sleep 600; true"], cwd=folder)
    other = subprocess.Popen(["sleep", "600"], cwd=beside)
    try:
        end(process)
        assert process.wait(15) == 0 and not folder.exists()
        assert stubborn.wait(15) == -signal.SIGKILL
        assert until(lambda: working(folder), 5) == []
        assert other.poll() is None and beside.exists()
    finally:
        other.kill()
        other.wait()
        if process.stdin:
            process.stdin.close()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_keeper_removes_what_killed_ones_left(shell: list[str], tmp_path: Path) -> None:
    killed = begin(shell, tmp_path / "edgekron-1")
    lives = begin(shell, tmp_path / "edgekron-2")
    (tmp_path / "edgekron-3").mkdir()  # another keeper is about to write its number there
    killed.kill()
    killed.wait()
    next_one = begin(shell, tmp_path / "edgekron-4")
    assert sorted(os.listdir(tmp_path)) == ["edgekron-2", "edgekron-3", "edgekron-4"]
    for process in (lives, next_one):
        close(process)
        assert process.wait(15) == 0
    assert os.listdir(tmp_path) == ["edgekron-3"]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_folder_that_cannot_be_made(shell: list[str], tmp_path: Path) -> None:
    command = [*shell, "-c", keeper(str(tmp_path / "no" / "edgekron-1"))]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stdout) == (0, "") and "No such file" in done.stderr
