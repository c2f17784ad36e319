"""Runtimes in environments of their own: found by name, equal to those here, and clear when they fail."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from edgekron import environments, plugins, worker
from edgekron.environments import Environment, EnvironmentRuntime, default_root
from edgekron.errors import EdgekronError, MissingExtraError, UnavailableError, UsageError
from edgekron.verbs.bench import bench
from edgekron.worker_session import WorkerSession
from tests.edgekron_tflite import foreign
from tests.workers import environment, sums

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 4, np.float32)
HOSTILE = "9.9"
"""The version of the onnxruntime whose files are programs."""


@pytest.fixture
def root() -> Path:
    return default_root()


@pytest.fixture
def hostile(root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a file of the onnxruntime that misbehaves, whose environment exists."""
    environment(root / f"onnxruntime-{HOSTILE}", version=HOSTILE)

    def write(program: str) -> Path:
        (tmp_path / "m.onnx").write_text(program)
        return tmp_path / "m.onnx"

    return write


def opened(path: Path, *, timeout: float = 60) -> WorkerSession:
    return EnvironmentRuntime(Environment.parse(f"onnxruntime:{HOSTILE}"), timeout=timeout).open(path)


def process(session: WorkerSession) -> subprocess.Popen[bytes]:
    return session._process


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie, which nobody may be there to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("name", "folder", "python", "packages"),
    [
        ("onnxruntime:1.15.0", "onnxruntime-1.15.0", "3.11", "onnxruntime==1.15.0 'numpy<2'"),
        ("onnxruntime:1.14.0", "onnxruntime-1.14.0", "3.10", "onnxruntime==1.14.0 'numpy<2'"),
        ("onnxruntime:1.19.0", "onnxruntime-1.19.0", "3.11", "onnxruntime==1.19.0"),
        ("litert:1.0.0", "litert-1.0.0", "3.11", "ai-edge-litert==1.0.0 'numpy<2'"),
        ("litert:2.1.0", "litert-2.1.0", "3.11", "ai-edge-litert==2.1.0"),
        ("tflite-runtime", "tflite-runtime-2.14.0", "3.11", "tflite-runtime==2.14.0 'numpy<2'"),
    ],
)
def test_a_missing_environment_is_the_lines_that_make_it(
    name: str, folder: str, python: str, packages: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = plugins.runtime(name)
    assert runtime.name == name if ":" in name else f"{name}:2.14.0"
    with pytest.raises(MissingExtraError) as error:
        runtime.open(Path("m"))
    assert str(error.value) == (
        f"runtime '{runtime.name}' has no environment yet; make it with: "
        f"python{python} -m venv {root}/{folder} && {root}/{folder}/bin/python -m pip install {packages}"
    )
    monkeypatch.setenv("EDGEKRON_RUNTIMES", "/a folder")
    assert Environment.parse(name).recipe()[0] == f"python{python} -m venv '/a folder/{folder}'"


@pytest.mark.parametrize(
    "name", ["torch:1.0", "onnxruntime:", "onnxruntime:../x", "litert:x", ":1.0", "litert:1/2"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError) as error:
        plugins.runtime(name)
    assert str(error.value) == (
        f"unknown runtime '{name}': expected NAME:VERSION with a name of onnxruntime, litert, "
        "tflite-runtime, for instance onnxruntime:1.15.0"
    )


def test_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKRON_RUNTIMES", "/own")
    assert default_root() == Path("/own")
    monkeypatch.delenv("EDGEKRON_RUNTIMES")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/edgekron/runtimes")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_root() == Path.home() / ".local/share/edgekron/runtimes"


@pytest.mark.parametrize("name", ["onnxruntime", "litert"])
def test_the_same_as_the_runtime_here(name: str, root: Path, tmp_path: Path) -> None:
    here = plugins.runtime(name)
    environment(root / f"{name}-{here.version()}")
    there = plugins.runtime(f"{name}:{here.version()}")
    assert (there.name, there.version()) == (f"{name}:{here.version()}", here.version())
    assert there.formats == here.formats
    path = sums(tmp_path / "m.onnx", batch="N")
    if name == "litert":
        path = tmp_path / "m.tflite"
        path.write_bytes(foreign.file(batch=-1))
    one, other = here.open(path), there.open(path, threads=2)
    assert one.inputs == other.inputs
    for batch in (1, 4):
        x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
        for expected, found in zip(one.run([x, 2 * x]), other.run([x, 2 * x]), strict=True):
            np.testing.assert_array_equal(found, expected)
    report = bench([path], runtime=there.name, seconds=0)
    assert 0 < report[str(path)].median < 1000
    for refuse, what in (
        (lambda: there.delegation(path), "which operators its fast kernels take"),
        (lambda: there.profile(path, [A, B]), "the time of every operator"),
    ):
        with pytest.raises(UsageError) as error:
            refuse()
        assert str(error.value) == (
            f"{path}: {there.name} runs in an environment of its own, which does not tell {what}: use {name}"
        )


def test_inputs_that_are_timed_again_do_not_travel_again(
    hostile: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    def write_frame(stream: BinaryIO, data: bytes) -> None:
        sent.append(len(data))
        worker.write_frame(stream, data)

    session = opened(hostile(""))
    monkeypatch.setattr("edgekron.worker_session.write_frame", write_frame)
    big, other = np.zeros(100_000, np.float32), np.ones(100_000, np.float32)
    clocked = session.clocked([big])
    assert clocked.nanoseconds(2) > 0 and clocked() > 0
    np.testing.assert_array_equal(session.run([other])[0], other)
    assert clocked.nanoseconds(1) > 0
    with pytest.raises(UsageError, match="got 2 inputs, the network takes 1"):
        session.nanoseconds((big, big), 1)
    assert clocked.nanoseconds(1) > 0
    assert [size > big.nbytes for size in sent] == [True, False, True, True, True, True]


def test_only_files_of_its_format(tmp_path: Path) -> None:
    path = sums(tmp_path / "m.onnx")
    with pytest.raises(UsageError) as error:
        bench([path], runtime="tflite-runtime")
    assert str(error.value) == f"{path}: runtime 'tflite-runtime:2.14.0' runs tflite files, not onnx"


def test_another_version_than_the_one_named(root: Path, tmp_path: Path) -> None:
    environment(root / "onnxruntime-1.15.0")
    installed = version("onnxruntime")
    runtime = plugins.runtime("onnxruntime:1.15.0")
    path = sums(tmp_path / "m.onnx")
    for refused in (runtime.version, lambda: runtime.open(path)):
        with pytest.raises(UsageError) as error:
            refused()
        assert str(error.value) == (
            f"{root}/onnxruntime-1.15.0 holds onnxruntime {installed}: name it onnxruntime:{installed} "
            "and its folder likewise, or install the version named with: "
            f"{root}/onnxruntime-1.15.0/bin/python -m pip install onnxruntime==1.15.0 'numpy<2'"
        )


def test_a_file_that_cannot_be_loaded(root: Path, tmp_path: Path) -> None:
    environment(root / f"onnxruntime-{version('onnxruntime')}")
    runtime = plugins.runtime(f"onnxruntime:{version('onnxruntime')}")
    (tmp_path / "m.onnx").write_bytes(b"no network")
    with pytest.raises(UsageError) as error:
        runtime.open(tmp_path / "m.onnx")
    assert str(error.value).startswith(
        f"{tmp_path}/m.onnx: {runtime.name} cannot load this file: InvalidProtobuf: "
    )
    assert "\n" not in str(error.value)


def test_a_run_that_fails_leaves_the_session_alive(hostile: Callable[[str], Path]) -> None:
    path = hostile("if when == 'run':\n    raise ValueError('of\\nthe library')")
    session = opened(path)
    for _ in range(2):
        with pytest.raises(UsageError) as error:
            session.run([A])
        assert str(error.value) == f"{path}: onnxruntime:9.9 cannot run this file: ValueError: of"
    path = hostile("")
    [found] = (session := opened(path)).run([A])
    np.testing.assert_array_equal(found, A)
    assert process(session).poll() is None


CRASH = "import os, signal\nif when == {when!r}:\n    os.kill(os.getpid(), signal.{signal})"


@pytest.mark.parametrize(("when", "signal"), [("load", "SIGSEGV"), ("run", "SIGSEGV"), ("run", "SIGKILL")])
def test_a_crash_is_one_line(when: str, signal: str, hostile: Callable[[str], Path]) -> None:
    path = hostile(CRASH.format(when=when, signal=signal))
    with pytest.raises(UnavailableError) as error:
        opened(path).run([A])
    assert error.value.exit_code == 6
    assert str(error.value).startswith(
        f"{path}: onnxruntime:9.9 cannot {when} this file: the worker was ended by {signal}"
    )
    assert "\n" not in str(error.value)


def test_what_the_worker_said_last_is_told(hostile: Callable[[str], Path]) -> None:
    path = hostile("import os\nos.write(2, b'much\\nterminate called\\n\\n')\nos._exit(134)")
    with pytest.raises(UnavailableError) as error:
        opened(path)
    assert str(error.value) == (
        f"{path}: onnxruntime:9.9 cannot load this file: the worker ended with exit code 134; "
        "its last line was: terminate called"
    )


@pytest.mark.parametrize("when", ["load", "run"])
def test_a_worker_that_hangs_is_ended(when: str, hostile: Callable[[str], Path]) -> None:
    path = hostile(f"import time\nif when == {when!r}:\n    time.sleep(600)")
    if when == "run":
        session = opened(path)
        session._timeout = 0.2
    with pytest.raises(UnavailableError) as error:
        session.run([A]) if when == "run" else opened(path, timeout=0.2)
    assert str(error.value) == (
        f"{path}: onnxruntime:9.9 cannot {when} this file: the worker took more than 0.2 s"
    )
    if when == "run":
        assert process(session).returncode is not None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo Welcome to this machine",
            "does not speak as a worker does: expected a frame, found b'Welcome",
        ),
        ("exit 3", "cannot load this file: the worker ended with exit code 3"),
        ("exec sleep 600", "cannot load this file: the worker took more than 0.5 s"),
    ],
)
def test_an_interpreter_that_is_none(script: str, message: str, root: Path, tmp_path: Path) -> None:
    environment(root / f"onnxruntime-{HOSTILE}", script=script)
    with pytest.raises(UnavailableError, match=message):
        opened(tmp_path / "m.onnx", timeout=0.5)


