"""Phones for the tests of adb: test adbds that the real adb client is connected to, and programs for them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.edgekron_adb.adbd import Adbd

RUNNER = Path(__file__).parents[2] / "devices" / "edgekron_adb" / "runner"
BENCHMARK = """
for option; do
    case $option in
        --num_runs=*) runs=${option#*=} ;;
        --output_filepath=*) PYTHON INFER "$@" || exit 1 ;;
        --use_xnnpack=true) applied='(TfLiteXNNPackDelegate) node, yielding 1 partitions.' ;;
    esac
done
echo "INFO: STARTING!"
[ -z "$applied" ] || echo "VERBOSE: Replacing 2 out of 2 node(s) with delegate $applied"
echo "INFO: count=1 curr=900 p5=900 median=900 p95=900"
echo
if [ "$runs" = 1 ]; then echo "INFO: count=1 curr=312 p5=312 median=312 p95=312"
else echo "INFO: count=$runs first=310 curr=290 min=281 max=322 avg=300.5 std=9 p5=282 median=300 p95=321"; fi
echo
echo "INFO: Inference timings in us: Init: 1024, First inference: 900, Warmup (avg): 9, Inference (avg): 3"
echo "INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25"
"""
"""benchmark_model, but for its times, which it makes up; what it computes, this machine's LiteRT does."""
INFER = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
options = dict(each.lstrip("-").split("=", 1) for each in sys.argv[1:])
model = Interpreter(model_path=options["graph"], num_threads=int(options["num_threads"]))
details = model.get_input_details()
shapes = [tuple(map(int, each.split(","))) for each in options["input_layer_shape"].split(":")]
files = [each.split(":")[1] for each in options["input_layer_value_files"].split(",")]
for detail, shape in zip(details, shapes, strict=True):
    model.resize_tensor_input(detail["index"], shape)
model.allocate_tensors()
for detail, shape, file in zip(details, shapes, files, strict=True):
    model.set_tensor(detail["index"], np.fromfile(file, detail["dtype"]).reshape(shape))
model.invoke()
with open(options["output_filepath"], "wb") as out:
    for detail in model.get_output_details():
        out.write(model.get_tensor(detail["index"]).tobytes())
"""
PROPERTIES = """[ro.product.manufacturer]: [Nimbus]
[ro.product.model]: [Cirrus 3]
[ro.soc.model]: [NX900]
[ro.build.version.release]: [15]
[ro.build.version.sdk]: [35]
[persist.note]: [two
lines]
"""
DUMPS = {
    "thermalservice": """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=84.0, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=41.25, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=33.5, mType=3, mName=SKIN, mStatus=1}
	Temperature{mValue=30.0, mType=2, mName=BATTERY, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=big}
""",
    "battery": """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  level: 87
  temperature: 305
  technology: Li-ion

  temperature: 999
""",
}


def script(path: Path, text: str) -> Path:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def benchmark(folder: Path) -> Path:
    """A benchmark_model for this machine."""
    (folder / "infer.py").write_text(INFER)
    text = BENCHMARK.replace("PYTHON", sys.executable).replace("INFER", str(folder / "infer.py"))
    return script(folder / "my benchmark's", text)


def ekrun(folder: Path, text: str) -> Path:
    """A runner folder with an ekrun that is this shell script."""
    folder.mkdir(exist_ok=True)
    (folder / "libonnxruntime.so").write_bytes(b"")
    script(folder / "ekrun", text)
    return folder


def runner(folder: Path) -> Path:
    """A runner folder with the real ekrun and the library of this Python's onnxruntime."""
    import onnxruntime

    folder.mkdir()
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")
    (folder / library.name).symlink_to(library)
    subprocess.run(["sh", RUNNER / "build.sh", "host", folder / "ekrun"], check=True)
    return folder


class Phone(Adbd):
    """A test adbd whose shells find getprop and dumpsys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "tmp").mkdir()
        for name, text in {"properties": PROPERTIES, **DUMPS}.items():
            (folder / name).write_text(text)
        script(folder / "bin" / "getprop", f"cat {folder}/properties")
        script(folder / "bin" / "dumpsys", f'cat "{folder}/$1"')
        super().__init__(folder / "tmp", folder / "bin")

    def left(self) -> list[str]:
        """What lies in its /data/local/tmp, and what still runs there or talks to it from here."""
        lies = [str(path) for path in self.sandbox.iterdir()]
        shells = [str(each.args) for each in self.processes if each.poll() is None]
        return lies + shells + working(self.sandbox) + running(self.serial)

    def all_gone(self) -> list[str]:
        """What is left after a while."""
        return until(self.left, seconds=15)


def running(word: str) -> list[str]:
    """Command lines on this machine that hold this word as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if word in arguments:
            found.append(" ".join(arguments))
    return found


def working(folder: Path) -> list[str]:
    """Processes on this machine that work below a folder, which may be removed by now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it has ended
            if os.readlink(path).startswith(f"{folder}/"):
                found.append(str(path))
    return found


def until(left: Callable[[], list[str]], seconds: float) -> list[str]:
    """What is left when it is nothing, or when the time is over."""
    end = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


@contextmanager
def server(folder: Path, adb: str) -> Iterator[dict[str, str]]:
    """An adb server of our own, which sees nothing but what it is connected to; gives its environment."""
    (folder / "home").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **{"HOME": str(folder / "home"), "ANDROID_ADB_SERVER_PORT": str(port), "TMPDIR": str(folder)},
        **{"ADB_MDNS": "0", "ADB_USB": "0", "ADB_EMU": "0", "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553"},
    }

    def call(what: str) -> None:
        subprocess.run([adb, what], env=os.environ | environment, check=True, capture_output=True, timeout=30)

    call("start-server")
    try:
        yield environment
    finally:
        call("kill-server")


@contextmanager
def attached(phone: Phone, adb: str, state: str = "device") -> Iterator[Phone]:
    """The phone, connected to the server of the environment."""
    said = subprocess.run([adb, "connect", phone.serial], capture_output=True, text=True, timeout=30).stdout
    assert phone.serial in said
    shown = until(lambda: [] if state in devices(adb, phone.serial) else [said], 10)
    assert not shown, shown
    try:
        yield phone
    finally:
        phone.lose()
        subprocess.run([adb, "disconnect", phone.serial], capture_output=True, timeout=30)


def devices(adb: str, serial: str) -> str:
    """The state of a device."""
    listed = subprocess.run([adb, "devices"], capture_output=True, text=True, timeout=30).stdout
    return next((line.split("\t")[1] for line in listed.splitlines() if line.startswith(f"{serial}\t")), "")


COMPILER = shutil.which(os.environ.get("CC", "cc"))
