"""Ssh device: against a real sshd on 127.0.0.1, and against an ssh that fails as a real one will not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekron.errors import UnavailableError, UsageError
from edgekron.verbs.profile import profile
from edgekron_ssh import device
from edgekron_ssh.device import SshDevice
from tests.edgekron_ssh.boards import MISSING, Board, alive, gone, program, ps, served
from tests.edgekron_tflite import foreign
from tests.workers import environment, sums

real = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: apt-get install openssh-server procps"
)
Fake = Callable[[str], Path]
A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 4, np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with served(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def board(server: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """The board, on which nothing is left when the test ends, and nothing runs."""
    monkeypatch.setenv("PATH", f"{server.folder}/bin:{os.environ['PATH']}")
    yield server
    assert gone([*server.pids("python"), *server.pids("ssh")])
    assert server.left() == []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes `ssh` a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return partial(program, tmp_path / "bin/ssh")


@real
@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_profile_on_a_board(suffix: str, board: Board, tmp_path: Path) -> None:
    """Its Python cannot write a byte to any file: what a full disk does."""
    paths = [tmp_path / f"a b'{suffix}", tmp_path / f"dense{suffix}"]
    for path in paths:
        if suffix == ".onnx":
            sums(path, batch="N")
        else:
            path.write_bytes(foreign.file(batch=-1))
    report = profile(
        paths[0], device="ssh:board", options={"python": str(board.python)}, baseline=paths[1], seconds=0
    )
    parity = report.files[0].parity
    assert report.passed and parity and len(parity.rows) == 12
    runtime = {".onnx": "onnxruntime", ".tflite": "litert"}[suffix]
    package = {".onnx": "onnxruntime", ".tflite": "ai-edge-litert"}[suffix]
    assert report.files[0].versions["version"] == version(package)
    assert report.latency and report.latency.cores is None and report.latency.rounds >= 30
    assert report.after.machine["logical_cores"] == os.cpu_count()
    assert str(report).startswith(f"{runtime} {version(package)} on ssh:board, threads: 1\n")


@real
def test_outputs_there_are_those_here(board: Board, tmp_path: Path) -> None:
    with SshDevice("board", str(board.python)).connect(2) as connection:
        session = connection.open(sums(tmp_path / "m.onnx"), "onnxruntime")
        [worker] = [pid for pid in board.pids("python") if alive(pid)]
        assert ps(worker, "args").endswith(" onnxruntime - --threads 2 --limit 600")
        total, difference = session.run([A, B])
        np.testing.assert_array_equal(total, A + B)
        np.testing.assert_array_equal(difference, A - B)
        assert board.left() == []


@real
@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("stranger", "has an unknown host key: look at it and accept it with: ssh stranger"),
        (
            "changed",
            "shows another host key than before: if that is right, remove the old one with ssh-keygen",
        ),
        (
            "locked",
            "refuses the login: make it work without a password (see ssh-copy-id) and try: ssh locked",
        ),
        ("absent", "cannot be reached: ssh: connect to host 127.0.0.1 port "),
        ("pi@no.invalid:22", "cannot be reached: ssh: Could not resolve hostname no.invalid: "),
    ],
)
def test_boards_that_cannot_be_used(host: str, message: str, board: Board, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as error:
        profile(sums(tmp_path / "m.onnx"), device=f"ssh:{host}")
    assert str(error.value).startswith(f"ssh:{host} {message}")
    assert "\n" not in str(error.value)


@real
def test_pythons_that_cannot_be_used(board: Board, tmp_path: Path) -> None:
    old = program(
        board.folder / "old", "echo \"  File 'worker.py'\nSyntaxError: invalid syntax\" >&2; exit 1"
    )
    bare = program(board.folder / "bare", f'exec {sys.executable} -S "$@"')
    for python, runtime, message in (
        (
            "no-python",
            "litert",
            "has no program 'no-python': give the Python that holds litert with --option python=PATH",
        ),
        (
            str(old),
            "litert",
            f"cannot run the worker: {old} must be Python 3.8 or newer (SyntaxError: invalid",
        ),
        (
            str(board.python),
            "tflite-runtime",
            f"has no tflite-runtime in {board.python} (ModuleNotFoundError: No module named 'tflite_runtime')"
            "; make an environment with: ssh board 'python3 -m venv edgekron && edgekron/bin/pip install "
            "tflite-runtime', and give --option python=edgekron/bin/python",
        ),
        (
            str(bare),
            "litert",
            f"has no litert in {bare} (ModuleNotFoundError: No module named 'numpy'); make ",
        ),
    ):
        with (
            SshDevice("board", python).connect(1) as connection,
            pytest.raises(UnavailableError) as error,
        ):
            connection.open(tmp_path / "m.tflite", runtime)
        assert str(error.value).startswith(f"ssh:board {message}")


@real
def test_a_file_that_does_not_load_there(board: Board, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no network")
    with (
        SshDevice("board", str(board.python)).connect(1) as connection,
        pytest.raises(UsageError, match=r"m\.onnx: onnxruntime on ssh:board cannot load this file: "),
    ):
        connection.open(tmp_path / "m.onnx", "onnxruntime")


HOSTILE = "import time\nif when == {when!r}:\n    open({begun!r}, 'w').close()\n    time.sleep(600)\n"
"""A file that hangs in the misbehaving onnxruntime."""
LOCAL = """
import sys
from pathlib import Path
import numpy as np
from edgekron_ssh.device import SshDevice
with SshDevice("board", sys.argv[1]).connect(1) as connection:
    session = connection.open(Path(sys.argv[2]), "onnxruntime")
    session.run([np.zeros((1, 2), np.float32)])