def test_an_interpreter_that_cannot_be_started(root: Path, tmp_path: Path) -> None:
    python = environment(root / f"onnxruntime-{HOSTILE}") / "bin" / "python"
    python.chmod(0o644)
    with pytest.raises(UnavailableError) as error:
        opened(tmp_path / "m.onnx")
    assert str(error.value) == (
        f"{tmp_path}/m.onnx: onnxruntime:9.9: cannot start {python}: Permission denied"
    )


def test_the_process_ends_with_the_session(hostile: Callable[[str], Path]) -> None:
    path = hostile("")
    forgotten, closed = opened(path), opened(path)
    own, other = process(forgotten), process(closed)
    assert own.poll() is None and other.poll() is None
    del forgotten
    gc.collect()
    assert own.returncode == 0
    closed.close()
    closed.close()
    assert other.returncode == 0
    with pytest.raises(UnavailableError) as error:
        closed.run([A])
    assert str(error.value) == f"{path}: onnxruntime:9.9: the session is closed"


def test_a_killed_parent_leaves_no_worker_behind(hostile: Callable[[str], Path]) -> None:
    path = hostile("import time\nif when == 'run':\n    time.sleep(600)")
    program = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom edgekron import plugins\n"
        f"session = plugins.runtime('onnxruntime:{HOSTILE}').open(Path({str(path)!r}))\n"
        "print(session._process.pid, flush=True)\nsession.run([np.zeros(1)])"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.01)


