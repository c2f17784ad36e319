"""Worker: runs one network file in the Python that holds the runtime, for those who live elsewhere.

One program that stands alone: the standard library, numpy and one runtime, on Python 3.8 or newer.
Nothing of edgekron is imported, so this file can be copied to any environment or machine.

    python worker.py RUNTIME MODEL --inputs in.npz --outputs out.npz   one run; arrays by their names
    python worker.py RUNTIME MODEL                                     frames on stdin and stdout
    python worker.py RUNTIME                                           versions, as one line of JSON

RUNTIME is onnxruntime, litert or tflite-runtime. MODEL is a path, or `-`: the file is the first frame.

A frame is MAGIC, its length (8 bytes, little-endian) and that many bytes: JSON, or an .npz file, which
begins with `PK`. The first frame sent is the greeting: versions, `inputs` (name, shape with -1 for a free
extent, dtype), the names of the `outputs`, and the `sha256` of a file that came as a frame. Then each
request is an .npz of the inputs, named by their places `0`, `1`, .., and maybe of a number `runs`; its
answer holds the outputs, named likewise, what the runs took in `nanoseconds`, and the most memory that the
process has held, `peak_bytes`, where the system tells it. A request of `runs` alone repeats the last inputs,
and is answered without the outputs: nothing large travels while latency is measured. A request of inputs and
`counted` is answered by `counted` alone: what an emulator that counts wrote before and after one run, a first
one over. A failure is answered by JSON with `error`; one to load ends the worker. When stdin closes, the
worker ends at once, whatever it is doing. Arrays are in the layout of the file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import queue
import signal
import struct
import sys
import threading
import time
import zipfile
from importlib import import_module
from importlib.metadata import version
from typing import Any, BinaryIO, Mapping, Protocol, Sequence

import numpy as np

MAGIC = b"EKW1"
LIMIT = 1 << 32
"""Bytes of a frame; a longer one is no frame of ours."""
PACKAGES = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}
"""Package that holds each runtime."""
MARK = 0x454B5250
"""An option of prctl that no kernel knows: an emulator that counts writes its counts to the file descriptor
that is the argument (count.c below devices/)."""
_HEADER = struct.Struct("<4sQ")
_MODULES = {
    "onnxruntime": "onnxruntime",
    "litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}
_DTYPES = {"float": "float32", "double": "float64"}
"""Names of ONNX that are not numpy's."""


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Send one frame."""
    stream.write(_HEADER.pack(MAGIC, len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, None at the end; EOFError within a frame, ValueError for what is no frame."""
    head = stream.read(_HEADER.size)
    if not head:
        return None
    magic, length = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
    if not MAGIC.startswith(magic[: len(head)]) or length > LIMIT:
        raise ValueError(f"expected a frame, found {head!r}")
    data = stream.read(length) if len(head) == _HEADER.size else b""
    if len(head) < _HEADER.size or len(data) < length:
        raise EOFError("the stream ends within a frame")
    return data


def pack(arrays: Mapping[str, Any]) -> bytes:
    """An .npz file of plain arrays; unlike numpy.savez it takes any names, and never pickles."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in arrays.items():
            with file.open(name + ".npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """The arrays of an .npz file; ValueError for anything pickled."""
    if not data.startswith(b"PK"):  # numpy would take anything else for a pickle
        raise ValueError("expected an .npz file")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


class Network(Protocol):
    """A loaded file; inputs: name, shape and dtype of each; outputs: their names."""

    inputs: list[tuple[str, list[int], str]]
    outputs: list[str]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for these inputs."""


