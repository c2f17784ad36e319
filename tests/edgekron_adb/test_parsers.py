"""Parsers of what phones print: benchmark_model in its dialects, getprop, dumpsys, cores; invented names."""

from __future__ import annotations

import pytest

from edgekron.conditions import CPU, Battery, Core
from edgekron.errors import UnavailableError, UsageError
from edgekron_adb.android import SCRIPT, parse_battery, parse_properties, parse_thermal
from edgekron_adb.android import parse as parse_android
from edgekron_adb.cores import fastest, pinned
from edgekron_adb.tflite_text import Benchmark, failure, parse
from tests.edgekron_adb.phones import DUMPS, PROPERTIES

OLD = """STARTING!
Min num runs: [20]
Loaded model s0.tflite
The input model file size (MB): 0.68
Initialized session in 1.234ms.
Running benchmark for at least 1 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
count=1 curr=5021

Running benchmark for at least 20 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
count=20 first=1.21e+06 curr=1.19e+06 min=1.1e+06 max=1.3e+06 avg=1.24027e+06 std=2100

Inference timings in us: Init: 1234, First inference: 5021, Warmup (avg): 5021, Inference (avg): 1.24027e+06
Peak memory footprint (MB): init=1.5 overall=7.25
"""
NEW = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Loaded model s0.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 31 out of 33 node(s) with delegate (TfLiteXNNPackDelegate) node, \
yielding 3 partitions for subgraph 0.
INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially executed \
by the delegate w/ 1 delegate kernels.
INFO: count=3 first=910 curr=800 min=790 max=910 avg=830 std=50 p5=790 median=800 p95=910
INFO: count=50 first=712 curr=700 min=690 max=760 avg=705.25 std=9 p5=691 median=704 p95=730
INFO: Inference timings in us: Init: 900, First inference: 910, Warmup (avg): 830, Inference (avg): 705.25
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=2.1 overall=9.5
INFO: Overall peak memory footprint (MB) via periodic monitoring: 17.5
"""
LOGCAT = "\n".join(f"11-20 17:00:00.000  4242  4242 I tflite  : {line}" for line in NEW.splitlines())
GPU = """INFO: Replacing 60 out of 64 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 2 partitions.
VERBOSE: Replacing 4 out of 4 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions.
INFO: count=1 curr=312 p5=312 median=312 p95=312
"""
FALLBACK = """INFO: GPU delegate created.
VERBOSE: Replacing 0 out of 64 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 0 partitions.
INFO: Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.
INFO: count=2 first=1 curr=2 min=1 max=2 avg=1.5 std=0
"""
QUIET = """INFO: Explicitly applied GPU delegate, and the model graph will be completely executed \
by the delegate.
INFO: count=2 first=1 curr=2 min=1 max=2 avg=1.5 std=0
"""
XNNPACK = "TfLiteXNNPackDelegate took 31 of 33 operators in 3 partitions"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OLD, Benchmark(20, 1240270.0, 7.25, "")),
        (NEW, Benchmark(50, 705.25, 9.5, XNNPACK)),
        (LOGCAT, Benchmark(50, 705.25, 9.5, XNNPACK)),
        (NEW.replace("\n", "\r\n"), Benchmark(50, 705.25, 9.5, XNNPACK)),
        (
            GPU,
            Benchmark(
                *(1, 312.0, None),
                "TfLiteGpuDelegateV2 took 60 of 64 operators in 2 partitions; "
                "TfLiteXNNPackDelegate took 4 of 4 operators in 1 partition",
            ),
        ),
        (FALLBACK, Benchmark(2, 1.5, None, "")),
        (QUIET, Benchmark(2, 1.5, None, "GPU took all operators")),
    ],
    ids=["old", "new", "logcat", "crlf", "two delegates", "fallback", "quiet"],
)
def test_dialects_of_benchmark_model(text: str, expected: Benchmark) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "INFO: STARTING!\n", "count=0\n", "count=3 first=1 min=1\n"])
def test_what_is_no_benchmark(text: str) -> None:
    with pytest.raises(UnavailableError, match=r"^benchmark_model prints no line count=\.\. avg=\.\.: give "):
        parse(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("INFO: STARTING!\nERROR: No op 99.\nERROR: Benchmarking failed.\n", "No op 99."),
        (
            "STARTING!\nFailed to load model s0.tflite\nBenchmarking failed.\n",
            "Failed to load model s0.tflite",
        ),
        ("STARTING!\nAborted\n", "Aborted"),
        ("", ""),
    ],
)
def test_failures_of_benchmark_model(text: str, line: str) -> None:
    assert failure(text) == line


def sections(text: str = "", properties: str = PROPERTIES, thermal: str = "", battery: str = "") -> str:
    """What `SCRIPT` prints."""
    marks = [part.split("'")[1] for part in SCRIPT.split("; ") if part.startswith("echo '== ")]
    return "\n".join(
        (text, *(f"{m}\n{t}" for m, t in zip(marks, (properties, thermal, battery), strict=True)))
    )


def test_a_phone() -> None:
    files = "Linux 6.1.75-android14 aarch64\n/proc/cpuinfo:processor: 0\n/proc/cpuinfo:CPU part: 0xd4d\n"
    files += f"{CPU}0/cpufreq/scaling_governor:schedutil\n/sys/class/thermal/thermal_zone0/temp:99000\n"
    thermal = DUMPS["thermalservice"].replace("Thermal Status: 0", "Thermal Status: 1")
    found = parse_android(sections(files, PROPERTIES, thermal, DUMPS["battery"]))
    assert found.cpu == "Nimbus Cirrus 3 (NX900), 1x Cortex-A715"
    assert found.os == "Android 15 (API 35), Linux 6.1.75-android14"
    assert found.cores == (Core(0, "schedutil"),)
    assert found.temperatures == (("CPU0", 41.25), ("SKIN", 33.5))  # not the zones, nor the cached 84.0
    assert (found.throttling, found.battery) == (1, Battery(30.5, 87, True))
    assert found.properties == {
        **{"ro.product.manufacturer": "Nimbus", "ro.product.model": "Cirrus 3", "ro.soc.model": "NX900"},
        **{"ro.build.version.release": "15", "ro.build.version.sdk": "35"},
    }
    assert any("thermal status 1" in warning for warning in found.warnings)
    assert any("charging" in warning for warning in found.warnings)


def test_a_phone_that_tells_little() -> None:
    found = parse_android(sections("Linux 5.4.0 aarch64\n/sys/class/thermal/thermal_zone3/temp:40500\n", ""))
    assert (found.cpu, found.os, found.temperatures) == ("", "Linux 5.4.0", (("zone 3", 40.5),))
    assert (found.throttling, found.battery, dict(found.properties)) == (None, None, {})
    assert parse_android("").os == ""


def test_names_of_the_chip() -> None:
    for name in ("ro.hardware.chipname", "ro.chipname", "ro.board.platform"):
        assert parse_android(sections(properties=f"[{name}]: [zx7]")).cpu == "zx7"
    both = "[ro.soc.model]: [X9]\n[ro.soc.manufacturer]: [Zeta]\n[ro.board.platform]: [zx7]"
    assert parse_android(sections(properties=both)).cpu == "Zeta X9"


def test_properties_hold_any_text() -> None:
    assert parse_properties("[a]: [[x]: [y]]\r\n[b]: [1\n2]\nnoise\n") == {"a": "[x]: [y]", "b": "1\n2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, ())),
        ("Thermal Status: 0\nCurrent temperatures from HAL:\n", (0, ())),
        ("Cached temperatures:\n\tTemperature{mValue=84.0, mType=0, mName=CPU0, mStatus=0}\n", (None, ())),
        (
            "Thermal Status: 3\nCurrent temperatures from HAL:\n"
            "\tTemperature{mValue=-4.5, mType=0, mName=, mStatus=0}\n"
            "\tTemperature{mValue=NaN, mType=1, mName=GPU, mStatus=0}\n"
            "Temperature static thresholds from HAL:\n"
            "\tTemperatureThreshold{mType=0, mName=CPU0, mHotThrottlingThresholds=[95.0]}\n",
            (3, (("type 0", -4.5),)),
        ),
    ],
)
def test_thermal_services(text: str, expected: tuple[int | None, tuple[tuple[str, float], ...]]) -> None:
    assert parse_thermal(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("Can't find service: battery\n", None),
        ("  status: 5\n  level: 100\n  scale: 100\n", Battery(None, 100, False)),
        ("  status: 1\n  temperature: -15\n", Battery(-1.5, None, None)),
        ("Current state:\r\n  status: 3\r\n  level: 7\r\n\r\n  level: 8\r\n", Battery(None, 7, False)),
    ],
)
def test_batteries(text: str, expected: Battery | None) -> None:
    assert parse_battery(text) == expected


BIG_LITTLE = "Cpus_allowed_list:\t0-6\n" + "".join(
    f"{CPU}{core}/cpu_capacity:{capacity}\n{CPU}{core}/cpufreq/cpuinfo_max_freq:{most}\n"
    for core, (capacity, most) in enumerate(
        [(300, 1800), *[(600, 2400)] * 2, (1024, 2800), *[(600, 2500)] * 2] * 2
    )
)


def test_the_fastest_cores() -> None:
    """Capacity counts before frequency; a faster core that may not be used does not."""
    assert fastest(BIG_LITTLE, 1) == (3,)
    assert fastest(BIG_LITTLE, 3) == (3, 4, 5)
    assert fastest(BIG_LITTLE, 7) == tuple(range(7))
    assert fastest("Cpus_allowed_list:\t1,3-4\n", 2) == (3, 4)
    with pytest.raises(
        UsageError, match=r"^threads=8, but 7 cores may be used there: ask for fewer threads$"
    ):
        fastest(BIG_LITTLE, 8)


def test_commands_on_cores() -> None:
    assert pinned("exec ./x", None) == "exec ./x"
    assert pinned("exec ./x", (3, 6, 33)).startswith("exec taskset 200000048 sh -c '")
