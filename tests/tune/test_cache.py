"""The cache of timings: conditions keep apart, processes share, a kill loses one race, damage is told."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgekron.errors import UsageError
from edgekron.tune import cache as module
from edgekron.tune.cache import FILE, Cache, Conditions, clear, default_folder
from edgekron.tune.race import Timing

HERE = Conditions("onnxruntime", "1.31", "a cpu")
TIMINGS = {"dense": Timing((0.002, 0.003, 0.002)), "plan": Timing((0.001, 0.0015, 0.001))}


def test_what_is_put_is_found_again(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        assert cache.get(HERE, "layer") == {}
        cache.put(HERE, "layer", TIMINGS, "dense")
        assert cache.get(HERE, "layer") == TIMINGS
    with Cache(tmp_path) as again:
        assert again.get(HERE, "layer") == TIMINGS
        assert again.get(HERE, "other layer") == {}
        assert again.warning == ""


@pytest.mark.parametrize(
    "field", [{"runtime": "x"}, {"version": "x"}, {"cpu": "x"}, {"threads": 2}, {"precision": "int8"}]
)
def test_other_conditions_are_other_races(field: dict[str, object], tmp_path: Path) -> None:
    other = replace(HERE, **field)  # type: ignore[arg-type]
    with Cache(tmp_path) as cache:
        cache.put(HERE, "layer", TIMINGS, "dense")
        assert cache.get(other, "layer") == {}
        cache.put(other, "layer", {"plan": Timing((5.0,))}, None)
        assert cache.get(HERE, "layer") == TIMINGS
        assert [race.conditions for race in cache.races()] == [HERE, other]


def test_a_new_race_replaces_the_old_one_whole(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put(HERE, "layer", TIMINGS, "dense")
        cache.put(HERE, "layer", {"another": Timing((1.0,))}, None)
        assert set(cache.get(HERE, "layer")) == {"another"}


def test_a_race_that_cannot_be_kept_leaves_the_old_one(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put(HERE, "layer", TIMINGS, "dense")
        with pytest.raises(UsageError):
            cache.put(HERE, "layer", {"a": Timing((1.0,)), 5j: Timing((1.0,))}, None)  # type: ignore[dict-item]
        assert cache.get(HERE, "layer") == TIMINGS


def test_the_list_of_races(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put(HERE, "first", TIMINGS, "dense")
        cache.put(HERE, "second", {"plan": Timing((0.5,))}, None)
        first, second = cache.races()
    assert (first.layer, first.plans, first.best, first.dense) == ("first", 2, 1.0, 2.0)
    assert (second.layer, second.plans, second.best, second.dense) == ("second", 1, 500.0, None)


def test_clear_forgets_all(tmp_path: Path) -> None:
    assert clear(tmp_path) == 0
    assert not (tmp_path / FILE).exists()
    with Cache(tmp_path) as cache:
        cache.put(HERE, "first", TIMINGS, "dense")
        cache.put(HERE, "second", TIMINGS, "dense")
        assert clear(tmp_path) == 2  # while it is open
        assert cache.races() == []
        cache.put(HERE, "third", TIMINGS, "dense")
    assert clear(tmp_path) == 1


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("EDGEKRON_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == tmp_path / ".cache" / "edgekron"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "edgekron"
    monkeypatch.setenv("EDGEKRON_CACHE", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    with Cache() as cache:
        assert cache.path == tmp_path / "own" / FILE
        assert cache.path.exists()


@pytest.mark.parametrize("content", [b"no database, but longer than the header of one", b"damaged"])
def test_a_damaged_file_is_told_and_cleared(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE
    if content == b"damaged":
        with Cache(tmp_path) as cache:
            for index in range(200):
                cache.put(HERE, f"layer {index}", TIMINGS, "dense")
        whole = path.read_bytes()
        path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error, Cache(tmp_path) as cache:
        cache.races()
    assert str(error.value).startswith(f"{path} is no cache of timings, or a damaged one (")
    assert str(error.value).endswith("): remove it with: edgekron tune --clear")
    assert clear(tmp_path) == 0
    with Cache(tmp_path) as cache:
        assert cache.races() == []


def test_a_file_of_another_schema_is_begun_anew(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put(HERE, "layer", TIMINGS, "dense")
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("pragma user_version = 99")
    connection.close()
    with Cache(tmp_path) as cache:
        assert cache.races() == []
        cache.put(HERE, "layer", TIMINGS, "dense")


def test_a_folder_that_takes_no_files_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with Cache(folder) as cache:
            assert cache.warning.startswith(f"timings are not kept: cannot write {folder / FILE}: ")
            cache.put(HERE, "layer", TIMINGS, "dense")
            assert cache.get(HERE, "layer") == TIMINGS


def test_a_file_that_is_a_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with Cache(tmp_path) as cache:
        assert "cannot write" in cache.warning


def test_a_lock_that_does_not_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY", 0.05)
    with Cache(tmp_path) as cache:
        holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        holder.execute("begin immediate")
        for attempt in (
            lambda: cache.put(HERE, "a", TIMINGS, None),
            lambda: Cache(tmp_path),
            lambda: clear(tmp_path),
        ):
            with pytest.raises(UsageError, match="is locked by another process"):
                attempt()
        assert cache.races() == []  # reading goes on
        holder.close()


WRITER = """
import sys, time
from pathlib import Path
from edgekron.tune.cache import Cache, Conditions
from edgekron.tune.race import Timing
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
longest = 0.0
for index in range(count):
    with Cache(folder) as cache:
        for layer in ("shared", f"{name} {index}"):
            start = time.monotonic()
            timings = {f"plan {k}": Timing((0.001 * (k + 1),) * 40) for k in range(9)}
            cache.put(Conditions("r", "1", "cpu"), layer, timings, "plan 0")
            assert len(cache.get(Conditions("r", "1", "cpu"), layer)) == 9
            longest = max(longest, time.monotonic() - start)
    print(index, flush=True)
print(longest, flush=True)
"""


def writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_processes_that_write_at_the_same_time(tmp_path: Path) -> None:
    writers = [writer(tmp_path, name, 40) for name in ("a", "b", "c")]
    outputs = [each.communicate(timeout=120)[0].splitlines() for each in writers]
    assert [each.returncode for each in writers] == [0, 0, 0]
    assert max(float(lines[-1]) for lines in outputs) < 10  # nobody waits for long
    with Cache(tmp_path) as cache:
        races = cache.races()
    expected = {"shared", *(f"{name} {index}" for name in "abc" for index in range(40))}
    assert {race.layer for race in races} == expected and len(races) == len(expected)
    assert {race.plans for race in races} == {9}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_kill_loses_one_race_at_most(tmp_path: Path) -> None:
    for attempt in range(3):
        process = writer(tmp_path, f"life {attempt}", 10_000)
        assert process.stdout is not None
        done = [process.stdout.readline() for _ in range(20)]
        time.sleep(0.005 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Cache(tmp_path) as cache:
            races = {race.layer: race.plans for race in cache.races()}
        assert {f"life {attempt} {int(line)}" for line in done} <= set(races)
        assert set(races.values()) == {9}
