"""The worker as a program of its own: what it says, what it takes, and when it ends."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekron import worker
from tests.edgekron_tflite import foreign
from tests.workers import environment, sums

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 4, np.float32)
HEADER = struct.Struct("<4sQ")


def write(folder: Path, runtime: str, *, batch: int = 2) -> Path:
    """A file with two outputs: the sum and the difference of its two inputs."""
    if runtime == "onnxruntime":
        return sums(folder / "m.onnx", batch="N" if batch < 0 else batch)
    (folder / "m.tflite").write_bytes(foreign.file(batch=batch, names=("a", "b", "out/sum", "file")))
    return folder / "m.tflite"


def command(*arguments: object, python: Path | str = sys.executable) -> list[str]:
    return [str(python), "-I", worker.__file__, *map(str, arguments)]


@contextmanager
def served(*arguments: object, python: Path | str = sys.executable) -> Iterator[subprocess.Popen[bytes]]:
    """A worker; it must be gone when its stdin is closed."""
    process = subprocess.Popen(
        command(*arguments, python=python), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    try:
        yield process
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin
    process.stdin.write(HEADER.pack(b"EKW1", len(data)) + data)
    process.stdin.flush()


def receive(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    magic, length = HEADER.unpack(process.stdout.read(HEADER.size))
    assert magic == b"EKW1"
    return process.stdout.read(length)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


RUNTIMES = ("litert", "onnxruntime")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_run_of_arrays_by_name(runtime: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", b=B, a=A)
    call = command(
        runtime,
        write(tmp_path, runtime),
        *("--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz", "--threads", 2),
    )
    done = subprocess.run(call, check=True, capture_output=True)
    assert done.stdout == b""
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs.files == ["out/sum", "file"]
        np.testing.assert_array_equal(outputs["out/sum"], A + B)
        np.testing.assert_array_equal(outputs["file"], A - B)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_conversation(runtime: str, tmp_path: Path) -> None:
    with served(runtime, write(tmp_path, runtime, batch=-1), "--threads", 1) as process:
        inputs = [{"name": name, "shape": [-1, 3], "dtype": "float32"} for name in ("a", "b")]
        assert json.loads(receive(process)) == {
            "runtime": runtime,
            "version": version(worker.PACKAGES[runtime]),
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "inputs": inputs,
            "outputs": ["out/sum", "file"],
        }
        for batch in (1, 5, 2):
            x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
            send(process, npz(**{"0": x, "1": 2 * x, "runs": np.int64(batch)}))
            with np.load(io.BytesIO(receive(process))) as answer:
                assert sorted(answer.files) == ["0", "1", "nanoseconds", "peak_bytes"]
                np.testing.assert_array_equal(answer["0"], 3 * x)
                np.testing.assert_array_equal(answer["1"], -x)
                assert answer["nanoseconds"] > 0
            send(process, npz(runs=np.int64(3)))  # the same inputs again
            with np.load(io.BytesIO(receive(process))) as answer:
                assert answer.files == ["nanoseconds", "peak_bytes"]
                assert answer["nanoseconds"] > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_file_may_come_through_the_stream(runtime: str, tmp_path: Path) -> None:
    with served(runtime, "-") as process:
        path = write(tmp_path, runtime)
        send(process, path.read_bytes())
        greeting = json.loads(receive(process))
        assert greeting["inputs"][0] == {"name": "a", "shape": [2, 3], "dtype": "float32"}
        assert greeting["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        send(process, npz(runs=np.int64(1)))
        assert json.loads(receive(process)) == {"error": "ValueError: got 0 inputs, the network takes 2"}
        send(process, npz(**{"0": A, "1": B}))
        with np.load(io.BytesIO(receive(process))) as answer:
            np.testing.assert_array_equal(answer["0"], A + B)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_request_that_fails_is_answered_and_the_next_one_runs(runtime: str, tmp_path: Path) -> None:
    pickled = io.BytesIO()
    np.savez(pickled, **{"0": np.array([print], object), "1": B})  # type: ignore[arg-type]
    with served(runtime, write(tmp_path, runtime)) as process:
        receive(process)
        for request, message in (
            (npz(**{"0": A}), "ValueError: got 1 inputs, the network takes 2"),
            (pickled.getvalue(), "ValueError: Object arrays cannot be loaded when allow_pickle=False"),
            (b"\x80\x04N.", "ValueError: expected an .npz file"),
        ):
            send(process, request)
            assert json.loads(receive(process)) == {"error": message}
        send(process, npz(**{"0": A[:, :2], "1": B[:, :2]}))
        assert list(json.loads(receive(process))) == ["error"]
        send(process, npz(**{"0": A, "1": B}))
        with np.load(io.BytesIO(receive(process))) as answer:
            np.testing.assert_array_equal(answer["0"], A + B)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_that_does_not_load(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"no network at all")
    done = subprocess.run(command(runtime, tmp_path / "m"), input=b"", capture_output=True, check=False)
    assert done.returncode in (0, 1)  # 0: the end of stdin was noticed first
    process = subprocess.Popen(
        command(runtime, tmp_path / "m"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert list(json.loads(receive(process))) == ["error"]
    assert process.wait(20) == 1
    process.communicate()


def test_what_people_are_told(tmp_path: Path) -> None:
    def call(*arguments: object) -> tuple[int, str, str]:
        done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()[-1] if done.stderr else ""

    np.savez(tmp_path / "in.npz", a=A)
    files = ("--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    model = sums(tmp_path / "m.onnx")
    code, text, _ = call("onnxruntime")
    assert (code, json.loads(text)["version"]) == (0, version("onnxruntime"))
    assert call("onnxruntime", model, *files) == (
        1,
        "",
        f"error: ValueError: {tmp_path}/in.npz holds ['a'], the network takes ['a', 'b']",
    )
    assert call("tflite-runtime") == (1, "", "error: ModuleNotFoundError: No module named 'tflite_runtime'")
    for arguments in (
        ("onnxruntime", model, *files[:2]),
        ("onnxruntime", *files),
        ("onnxruntime", "-", *files),
    ):
        assert call(*arguments) == (
            2,
            "",
            "worker.py: error: --inputs and --outputs go together, and with a MODEL on disk",
        )
    assert not (tmp_path / "out.npz").exists()


def test_what_libraries_print_does_not_reach_the_stream(tmp_path: Path) -> None:
    python = environment(tmp_path / "e", version="9.9") / "bin" / "python"
    (tmp_path / "m").write_text("print('and the file')")
    with served("onnxruntime", tmp_path / "m", python=python) as process:
        assert json.loads(receive(process))["version"] == "9.9"
        send(process, npz(**{"0": A}))
        with np.load(io.BytesIO(receive(process))) as answer:
            np.testing.assert_array_equal(answer["0"], A)


@pytest.mark.parametrize("when", ["load", "run"])
def test_the_end_of_stdin_ends_it_in_the_middle_of_its_work(when: str, tmp_path: Path) -> None:
    python = environment(tmp_path / "e", version="9.9") / "bin" / "python"
    begun = tmp_path / "begun"
    (tmp_path / "m").write_text(
        f"import time\nif when == {when!r}:\n    open({str(begun)!r}, 'w').close()\n    time.sleep(600)\n"
    )
    with served("onnxruntime", tmp_path / "m", python=python) as process:
        if when == "run":
            receive(process)
            send(process, npz(**{"0": A}))
        while not begun.exists():
            assert process.poll() is None


@pytest.mark.skipif(os.name != "posix", reason="needs SIGALRM")
def test_it_ends_when_nothing_is_asked_for_long(tmp_path: Path) -> None:
    call = command("onnxruntime", sums(tmp_path / "m.onnx"), "--limit", 1)
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    receive(process)
    send(process, npz(**{"0": A, "1": B}))
    receive(process)
    assert process.wait(20) == -signal.SIGALRM
    process.communicate()


def test_frames() -> None:
    stream = io.BytesIO()
    for data in (b"", b"PK", bytes(100_000)):
        worker.write_frame(stream, data)
    stream.seek(0)
    assert [worker.read_frame(stream) for _ in range(4)] == [b"", b"PK", bytes(100_000), None]
    for wrong in (b"Last login: today", b"Last", HEADER.pack(b"EKW1", 1 << 60)):
        with pytest.raises(ValueError, match="expected a frame, found b'"):
            worker.read_frame(io.BytesIO(wrong))
    for cut in (b"EKW", HEADER.pack(b"EKW1", 3), HEADER.pack(b"EKW1", 3) + b"ab"):
        with pytest.raises(EOFError, match="the stream ends within a frame"):
            worker.read_frame(io.BytesIO(cut))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "bool"])
def test_arrays_there_and_back(dtype: str) -> None:
    arrays = {
        "file": np.ones((2, 0, 3), dtype),
        "a/b": np.array(1, dtype),
        "t": np.eye(3, dtype=dtype)[:, 1:].T,
    }
    data = worker.pack(arrays)
    with np.load(io.BytesIO(data)) as by_numpy:
        for found in (dict(by_numpy), worker.unpack(data)):
            assert list(found) == list(arrays)
            for name, array in arrays.items():
                assert found[name].dtype == dtype
                np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        worker.pack({"x": np.array(["text"], object)})


def test_it_stands_alone_on_old_pythons() -> None:
    source = Path(worker.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - {"numpy"} <= sys.stdlib_module_names
    assert "edgekron" not in source.replace("edgekron is imported", "")


def test_it_is_silent_about_telemetry(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {"HOME": str(home)}
    environ["XDG_CACHE_HOME"] = str(home / "cache")
    np.savez(tmp_path / "in.npz", a=A, b=B)
    files = ("--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    subprocess.run(command("onnxruntime", sums(tmp_path / "m.onnx"), *files), env=environ, check=True)
    assert (tmp_path / "out.npz").exists()
    assert os.listdir(home) == []
