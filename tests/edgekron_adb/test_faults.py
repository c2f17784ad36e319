"""Adb device: what fails on the way and on the phone is told in one line, and nothing is left."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgekron.errors import EdgekronError, UnavailableError, UsageError
from edgekron_adb import client as client_module
from edgekron_adb import onnx_session, tflite_session
from edgekron_adb.client import Attached, choose, find
from edgekron_adb.device import AdbDevice
from tests.edgekron_adb.phones import Phone, attached, ekrun, script
from tests.edgekron_tflite import foreign
from tests.workers import sums

GREETING = """echo '{"runtime": "onnxruntime", "version": "9.9", "inputs": [], "outputs": []}'"""
SILENT = r"^adb:127.* does not answer within 0\.5 s; try: \S+/adb -s 127.* shell true$"
INPUT = np.zeros((2, 3), np.float32)


def run(path: Path, runtime: str, **options: str) -> str:
    """The line that running this file on the only phone ends in."""
    with pytest.raises(EdgekronError) as error, AdbDevice(**options).connect(1) as connection:
        connection.open(path, runtime).run([INPUT, INPUT])
    assert "\n" not in str(error.value)
    return f"{type(error.value).__name__}: {error.value}"


def tflite(folder: Path) -> Path:
    path = folder / "m.tflite"
    path.write_bytes(foreign.file())
    return path


@contextmanager
def lost(phone: Phone, begun: Path) -> Iterator[None]:
    """The phone is lost as soon as this file exists."""

    def pull() -> None:
        while not begun.exists():
            time.sleep(0.01)
        phone.lose()

    thread = threading.Thread(target=pull)
    thread.start()
    yield
    thread.join()


def test_lost_in_the_middle(phone: Phone, tmp_path: Path) -> None:
    begun = phone.folder / "begun"
    runner = ekrun(tmp_path / "r", f"{GREETING}; read -r line; touch {begun}; exec sleep 600")
    with lost(phone, begun):
        said = run(sums(tmp_path / "m.onnx"), "onnxruntime", runner=str(runner))
    assert said == f"UnavailableError: adb:{phone.serial} was lost: attach it again, and repeat the command"


def test_lost_while_a_file_travels(phone: Phone, tmp_path: Path) -> None:
    begun = phone.folder / "begun"
    script(phone.bin / "cat", f"touch {begun}; exec sleep 600")
    with lost(phone, begun):
        said = run(sums(tmp_path / "m.onnx"), "onnxruntime", runner=str(ekrun(tmp_path / "r", GREETING)))
    assert said == f"UnavailableError: adb:{phone.serial} was lost: attach it again, and repeat the command"


def test_lost_between_two_calls(phone: Phone, tmp_path: Path) -> None:
    context = AdbDevice().connect(1)
    connection = context.__enter__()
    phone.lose()
    with pytest.raises(UnavailableError, match=" was lost: "):
        connection.conditions()
    with pytest.raises(UnavailableError, match=r" may still hold /data/local/tmp/edgekron-[0-9a-f]{16}: "):
        context.__exit__(None, None, None)


def test_runs_that_take_too_long(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "SECONDS", 0.5)
    monkeypatch.setattr(tflite_session, "SECONDS", 0.5)
    path, runner = sums(tmp_path / "m.onnx"), str(ekrun(tmp_path / "r", f"{GREETING}; exec sleep 600"))
    what = f"{path}: onnxruntime on adb:{phone.serial}"
    assert run(path, "onnxruntime", runner=runner) == (
        f"UnavailableError: {what} cannot run this file: it took more than 0.5 s"
    )
    sleeper = str(script(tmp_path / "sleeper", "sleep 600; true"))  # a shell that waits for its child
    assert re.match(SILENT, run(tflite(tmp_path), "litert", benchmark=sleeper).partition(" ")[2])


def test_a_phone_that_does_not_answer(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SECONDS", 0.5)
    phone.deaf = True
    with pytest.raises(UnavailableError, match=SILENT):
        AdbDevice().connect(1).__enter__()
    phone.deaf = False
    with AdbDevice().connect(1) as connection:
        phone.deaf = True
        with pytest.raises(UnavailableError, match=SILENT):
            connection.conditions()


def test_a_full_disk(phone: Phone, tmp_path: Path) -> None:
    """Its cat writes 1000 bytes, and the next to /dev/full."""
    script(phone.bin / "cat", '[ $# = 0 ] || exec /bin/cat "$@"\nhead -c 1000; exec /bin/cat > /dev/full')
    said = run(tflite(tmp_path), "litert", benchmark=str(script(tmp_path / "big", "#" * 2_000_000)))
    assert said.startswith(f"UnavailableError: adb:{phone.serial} is full: free some space in /data (")


def test_a_disk_too_full_for_a_folder(phone: Phone) -> None:
    script(phone.bin / "mkdir", "echo \"mkdir: '$3': No space left on device\" >&2; exit 1")
    with pytest.raises(UnavailableError, match=r" is full: free some space in /data \(mkdir: "):
        AdbDevice().connect(1).__enter__()


def test_files_that_arrive_changed(phone: Phone, tmp_path: Path) -> None:
    program = str(script(tmp_path / "b", "true"))
    script(phone.bin / "cat", '[ $# = 0 ] || exec /bin/cat "$@"\nsed s/true/false/')
    assert "another file arrived than was sent: sha256 " in run(tflite(tmp_path), "litert", benchmark=program)
    (phone.bin / "cat").unlink()
    script(phone.bin / "sha256sum", 'echo "sh: sha256sum: inaccessible or not found" >&2; exit 127')
    assert " has no sha256sum: Android 8 or newer is needed" in run(
        tflite(tmp_path), "litert", benchmark=program
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("#!/no/such/loader\n", "cannot start {}: it, its loader or a library is missing there ("),
        (  # what Android's shell says of a program for another processor; others take it for a script
            "#!/bin/sh\necho 'sh: ./x: not executable: 64-bit ELF file' >&2; exit 1\n",
            "cannot execute {}: it must be built for its processor (sh: ./x: not executable: 64",
        ),
        ("#!/bin/sh\nkill -9 $$\n", "ended {}, as it does when memory is short: close the apps on it, and"),
    ],
)
def test_programs_that_do_not_run(program: str, message: str, phone: Phone, tmp_path: Path) -> None:
    (runner := ekrun(tmp_path / "r", "")).joinpath("ekrun").write_text(program)
    (tmp_path / "b").write_text(program)
    start = f"UnavailableError: adb:{phone.serial} {message}"
    assert run(sums(tmp_path / "m.onnx"), "onnxruntime", runner=str(runner)).startswith(start.format("ekrun"))
    said = run(tflite(tmp_path), "litert", benchmark=str(tmp_path / "b"))
    assert said.startswith(start.format("benchmark_model"))


def test_a_phone_that_does_not_tell_memory(phone: Phone, tmp_path: Path) -> None:
    infos = '[{"name": "a", "shape": [2, 3], "dtype": "float32"}]'
    answers = (
        f"""echo '{{"runtime": "onnxruntime", "version": "1.0", "inputs": {infos}, "outputs": []}}'\n"""
        "while read -r word rest; do\n"
        """    [ "$word" = run ] && echo '{"outputs": [], "nanoseconds": [1]}'\n"""
        """    [ "$word" = time ] && echo '{"nanoseconds": [3, 4], "peak_kb": null}'\n"""
        "done"
    )
    with AdbDevice(runner=str(ekrun(tmp_path / "r", answers))).connect(1) as connection:
        session = connection.open(sums(tmp_path / "m.onnx"), "onnxruntime")
        clocked = session.clocked([np.zeros((2, 3), np.float32)])
        assert clocked and clocked.nanoseconds(2) == 7
        assert session.peak_bytes() is None


def test_programs_that_say_something_else(phone: Phone, tmp_path: Path) -> None:
    path, runner = sums(tmp_path / "m.onnx"), str(ekrun(tmp_path / "r", "echo Welcome; cat"))
    assert " does not speak as ekrun does: 'Welcome'" in run(path, "onnxruntime", runner=runner)
    refuses = script(
        tmp_path / "b",
        "echo STARTING!; echo 'ERROR: Op 7 is unknown.'; echo 'ERROR: Benchmarking failed.'; exit 1",
    )
    assert run(tflite(tmp_path), "litert", benchmark=str(refuses)) == (
        f"UsageError: {tmp_path}/m.tflite: benchmark_model on adb:{phone.serial} fails: Op 7 is unknown."
    )
    old = script(tmp_path / "old", "echo 'count=3 avg=5'")  # it does not know --output_filepath
    said = run(tflite(tmp_path), "litert", benchmark=str(old))
    assert said.endswith("No such file or directory; benchmark_model must know --output_filepath")
    short = script(tmp_path / "short", "echo x > s0-out.raw; echo 'count=3 avg=5'")
    assert run(tflite(tmp_path), "litert", benchmark=str(short)) == (
        f"UnavailableError: adb:{phone.serial}: s0-out.raw: 2 bytes instead of 48"
    )


def test_a_library_that_does_not_load(phone: Phone, real_runner: dict[str, str], tmp_path: Path) -> None:
    runner = ekrun(tmp_path / "r", "")
    shutil.copy(Path(real_runner["runner"]) / "ekrun", runner / "ekrun")
    said = run(sums(tmp_path / "m.onnx"), "onnxruntime", runner=str(runner))
    assert said.startswith(
        f"UnavailableError: option runner: adb:{phone.serial} cannot use the library: cannot open"
    )


def test_a_file_that_does_not_load(phone: Phone, real_runner: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no network")
    said = run(tmp_path / "m.onnx", "onnxruntime", **real_runner)
    assert said.startswith(
        f"UsageError: {tmp_path}/m.onnx: onnxruntime on adb:{phone.serial} cannot load this"
    )


def test_an_unauthorized_phone(client: str, tmp_path: Path) -> None:
    phone = Phone(tmp_path / "phone")
    phone.authorized = False
    with attached(phone, client, "unauthorized"), pytest.raises(UnavailableError) as error:
        AdbDevice(phone.serial).connect(1).__enter__()
    assert str(error.value) == (
        f"adb:{phone.serial} does not trust this machine: unlock it, and allow USB debugging on its screen"
    )


def test_several_phones_and_none(phone: Phone, client: str, tmp_path: Path) -> None:
    with attached(Phone(tmp_path / "other"), client) as other:
        with pytest.raises(
            UsageError, match=r"^several devices are attached: give one as adb:SERIAL: "
        ) as error:
            AdbDevice().connect(1).__enter__()
        assert f"{phone.serial} (Test_Phone)" in str(error.value) and other.serial in str(error.value)
        with AdbDevice(other.serial).connect(1):
            assert [*other.sandbox.iterdir()] and not [*phone.sandbox.iterdir()]
        assert other.all_gone() == []
    with pytest.raises(
        UnavailableError, match=r"^adb:x1 is not attached; adb sees 127\.0\.0\.1:\d+ \(Test_Phone\)"
    ):
        AdbDevice("x1").connect(1).__enter__()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("offline", "adb:x1 is offline: plug it in again, or switch USB debugging off and on"),
        ("no permissions (user in plugdev?)", "adb:x1 may not be used by this user: see `adb devices`, and"),
        ("recovery", "adb:x1 is in the state 'recovery': start Android on it"),
    ],
)
def test_states(state: str, message: str) -> None:
    with pytest.raises(UnavailableError) as error:
        choose([Attached("x1", state)], "")
    assert str(error.value).startswith(message)
    with pytest.raises(UnavailableError, match=r"^no device is attached: connect a phone, and switch on USB"):
        choose([], "")


@pytest.mark.parametrize("address", ["-s", "a b", "x;id", "$(id)"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match=r"expected adb:SERIAL, as `adb devices` prints it$"):
        AdbDevice(address).connect(1).__enter__()


def test_where_adb_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("").endswith("/adbutils/binaries/adb")
    adb = script(tmp_path / "adb", "")
    assert find("") == str(adb)
    (tools := tmp_path / "sdk" / "platform-tools").mkdir(parents=True)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    of_home = script(tools / "adb", "")
    assert find("") == str(of_home)
    assert find(str(adb)) == str(adb)
    with pytest.raises(UnavailableError, match=r"^option adb='/no/adb': there is no such program$"):
        find("/no/adb")
    monkeypatch.delenv("ANDROID_HOME")
    monkeypatch.setattr(client_module, "find_spec", lambda name: None)
    adb.unlink()
    with pytest.raises(
        UnavailableError, match=r"^there is no adb on this machine: install Android's platform-t"
    ):
        find("")


def test_a_server_of_another_version_is_not_ended(phone: Phone, tmp_path: Path) -> None:
    other = script(
        tmp_path / "adb",
        f"[ $1 = version ] && echo 'Android Debug Bridge version 1.0.32' || touch {tmp_path}/x",
    )
    with pytest.raises(
        UnavailableError, match=r"^an adb server of version 1\.0\.41 runs, and .*1\.0\.32, would end"
    ):
        AdbDevice(adb=str(other)).connect(1).__enter__()
    assert not (tmp_path / "x").exists()


KILLED = """
import json, os, signal, sys, time
import edgekron_onnx.exporter, edgekron_onnx.runtime  # else each child does it
from edgekron.verbs.profile import profile
path, device, options, moments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])

def child():
    pid = os.fork()
    if not pid:
        profile(path, device=device, options=options, seconds=0)
        os._exit(0)
    return pid

start = time.monotonic()
assert os.waitpid(child(), 0)[1] == 0
whole = time.monotonic() - start
for moment in moments:
    pid = child()
    time.sleep(moment * whole)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(moment, flush=True)
    sys.stdin.readline()
"""


def test_killed_at_any_moment(phone: Phone, real_runner: dict[str, str], tmp_path: Path) -> None:
    generator = random.Random(0)
    moments = [generator.random() for _ in range(8)]
    arguments = [
        str(sums(tmp_path / "m.onnx")),
        f"adb:{phone.serial}",
        json.dumps(real_runner),
        json.dumps(moments),
    ]
    command = [sys.executable, "-c", KILLED, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as local:
        assert local.stdin and local.stdout
        for moment in moments:
            assert local.stdout.readline() == f"{moment}\n"
            assert phone.all_gone() == []
            local.stdin.write("\n")
            local.stdin.flush()
    assert local.returncode == 0
    assert any("ekrun" in each for each in phone.commands)
