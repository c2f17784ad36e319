"""What the tests of adb share: one adb server, and a phone on which nothing is left when a test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekron_adb.client import find
from tests.edgekron_adb.phones import COMPILER, Phone, attached, benchmark, runner, server


@pytest.fixture(scope="module")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The real client, and the environment of its server."""
    if not Path("/proc/self/cwd").exists():
        pytest.skip("the test adbd runs its shells here, and needs the /proc of Linux")
    program = find("")
    with server(tmp_path_factory.mktemp("server"), program) as environment:
        yield program, environment


@pytest.fixture
def client(adb: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """The client, with that environment."""
    for name in ("ANDROID_SERIAL", "ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in adb[1].items():
        monkeypatch.setenv(name, value)
    return adb[0]


@pytest.fixture
def phone(client: str, tmp_path: Path) -> Iterator[Phone]:
    with attached(Phone(tmp_path / "phone"), client) as phone:
        yield phone
        assert phone.all_gone() == []


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The option for TFLite files."""
    return {"benchmark": str(benchmark(tmp_path_factory.mktemp("benchmark")))}


@pytest.fixture(scope="session")
def real_runner(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The option for ONNX files."""
    if not COMPILER:
        pytest.skip("no C compiler to build ekrun with: apt-get install gcc")
    return {"runner": str(runner(tmp_path_factory.mktemp("runner") / "my runner's"))}
