"""The C runner, built by the compiler of this machine, against Python with the same library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekron.artifact import Array
from tests.workers import sums

RUNNER = Path(__file__).parents[2] / "devices/edgekron_adb/runner"
COMPILER = shutil.which(os.environ.get("CC", "cc"))
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"), None)
HEADERS = Path(os.environ.get("ORT_HEADERS", "/usr/include/onnxruntime"))
VERSION = onnxruntime.__version__
DTYPES = (
    *("float32", "uint8", "int8", "uint16", "int16", "int32", "int64"),
    *("bool", "float16", "float64", "uint32", "uint64"),
)
A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 4, np.float32)

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler: apt-get install gcc, or set CC"),
    pytest.mark.skipif(LIBRARY is None, reason="this wheel of onnxruntime holds no libonnxruntime.so"),
]


@pytest.fixture(scope="module")
def ekrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "ekrun"
    subprocess.run(["sh", RUNNER / "build.sh", "host", path], check=True)
    return path


def graph(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Any = ()) -> Path:
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def tensor(name: str, dtype: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def convolution(path: Path) -> Path:
    """A convolution and a softmax, of which rounding depends on the kernels."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((8, 3, 3, 3), np.float32), "w")
    return graph(
        path,
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Softmax", ["c"], ["y"], axis=1)],
        [tensor("x", "float32", [2, 3, 9, 9])],
        [tensor("y", "float32", [2, 8, 7, 7])],
        [weight],
    )