def test_the_interpreter_sees_nothing_of_ours(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemError('of another environment')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    environment(root / f"onnxruntime-{version('onnxruntime')}")
    session = plugins.runtime(f"onnxruntime:{version('onnxruntime')}").open(sums(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(session.run([A, B])[0], A + B)


def test_those_that_exist(root: Path) -> None:
    assert environments.found() == []
    environment(root / f"onnxruntime-{HOSTILE}", version=HOSTILE)
    environment(root / "litert-1.0", script="echo 'no module' >&2; exit 1")
    (root / "tflite-runtime-2.14.0").mkdir()
    (root / "notes.txt").touch()
    litert, onnxruntime = environments.found()
    assert (litert.name, onnxruntime.name) == ("litert:1.0", f"onnxruntime:{HOSTILE}")
    python = f"Python {sys.version.split()[0]}"
    assert onnxruntime.about() == f"{HOSTILE}, {python}, numpy {np.__version__}"
    with pytest.raises(EdgekronError) as error:
        litert.about()
    assert str(error.value) == "runtime 'litert:1.0' does not load: no module"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo Welcome", "JSONDecodeError: Expecting value"),
        ("exit 3", "CalledProcessError: .* exit status 3"),
        ("exec sleep 60", "TimeoutExpired: .* timed out after 0.3 seconds"),
    ],
)
def test_an_environment_that_says_nothing_of_itself(
    script: str, message: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "TIMEOUT", 0.3)
    environment(root / "litert-1.0", script=script)
    with pytest.raises(UnavailableError, match=rf"^runtime 'litert:1.0' does not load: {message}"):
        plugins.runtime("litert:1.0").version()
