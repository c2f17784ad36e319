"""profile.sh: by the real adb client on a test adbd, in the shells of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.edgekron_adb.phones import Phone, attached, ekrun, script
from tests.edgekron_tflite import foreign
from tests.workers import sums

SCRIPT = Path(__file__).parents[2] / "devices/edgekron_adb/profile.sh"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@pytest.fixture
def cool(phone: Phone) -> Phone:
    """A phone that need not wait."""
    return throttling(phone, 0)


def throttling(phone: Phone, status: int) -> Phone:
    (phone.folder / "thermalservice").write_text(
        f"IsStatusOverride: false\nThermal Status: {status}\nMore:\n"
    )
    return phone


def shell(name: str) -> list[str]:
    if not shutil.which(name):
        pytest.skip(f"there is no {name} on this machine")
    return SHELLS[name]


def started(
    client: str, folder: Path, *options: object, shell: list[str] | None = None
) -> subprocess.Popen[str]:
    command = [*(shell or ["sh"]), str(SCRIPT), "--adb", client, "--out", str(folder / "out")]
    return subprocess.Popen(
        [*command, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, (out, err)
    return out, err


def onnx(folder: Path, runner: dict[str, str]) -> list[object]:
    """The options for two files."""
    [library] = Path(runner["runner"]).glob("libonnxruntime.so*")
    files = [sums(folder / "a b'$(id).onnx"), sums(folder / "dense.onnx")]
    return ["--ekrun", Path(runner["runner"]) / "ekrun", "--library", library, *files]


def slow(folder: Path) -> list[object]:
    """An ekrun that does not end, and what it takes."""
    runner = ekrun(folder / "slow", "echo begun > begun; sleep 600")
    files = [sums(folder / "m.onnx"), sums(folder / "dense.onnx")]
    return ["--ekrun", runner / "ekrun", "--library", runner / "libonnxruntime.so", *files]


def begun(phone: Phone, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 30
    while not [*phone.sandbox.glob("*/begun")]:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("name", SHELLS)
def test_onnx_files(name: str, cool: Phone, client: str, real_runner: dict[str, str], tmp_path: Path) -> None:
    files = onnx(tmp_path, real_runner)
    out, _ = ended(
        started(client, tmp_path, "--rounds", 3, "--runs", 4, "--warmup", 1, *files, shell=shell(name))
    )
    assert cool.sandbox.exists() and not [*cool.sandbox.iterdir()]
    rows = [line.split("\t") for line in (tmp_path / "out/samples.tsv").read_text().splitlines()]
    order = ["compressed", "dense", "dense", "compressed", "compressed", "dense"]
    assert [(r, f) for r, f, _ in rows[::4]] == [*zip("112233", order, strict=True)]
    assert len(rows) == 24
    samples = {f: np.array([float(s) for _, g, s in rows if g == f]) for f in ("compressed", "dense")}
    medians = {f: float(np.median(each)) for f, each in samples.items()}
    by_round = [
        np.median(dense) / np.median(compressed)
        for compressed, dense in zip(
            samples["compressed"].reshape(3, 4), samples["dense"].reshape(3, 4), strict=True
        )
    ]
    assert out.splitlines()[-4:] == [
        f"compressed: {medians['compressed'] / 1000:.3f} ms",
        f"dense: {medians['dense'] / 1000:.3f} ms",
        f"dense / compressed: {medians['dense'] / medians['compressed']:.2f} "
        f"(of one round: {min(by_round):.2f} to {max(by_round):.2f})",
        f"every sample, in microseconds: {tmp_path}/out/samples.tsv",
    ]
    assert "product.model: Cirrus 3\n" in out and "soc.model: NX900\n" in out
    for when in ("before", "after"):
        assert f"{when}:\n  Thermal Status: 0\n  USB powered: true\n  level: 87\n  temperature: 305\n" in out
    assert "--threads 1 --runs 4 --warmup 1" in (tmp_path / "out/log.txt").read_text()


def test_tflite_files(cool: Phone, client: str, programs: dict[str, str], tmp_path: Path) -> None:
    files = [tmp_path / "a b.tflite", tmp_path / "dense.tflite"]
    for path in files:
        path.write_bytes(foreign.file())
    options = ["--benchmark-model", programs["benchmark"], "--rounds", 1, "--serial", cool.serial]
    out, _ = ended(started(client, tmp_path, *options, "--cores", "1", *files))
    assert (tmp_path / "out/samples.tsv").read_text() == "1\tcompressed\t300.500\n1\tdense\t300.500\n"
    delegated = (
        "Replacing 2 out of 2 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions"
    )
    assert f"compressed: {delegated}\ndense: {delegated}\n" in out and "cores: 1\n" in out
    assert "dense / compressed: 1.00 (of one round: 1.00 to 1.00)" in out
    [command, _] = [each for each in cool.commands if "--graph=" in each]
    assert command.endswith(
        "exec taskset 1 ./benchmark_model --graph=compressed.tflite --num_threads=1 --num_runs=50 "
        "--warmup_runs=10 --min_secs=0 --warmup_min_secs=0 --use_xnnpack=true 2>&1"
    )
    shutil.rmtree(tmp_path / "out")
    out, _ = ended(started(client, tmp_path, *options, "--cores", "all", "--flags", "--use_gpu=true", *files))
    assert "compressed: no delegate took any operator\n" in out and "cores: not pinned\n" in out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("name", SHELLS)
def test_killed_it_leaves_nothing(
    name: str, how: signal.Signals, cool: Phone, client: str, tmp_path: Path
) -> None:
    """The phone of the tests is looked at when the test ends."""
    process = started(client, tmp_path, *slow(tmp_path), shell=shell(name))
    begun(cool, process)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if how == signal.SIGKILL else 128 + how)


def test_a_run_that_takes_too_long(cool: Phone, client: str, tmp_path: Path) -> None:
    _, err = ended(started(client, tmp_path, "--limit", 5, *slow(tmp_path)), 6)
    assert err == (
        f"profile.sh: a round of compressed took more than 5 s on phone {cool.serial}: see --limit, --runs\n"
    )


def test_a_phone_that_is_lost_in_the_middle(cool: Phone, client: str, tmp_path: Path) -> None:
    process = started(client, tmp_path, *slow(tmp_path))
    begun(cool, process)
    [folder] = cool.sandbox.iterdir()
    cool.lose()
    _, err = ended(process, 6)
    there = f"/data/local/tmp/{folder.name}"
    assert err == (
        f"profile.sh: phone {cool.serial} was lost in a run of compressed: see {tmp_path}/out/log.txt\n"
        f"profile.sh: phone {cool.serial} does not answer: look whether {there} is gone\n"
    )


def test_a_phone_that_is_hot(phone: Phone, client: str, tmp_path: Path) -> None:
    throttling(phone, 1)
    files = [tmp_path / "m.onnx", tmp_path / "d.onnx", tmp_path / "l"]
    for each in files:
        each.write_text("")
    options = ["--ekrun", files[2], "--library", files[2], "--cool", 0, *files[:2]]
    _, err = ended(started(client, tmp_path, *options), 6)
    assert err.endswith(
        f"phone {phone.serial} is hot after 0 s: thermal status 1; see --cool and --celsius\n"
    )
    throttling(phone, 0)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    _, err = ended(started(client, tmp_path, "--celsius", 30, *options), 6)
    assert err.endswith("is hot after 0 s: battery 30.5 C; see --cool and --celsius\n")


def test_it_waits_for_the_phone_to_cool_down(
    phone: Phone, client: str, programs: dict[str, str], tmp_path: Path
) -> None:
    told = throttling(phone, 1).folder / "thermalservice"
    script(phone.bin / "dumpsys", f"[ $1 = battery ] || {{ cat {told}; sed -i 's/: 1/: 0/' {told}; }}")
    files = [tmp_path / "m.tflite", tmp_path / "d.tflite"]
    for each in files:
        each.write_text("")
    out, err = ended(
        started(client, tmp_path, "--benchmark-model", programs["benchmark"], "--rounds", 1, *files)
    )
    assert err == "waiting for the phone to cool down: thermal status 1\nround 1 of 1\n"
    assert "before:\n  Thermal Status: 0\n" in out


def test_what_arrives_differently(cool: Phone, client: str, tmp_path: Path) -> None:
    script(cool.bin / "sha256sum", "echo 0123 $1")
    options = slow(tmp_path)
    _, err = ended(started(client, tmp_path, *options), 6)
    assert err == (
        f"profile.sh: {options[1]} arrived on phone {cool.serial} with another sha256: 0123 ekrun\n"
    )
    script(cool.bin / "sha256sum", "echo sh: write error: No space left on device >&2; exit 1")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    _, err = ended(started(client, tmp_path, *options), 6)
    assert err == (
        f"profile.sh: cannot push {options[1]} to phone {cool.serial}: "
        "sh: write error: No space left on device\n"
    )


def test_files_that_do_not_run(cool: Phone, client: str, real_runner: dict[str, str], tmp_path: Path) -> None:
    *options, compressed, _ = onnx(tmp_path, real_runner)
    assert isinstance(compressed, Path)
    free = sums(tmp_path / "free.onnx", batch="N")
    _, err = ended(started(client, tmp_path, *options, free, compressed), 1)
    assert err == (
        f"profile.sh: compressed does not run on phone {cool.serial}: "
        '{"error": "input \'a\' has a free extent at axis 0: export the file with fixed shapes"}; '
        f"see {tmp_path}/out/log.txt\n"
    )


def test_several_phones(cool: Phone, client: str, tmp_path: Path) -> None:
    options = slow(tmp_path)
    with attached(Phone(tmp_path / "other"), client) as other:
        _, err = ended(started(client, tmp_path, *options), 6)
        names = sorted([cool.serial, other.serial])
        assert sorted(err.strip().partition("--serial: ")[2].split(", ")) == names
        assert err.startswith("profile.sh: several phones are attached, name one with --serial: ")
        _, err = ended(started(client, tmp_path, "--serial", "x1", *options), 6)
        assert err.startswith("profile.sh: phone x1 is not attached, but ")
        assert not (tmp_path / "out").exists() and other.commands == cool.commands == []


def test_no_phone(client: str, tmp_path: Path) -> None:
    _, err = ended(started(client, tmp_path, *slow(tmp_path)), 6)
    assert err == "profile.sh: no phone is attached: connect one and enable USB debugging\n"


@pytest.mark.parametrize(
    ("adb", "message"),
    [
        (
            'printf "List of devices attached\\nx1\\tunauthorized\\n"',
            "phone x1 does not trust this machine: unlock it and accept its question",
        ),
        (
            'printf "List of devices attached\\r\\nx1\\toffline\\r\\n"',
            "phone x1 is in the state 'offline': reconnect it, then look at: {adb} devices",
        ),
        (
            'printf "List of devices attached\\nx1\\tno permissions (udev); see [1]\\n"',
            "phone x1 is in the state 'no permissions (udev); see [1]': reconnect it, then look at: "
            "{adb} devices",
        ),
        ("[ $1 != devices ] || exec sleep 600", "{adb} devices does not answer within 2 s: try it by hand"),
        ("exit 1", "{adb} start-server fails: try it by hand"),
    ],
)
def test_phones_that_cannot_be_used(adb: str, message: str, tmp_path: Path) -> None:
    fake = script(tmp_path / "adb", adb)
    _, err = ended(started(str(fake), tmp_path, "--limit", 2, *slow(tmp_path)), 6)
    assert err == f"profile.sh: {message.format(adb=fake)}\n"
    assert not (tmp_path / "out").exists()


def test_no_adb(tmp_path: Path) -> None:
    _, err = ended(started(f"{tmp_path}/none", tmp_path, *slow(tmp_path)), 6)
    assert err.endswith(
        f"there is no {tmp_path}/none: install Android's platform-tools, or give --adb CLIENT\n"
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the files that the usage errors name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "b.onnx", "a.tflite", "p", "l"):
        Path(name).write_text("")
    yield
    assert {*os.listdir()} == {"a.onnx", "b.onnx", "a.tflite", "p", "l"}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "expected two files, the compressed and the dense network"),
        ("a.onnx", "expected two files, the compressed and the dense network"),
        (
            "a.onnx b.onnx",
            "give --benchmark-model for .tflite files, or --ekrun and --library for .onnx files",
        ),
        ("--ekrun p a.onnx b.onnx", "--ekrun needs --library libonnxruntime.so"),
        ("--ekrun p --library l a.tflite b.onnx", "a.tflite: --ekrun takes .onnx files"),
        ("--benchmark-model p a.tflite b.onnx", "b.onnx: --benchmark-model takes .tflite files"),
        ("--ekrun p --library l a.onnx c.onnx", "cannot read c.onnx"),
        ("--ekrun p --library no a.onnx b.onnx", "cannot read no"),
        ("--rounds", "--rounds needs a value"),
        ("--wrong 1", "unknown option --wrong"),
        ("--rounds x", "--rounds 'x': expected a whole number"),
        ("--threads 08", "--threads '08': expected a whole number"),
        ("--runs 0 --ekrun p --library l a.onnx b.onnx", "--runs 0: expected at least 1"),
        (
            "--cores f;id --ekrun p --library l a.onnx b.onnx",
            "--cores 'f;id': expected big, all, or a mask such as f0",
        ),
        (
            "--flags $(id) --ekrun p --library l a.onnx b.onnx",
            "--flags '$(id)': expected flags such as --use_gpu=true",
        ),
    ],
)
def test_usage(options: str, message: str) -> None:
    done = subprocess.run(["sh", SCRIPT, *options.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"profile.sh: {message}; see: sh profile.sh --help\n"


def test_help() -> None:
    done = subprocess.run(["sh", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert (
        done.stdout.startswith("Times a compressed network") and "Examples\n  sh profile.sh " in done.stdout
    )


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck: apt-get install shellcheck")
def test_shellcheck() -> None:
    scripts = [SCRIPT, SCRIPT.parent / "runner/build.sh", *(SCRIPT.parents[1] / "phone").glob("*.sh")]
    assert len(scripts) == 6
    subprocess.run(["shellcheck", *scripts], check=True)