def one_shot(ekrun: Path, model: Path, *options: object, code: int = 0) -> Any:
    done = subprocess.run(
        [ekrun, str(LIBRARY), model, *map(str, options)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done
    assert done.stdout.count("\n") == 1 and done.stdout.endswith("\n")
    return json.loads(done.stdout)


def reference(model: Path, inputs: list[Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {each.name: x for each, x in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, feed))


def write(folder: Path, inputs: list[Array], prefix: str = "in") -> list[Path]:
    paths = [folder / f"{prefix}{k}.raw" for k in range(len(inputs))]
    for path, x in zip(paths, inputs, strict=True):
        path.write_bytes(x.tobytes())
    return paths


class Served:
    """An ekrun that answers requests, and its greeting."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.greeting = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def __call__(self, request: str) -> Any:
        assert self.process.stdin
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def served(ekrun: Path, model: Path, *options: str) -> Iterator[Served]:
    with subprocess.Popen(
        [ekrun, str(LIBRARY), model, *options],
        cwd=model.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Served(process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0


def test_one_shot_agrees_to_the_byte(ekrun: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    model = convolution(folder / "a net.onnx")
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 9)).astype(np.float32)
    [path] = write(folder, [x])
    found = one_shot(
        ekrun,
        model,
        "--runs",
        3,
        "--warmup",
        2,
        "--input",
        path,
        "--output",
        folder / "an out",
        "--threads",
        1,
    )
    [y] = reference(model, [x])
    assert (folder / "an out0.raw").read_bytes() == y.tobytes()
    assert found["runtime"] == "onnxruntime" and found["version"] == VERSION and found["threads"] == 1
    assert found["inputs"] == [{"name": "x", "shape": [2, 3, 9, 9], "dtype": "float32"}]
    assert found["outputs"] == [{"name": "y", "shape": [2, 8, 7, 7], "dtype": "float32"}]
    assert len(found["nanoseconds"]) == 3 and all(each > 0 for each in found["nanoseconds"])
    assert 1000 < found["peak_kb"] < 1e7 and found["pid"] > 0


def test_every_dtype_and_many_tensors(ekrun: Path, tmp_path: Path) -> None:
    """The inputs come out in reverse, so that no place can be mistaken for another."""
    count = len(DTYPES)
    model = graph(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", [f"x{k}"], [f"y{k}"]) for k in range(count)],
        [tensor(f"x{k}", dtype, [1, k + 1]) for k, dtype in enumerate(DTYPES)],
        [tensor(f"y{k}", dtype, [1, k + 1]) for k, dtype in reversed([*enumerate(DTYPES)])],
    )
    inputs = [(np.arange(k + 1)[None] % 2).astype(dtype) for k, dtype in enumerate(DTYPES)]
    found = one_shot(
        ekrun, model, "--input", *write(tmp_path, inputs), "--output", tmp_path / "out", "--runs", 1
    )
    assert found["inputs"] == [
        {"name": f"x{k}", "shape": [1, k + 1], "dtype": dtype} for k, dtype in enumerate(DTYPES)
    ]
    assert [each["dtype"] for each in found["outputs"]] == [*reversed(DTYPES)]
    for k, y in enumerate(reference(model, inputs)):
        assert (tmp_path / f"out{k}.raw").read_bytes() == y.tobytes() == inputs[count - 1 - k].tobytes()


def test_served(ekrun: Path, tmp_path: Path) -> None:
    model = sums(tmp_path / "m.onnx")
    outputs = [{"name": name, "shape": [2, 3], "dtype": "float32"} for name in ("out/sum", "file")]
    with served(ekrun, model, "--threads", "2") as ask:
        assert ask.greeting == {
            **{"runtime": "onnxruntime", "version": VERSION, "threads": 2, "pid": ask.process.pid},
            "inputs": [{"name": name, "shape": [2, 3], "dtype": "float32"} for name in "ab"],
            "outputs": ["out/sum", "file"],
        }
        for a, b in ((A, B), (B, A)):
            write(tmp_path, [a, b])
            answer = ask("run in out")
            assert answer["outputs"] == outputs and len(answer["nanoseconds"]) == 1
            assert (tmp_path / "out0.raw").read_bytes() == (a + b).tobytes()
            assert (tmp_path / "out1.raw").read_bytes() == (a - b).tobytes()
        timed = ask("time 5")
        assert len(timed["nanoseconds"]) == 5 and min(timed["nanoseconds"]) > 0
        assert timed.keys() == {"nanoseconds", "peak_kb"}


def test_a_failed_request_is_told_and_the_next_is_served(ekrun: Path, tmp_path: Path) -> None:
    model = sums(tmp_path / "m.onnx")
    write(tmp_path, [A, B], "good")
    write(tmp_path, [A, B[:1]], "short")
    write(tmp_path, [A, np.zeros((3, 3), np.float32)], "long")
    expected = "expected 'run IN OUT' or 'time N'"
    with served(ekrun, model) as ask:
        for request, message in (
            ("time 1", "time: there are no inputs yet: send a run first"),
            ("run none out", "cannot read none0.raw: No such file or directory"),
            ("run short out", "short1.raw: expected the 24 bytes of input 'b'"),
            ("run long out", "long1.raw: expected the 24 bytes of input 'b'"),
            ("run good no/folder", "cannot write no/folder0.raw: No such file or directory"),
            ("run good", expected),
            ("run good out more", expected),
            ("", expected),
            ("time", expected),
            ("time 0", "time 0: expected a number of runs from 1 to 10000000"),
            ("time 1x", "time 1x: expected a number of runs from 1 to 10000000"),
        ):
            assert ask(request) == {"error": message}
        assert "outputs" in ask("run good out")
        assert "error" in ask("run short out")
        assert "error" in ask("time 1")  # the inputs are neither those nor these
        assert "outputs" in ask("run good out") and "peak_kb" in ask("time 1")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk(ekrun: Path, tmp_path: Path) -> None:
    write(tmp_path, [A, B])
    (tmp_path / "out1.raw").symlink_to("/dev/full")
    with served(ekrun, sums(tmp_path / "m.onnx")) as ask:
        assert ask("run in out") == {"error": "cannot write out1.raw: No space left on device"}


def test_stdin_closing_ends_it_in_the_middle_of_a_run(ekrun: Path, tmp_path: Path) -> None:
    write(tmp_path, [A, B])
    with served(ekrun, sums(tmp_path / "m.onnx")) as ask:
        ask("run in out")
        assert ask.process.stdin
        ask.process.stdin.write("time 10000000\n")  # many seconds
        ask.process.stdin.flush()
        time.sleep(0.2)
        ask.process.stdin.close()
        assert ask.process.wait(10) == 0
        assert ask.process.stdout and ask.process.stdout.read() == ""  # not the answer


def test_strings_are_escaped(ekrun: Path, tmp_path: Path) -> None:
    name = 'a"b\\c\n\t\x01 ü€😀'
    model = graph(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", [name], ["y\x1f/"])],
        [tensor(name, "float32", [1])],
        [tensor("y\x1f/", "float32", [1])],
    )
    with served(ekrun, model) as ask:
        assert ask.greeting["inputs"][0]["name"] == name
        assert ask.greeting["outputs"] == ["y\x1f/"]
        for bad in (
            b"\xff",
            b"\xc3",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xe2\x82",
            b"a\x80",
        ):
            prefix = os.fsdecode(bad)
            assert ask.process.stdin
            ask.process.stdin.flush()
            os.write(ask.process.stdin.fileno(), b"run " + bad + b" out\n")
            assert ask.answer() == {"error": f"cannot read {prefix}0.raw: No such file or directory"}


def test_files_and_libraries_that_do_not_load(ekrun: Path, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no network")
    free = sums(tmp_path / "free.onnx", batch="N")
    strings = tmp_path / "strings.onnx"
    value = [helper.make_tensor_value_info(n, TensorProto.STRING, [1]) for n in "xy"]
    graph(strings, [helper.make_node("Identity", ["x"], ["y"])], value[:1], value[1:])
    sequence = tmp_path / "sequence.onnx"
    graph(
        sequence,
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [tensor("x", "float32", [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    for options in ((), ("--runs", 1)):
        for model, message in (
            (tmp_path / "no.onnx", "Protobuf parsing failed"),
            (tmp_path / "none.onnx", "File doesn't exist"),
            (free, "input 'a' has a free extent at axis 0: export the file with fixed shapes"),
            (strings, "'x' has elements of type 8, which ekrun does not know"),
            (sequence, "'y' is no tensor"),
        ):
            found = one_shot(ekrun, model, *options, code=1)
            assert found.keys() == {"error"} and message in found["error"]
    for library, message in (
        (tmp_path / "none.so", "cannot open the library: "),
        (tmp_path / "no.onnx", "cannot open the library: "),
        ("libm.so.6", "libm.so.6 is no onnxruntime: it has no OrtGetApiBase"),
    ):
        done = subprocess.run([ekrun, library, free], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and message in json.loads(done.stdout)["error"]
    [path] = write(tmp_path, [A])
    found = one_shot(ekrun, sums(tmp_path / "m.onnx"), "--runs", 1, "--input", path, code=1)
    assert found == {"error": "1 inputs given, the file has 2"}


def test_without_inputs_it_computes_on_zeros(ekrun: Path, tmp_path: Path) -> None:
    one_shot(ekrun, sums(tmp_path / "m.onnx"), "--runs", 1, "--output", tmp_path / "out")
    assert (tmp_path / "out0.raw").read_bytes() == bytes(24)


def test_a_library_that_is_too_old(ekrun: Path, tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text(
        "static const void *get(unsigned v) { return v < 7 ? &get : 0; }\n"
        'static const char *version(void) { return "1.6.0"; }\n'
        "static struct { const void *(*g)(unsigned); const char *(*v)(void); } base = {get, version};\n"
        "void *OrtGetApiBase(void) { return &base; }\n"
    )
    subprocess.run([str(COMPILER), "-shared", "-fPIC", source, "-o", tmp_path / "old.so"], check=True)
    done = subprocess.run([ekrun, tmp_path / "old.so", "m"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == {"error": "onnxruntime 1.6.0 is too old: take 1.7 or newer"}


@pytest.mark.parametrize(
    "options",
    [
        *("--help", "--threads", "--threads 0", "--threads x", "--runs 0", "--runs -1", "--runs 1 2"),
        *("--warmup 1", "--input x", "--output y", "--runs 1 --input", "--runs 1 --input --output x", "more"),
        f"--runs 1 --input {'x ' * 65}",
    ],
)
def test_usage(options: str, ekrun: Path) -> None:
    done = subprocess.run([ekrun, "l", "m", *options.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("usage: ekrun LIBRARY MODEL ")
    assert subprocess.run([ekrun, "l"], capture_output=True, check=False).returncode == 2


def test_it_computes_without_telemetry_and_marks_every_run(ekrun: Path, tmp_path: Path) -> None:
    """By a library that stands before libc: it sees the environment at dlopen, and the calls of prctl."""
    source = tmp_path / "spy.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
        "int prctl(int option, unsigned long tag) {\n"
        '  if (option == 0x454b5250) fprintf(stderr, "mark %lu\\n", tag);\n  return -1;\n}\n'
        "void *dlopen(const char *path, int flags) {\n"
        '  const char *value = getenv("ORT_DISABLE_TELEMETRY");\n'
        '  if (path) fprintf(stderr, "telemetry off: %s\\n", value ? value : "no");\n'
        '  return ((void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen"))(path, flags);\n}\n'
    )
    spy = tmp_path / "spy.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", source, "-o", spy, "-ldl"], check=True)
    inputs = write(tmp_path, [A, B])
    command = [
        str(ekrun),
        str(LIBRARY),
        str(sums(tmp_path / "m.onnx")),
        "--runs",
        "2",
        "--warmup",
        "1",
        "--input",
        *map(str, inputs),
    ]
    clean = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        command, env={**clean, "LD_PRELOAD": str(spy)}, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[0] == "telemetry off: 1"
    marks = [line for line in done.stderr.splitlines() if line.startswith("mark")]
    assert marks == [f"mark {k}" for k in range(4)]  # before each run, and after the last


@pytest.mark.skipif(
    not (HEADERS / "onnxruntime_c_api.h").exists(),
    reason="no onnxruntime_c_api.h: apt-get install libonnxruntime-dev, or set ORT_HEADERS to its folder",
)
def test_places_and_types_are_those_of_the_real_header(tmp_path: Path) -> None:
    check = [str(COMPILER), "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(HEADERS)]
    subprocess.run([*check, RUNNER / "abi_check.c"], check=True)
    for right, wrong, name in (("X(61,", "X(62,", "GetDimensionsCount"), ("X(9, BOOL", "X(8, BOOL", "BOOL")):
        for each in ("abi_check.c", "ort_abi.h"):
            (tmp_path / each).write_text((RUNNER / each).read_text().replace(right, wrong))
        done = subprocess.run([*check, tmp_path / "abi_check.c"], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"{name}: another " in done.stderr