"""


def hung(board: Board, folder: Path, when: str) -> tuple[Path, Path]:
    """A Python there with the misbehaving onnxruntime, and a file that hangs in it."""
    first = f"import sys; sys.path.insert(0, '{folder}/e/lib')"
    script = (  # it is called with -I -B -c CODE
        f"touch {board.folder}/pids/python/$$; code=$4; shift 4; "
        f'exec {sys.executable} -I -B -c "{first}; $code" "$@"'
    )
    (folder / "m.onnx").write_text(HOSTILE.format(when=when, begun=str(folder / "begun")))
    return environment(folder / "e", version="9.9", script=script) / "bin" / "python", folder / "m.onnx"


def hanging(board: Board, begun: Path, local: subprocess.Popen[Any]) -> int:
    """The pid of the worker that hangs by now."""
    while not begun.exists():
        assert local.poll() is None
        time.sleep(0.02)
    [worker] = [pid for pid in board.pids("python") if alive(pid)]
    return worker


@real
@pytest.mark.parametrize("when", ["load", "run"])
def test_killed_here_nothing_runs_on_there(when: str, board: Board, tmp_path: Path) -> None:
    python, path = hung(board, tmp_path, when)
    local = subprocess.Popen([sys.executable, "-c", LOCAL, python, path])
    worker = hanging(board, tmp_path / "begun", local)
    local.send_signal(signal.SIGKILL)
    local.wait()
    assert gone([worker, *board.pids("ssh")])


@real
def test_a_connection_that_is_lost_in_the_middle(board: Board, tmp_path: Path) -> None:
    python, path = hung(board, tmp_path, "run")
    local = subprocess.Popen([sys.executable, "-c", LOCAL, python, path], stderr=subprocess.PIPE, text=True)
    worker = hanging(board, tmp_path / "begun", local)
    os.kill(int(ps(worker, "ppid")), signal.SIGKILL)  # of this connection's part of the server
    _, said = local.communicate(timeout=30)
    assert local.returncode == 1
    assert f"UnavailableError: {path}: onnxruntime on ssh:board cannot " in said
    assert "the worker ended with exit code 255; its last line was: " in said
    assert gone([worker])


def test_a_board_that_does_not_answer(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_SECONDS", 0.2)
    fake("exec sleep 600")
    with pytest.raises(UnavailableError) as error:
        profile(sums(tmp_path / "m.onnx"), device="ssh:pi@board:2222")
    assert str(error.value) == (
        "ssh:pi@board:2222 does not answer within 0.2 s; try: ssh ssh://pi@board:2222"
    )


def test_a_shell_that_talks(fake: Fake, tmp_path: Path) -> None:
    fake("cat > /dev/null; echo 'Welcome to the board'; echo '{}'")
    with pytest.raises(UnavailableError) as error:
        profile(sums(tmp_path / "m.onnx"), device="ssh:pi")
    assert str(error.value) == (
        "ssh:pi prints 'Welcome to the board' before a program runs: "
        "silence its shell where there is no terminal"
    )


def test_a_connection_that_breaks_between_the_calls(fake: Fake, tmp_path: Path) -> None:
    fake('case "$*" in *" - "*) echo "Timeout, server pi not responding." >&2; exit 255;; esac; echo "{}"')
    with pytest.raises(UnavailableError) as error:
        profile(path := sums(tmp_path / "m.onnx"), device="ssh:pi")
    assert str(error.value) == (
        f"{path}: onnxruntime on ssh:pi cannot load this file: the worker ended with exit code 255; "
        "its last line was: Timeout, server pi not responding."
    )


def test_another_file_arrives(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(f'for last; do :; done; eval "set -- $last"; shift; PYTHONPATH= exec {sys.executable} "$@"')
    monkeypatch.setattr(device, "checksum", lambda data: "of another file")
    with (
        SshDevice("pi").connect(1) as connection,
        pytest.raises(UnavailableError, match=r"another file arrived on ssh:pi: sha256 [0-9a-f]{64}$"),
    ):
        connection.open(sums(tmp_path / "m.onnx"), "onnxruntime")


def test_every_call_asks_nothing_and_trusts_nobody(fake: Fake, tmp_path: Path) -> None:
    fake(f"printf '%s\\n' \"$@\" >> {tmp_path}/calls; exit 255")
    for address, host in (("pi@board", "pi@board"), ("pi@board:2222", "ssh://pi@board:2222")):
        with pytest.raises(UnavailableError, match="cannot be reached: ssh says nothing; try: ssh "):
            profile(sums(tmp_path / "m.onnx"), device=f"ssh:{address}")
        arguments = (tmp_path / "calls").read_text().splitlines()
        assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ControlPath=none"} <= {*arguments}
        assert arguments[arguments.index("--") + 1] == host
        (tmp_path / "calls").unlink()


@pytest.mark.parametrize(
    "address",
    ["", "-oProxyCommand=x", "pi@-x", "a b", "board;id", "$(id)", "pi@", "board:", "board:x", "a\nb"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError) as error:
        SshDevice(address)
    assert str(error.value) == (
        f"device 'ssh:{address}': expected ssh:[USER@]HOST[:PORT], for instance ssh:pi@raspberrypi"
    )


def test_options_that_are_none(tmp_path: Path) -> None:
    for python in ("", " ", "-c"):
        with pytest.raises(UsageError, match="expected a program such as venv/bin/python"):
            SshDevice("pi", python)
    with (
        SshDevice("pi").connect(1) as connection,
        pytest.raises(
            UsageError, match="ssh:pi has the version that its Python holds: give onnxruntime, and"
        ),
    ):
        connection.open(tmp_path / "m.onnx", "onnxruntime:1.15.0")