class OnnxNetwork:
    """A file in onnxruntime, on the CPU."""

    def __init__(self, library: Any, model: str | bytes, threads: int) -> None:
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if threads > 1:  # a spinning thread would slow what is measured beside it
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [
            (i.name, [n if isinstance(n, int) else -1 for n in i.shape], _dtype(i.type))
            for i in self._session.get_inputs()
        ]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for these inputs."""
        feed = {self.inputs[k][0]: x for k, x in enumerate(inputs)}
        return list(self._session.run(None, feed))


class TfliteNetwork:
    """A file in LiteRT or tflite-runtime, on the CPU."""

    def __init__(self, library: Any, model: str | bytes, threads: int) -> None:
        source = "model_path" if isinstance(model, str) else "model_content"
        self._interpreter = library.Interpreter(num_threads=threads, **{source: model})
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self._shapes = [tuple(detail["shape"]) for detail in self._inputs]
        self.inputs = [
            (_short(d["name"]), [int(n) for n in d["shape_signature"]], np.dtype(d["dtype"]).name)
            for d in self._inputs
        ]
        self.outputs = [_short(detail["name"]) for detail in self._outputs]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for these inputs; a file with a free batch is resized to theirs.

        Of an int8 file: floats, or its own numbers if it was given its own.
        """
        encoded = [_encoded(x, self._inputs[k]) for k, x in enumerate(inputs)]
        own = any(self._inputs[k]["quantization"][0] and x is encoded[k] for k, x in enumerate(inputs))
        shapes = [x.shape for x in inputs]
        if shapes != self._shapes:
            for k, shape in enumerate(shapes):
                self._interpreter.resize_tensor_input(self._inputs[k]["index"], shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for k, x in enumerate(encoded):
            self._interpreter.set_tensor(self._inputs[k]["index"], x)
        self._interpreter.invoke()
        outputs = [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]
        return outputs if own else [_decoded(y, self._outputs[k]) for k, y in enumerate(outputs)]


def _encoded(x: Any, detail: dict[str, Any]) -> Any:
    """Floats as the numbers of a quantized input that stand for them; anything else as it is."""
    (scale, zero), kind = detail["quantization"], np.dtype(detail["dtype"])
    if not scale or x.dtype.kind != "f" or kind.kind not in "iu":
        return x
    limits = np.iinfo(kind)
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(kind)


def _decoded(y: Any, detail: dict[str, Any]) -> Any:
    scale, zero = detail["quantization"]
    return (y.astype(np.float32) - zero) * np.float32(scale) if scale and y.dtype.kind in "iu" else y


def _dtype(name: str) -> str:
    own = name[len("tensor(") : -1]
    if not name.startswith("tensor(") or own == "string":
        raise ValueError(f"an input of type {name} is not supported")
    return _DTYPES.get(own, own)


def _short(name: str) -> str:
    """Without what TensorFlow adds to a name."""
    name = name[len("serving_default_") :] if name.startswith("serving_default_") else name
    return name[:-2] if name.endswith(":0") else name


def _library(runtime: str) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else onnxruntime writes files in the user's cache
    return import_module(_MODULES[runtime])


def _load(runtime: str, model: str | bytes, threads: int) -> Network:
    library = _library(runtime)
    if runtime == "onnxruntime":
        return OnnxNetwork(library, model, threads)
    return TfliteNetwork(library, model, threads)


def _versions(runtime: str) -> dict[str, Any]:
    return {
        "runtime": runtime,
        "version": version(PACKAGES[runtime]),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _failure(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _once(network: Network, source: str, target: str) -> None:
    with open(source, "rb") as file:
        arrays = unpack(file.read())
    names = [name for name, _, _ in network.inputs]
    if len(arrays) == len(names) == 1:
        arrays = dict(zip(names, arrays.values()))
    if set(arrays) != set(names):
        raise ValueError(f"{source} holds {sorted(arrays)}, the network takes {names}")
    outputs = network.run([arrays[name] for name in names])
    with open(target, "wb") as file:
        file.write(pack({name: outputs[k] for k, name in enumerate(network.outputs)}))


def _receive(requests: queue.Queue[bytes]) -> None:
    """Read frames in a thread of its own: the end of stdin is noticed in the middle of a run, too."""
    code = 1
    try:
        while True:
            frame = read_frame(sys.stdin.buffer)
            if frame is None:
                code = 0
                break
            requests.put(frame)
    finally:
        os._exit(code)


def _serve(runtime: str, model: str, threads: int, limit: int, out: BinaryIO) -> None:
    try:
        _converse(runtime, model, threads, limit, out)
    finally:
        os._exit(1)  # an ordinary end would wait for the thread that reads stdin


def _converse(runtime: str, model: str, threads: int, limit: int, out: BinaryIO) -> None:
    _end_after(limit)
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    try:
        data = requests.get() if model == "-" else None
        network = _load(runtime, model if data is None else data, threads)
        keys = ("name", "shape", "dtype")
        about = {"inputs": [dict(zip(keys, info)) for info in network.inputs], "outputs": network.outputs}
        greeting = {**_versions(runtime), **about}
        if data is not None:
            greeting["sha256"] = hashlib.sha256(data).hexdigest()
    except Exception as error:  # runtimes raise anything
        write_frame(out, json.dumps({"error": _failure(error)}).encode())
        return
    write_frame(out, json.dumps(greeting).encode())
    del data  # a board may have little memory
    inputs: list[Any] = []
    while True:
        _end_after(limit)
        try:
            request = unpack(requests.get())
            counted, runs = request.pop("counted", None) is not None, int(request.pop("runs", 1))
            repeated = bool(inputs and not request)
            if not repeated:
                inputs = _inputs(network, request)
            if counted:
                answer = pack({"counted": _counted(network, inputs)})
            else:
                answer = _answer(network, inputs, runs, silent=repeated)
        except Exception as error:
            answer = json.dumps({"error": _failure(error)}).encode()
        write_frame(out, answer)


def _end_after(seconds: int) -> None:
    """Unless called again, whatever it waits for then; 0: never."""
    if seconds:
        signal.alarm(seconds)


def _inputs(network: Network, request: dict[str, Any]) -> list[Any]:
    if len(request) != len(network.inputs):
        raise ValueError(f"got {len(request)} inputs, the network takes {len(network.inputs)}")
    return [request[str(k)] for k in range(len(request))]


def _answer(network: Network, inputs: list[Any], runs: int, *, silent: bool) -> bytes:
    start = time.perf_counter_ns()
    for _ in range(runs):
        outputs = network.run(inputs)
    elapsed = time.perf_counter_ns() - start
    told = {} if silent else {str(k): y for k, y in enumerate(outputs)}
    return pack({**told, "nanoseconds": elapsed, **_peak()})


def _counted(network: Network, inputs: list[Any]) -> str:
    """What the emulator writes; nothing if there is none."""
    prctl = import_module("ctypes").CDLL(None).prctl
    source, target = os.pipe()
    network.run(inputs)  # the first run allocates
    prctl(MARK, target)
    network.run(inputs)
    prctl(MARK, target)
    os.close(target)
    with os.fdopen(source) as file:
        return file.read()


def _peak() -> dict[str, int]:
    """The most memory of this process, if the system tells; getrusage would count that of its parent, too."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return {"peak_bytes": 1024 * int(lines["VmHWM"].split()[0])}
    except (OSError, KeyError):  # not Linux
        return {}


def main() -> int:
    """Returns the exit code: 0, 1 for a failure told on stderr or in a frame, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(description="Run a network file on a runtime of this Python.")
    parser.add_argument("runtime", choices=sorted(PACKAGES))
    parser.add_argument("model", nargs="?", help="the file; - if it is the first frame on stdin")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=0, help="end after these seconds without an answer")
    parser.add_argument("--inputs", metavar="IN.npz", help="run once on these arrays, by name")
    parser.add_argument("--outputs", metavar="OUT.npz", help="where their outputs go")
    options = parser.parse_args()
    once = options.inputs or options.outputs
    if once and not (options.inputs and options.outputs and options.model not in (None, "-")):
        parser.error("--inputs and --outputs go together, and with a MODEL on disk")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native libraries print goes to stderr
    if options.model and not once:
        _serve(options.runtime, options.model, options.threads, options.limit, out)
    try:
        if once:
            _once(_load(options.runtime, options.model, options.threads), options.inputs, options.outputs)
        else:
            _library(options.runtime)
            out.write(json.dumps(_versions(options.runtime)).encode() + b"\n")
            out.flush()
    except Exception as error:
        print("error: " + _failure(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
