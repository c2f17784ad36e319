"""Cache: what races have measured, in an SQLite file that several processes may use at a time.

One row for each plan of each race, all rows of a race in one transaction: a process that is killed
loses the race it was running, nothing else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgekron.errors import UsageError
from edgekron.tune.race import Timing

SCHEMA = 1
"""Of the table, and of what is built around a layer to race it: other files are begun anew."""
FILE = "tune.sqlite"
BUSY = 30.0
"""Seconds to wait for another process's transaction, which takes milliseconds."""
_CONDITIONS = ("runtime", "version", "cpu", "threads", "precision")
_TABLE = """create table if not exists timing (
    runtime text, version text, cpu text, threads integer, precision text,
    layer text, plan text, dense integer, median real, samples text, made real,
    primary key (runtime, version, cpu, threads, precision, layer, plan)
)"""


@dataclass(frozen=True)
class Conditions:
    """Under which latency was measured; times of other conditions say nothing."""

    runtime: str
    version: str
    cpu: str
    threads: int = 1
    precision: str = "fp32"


@dataclass(frozen=True)
class CachedRace:
    """One layer in the cache. plans: how many were raced; times in ms, dense None if it was not raced."""

    conditions: Conditions
    layer: str
    plans: int
    best: float
    dense: float | None
    made: str


def default_folder() -> Path:
    """EDGEKRON_CACHE, or edgekron's folder in the user's cache."""
    if own := os.environ.get("EDGEKRON_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekron"


class Cache:
    """Timings of plans by conditions and layer.

    folder: where the file lies, `default_folder()` by default. If it takes no files, the cache lives as
    long as this object does, and `warning` says so. Raises UsageError for a file that is no cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (default_folder() if folder is None else folder) / FILE
        self.warning = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._open(str(self.path))
        except (OSError, sqlite3.OperationalError) as error:
            if _is_locked(error):
                raise self._failure(error) from error
            reason = getattr(error, "strerror", None) or error
            self.warning = f"timings are not kept: cannot write {self.path}: {reason}"
            self._connection = self._open(":memory:")
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error

    def _open(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        try:
            with suppress(sqlite3.OperationalError):  # another process is doing it; or the disk cannot
                connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            with _transaction(connection):
                [version] = connection.execute("pragma user_version").fetchone()
                if version != SCHEMA:
                    connection.execute("drop table if exists timing")
                    connection.execute(f"pragma user_version = {SCHEMA}")
                connection.execute(_TABLE)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, conditions: Conditions, layer: str) -> dict[str, Timing]:
        """What was measured of a layer: plan -> timing; empty if it was never raced."""
        with self._errors():
            rows = self._connection.execute(
                "select plan, samples from timing where runtime = ? and version = ? and cpu = ? "
                "and threads = ? and precision = ? and layer = ?",
                (*_values(conditions), layer),
            ).fetchall()
            return {plan: Timing(tuple(json.loads(samples))) for plan, samples in rows}

    def put(
        self, conditions: Conditions, layer: str, timings: Mapping[str, Timing], dense: str | None
    ) -> None:
        """Keep a race, instead of an older one of the layer. dense: which of the plans is the dense form."""
        now = time.time()
        rows = [
            (*_values(conditions), layer, plan, plan == dense, each.median, json.dumps(each.samples), now)
            for plan, each in timings.items()
        ]
        with self._errors(), _transaction(self._connection):
            self._connection.execute(
                "delete from timing where runtime = ? and version = ? and cpu = ? "
                "and threads = ? and precision = ? and layer = ?",
                (*_values(conditions), layer),
            )
            self._connection.executemany("insert into timing values (?,?,?,?,?,?,?,?,?,?,?)", rows)

    def races(self) -> list[CachedRace]:
        """All races, the oldest first."""
        with self._errors():
            rows = self._connection.execute(
                f"select {', '.join(_CONDITIONS)}, layer, count(*), min(median), "
                "min(case when dense then median end), max(made) from timing "
                f"group by {', '.join(_CONDITIONS)}, layer order by max(made), layer"
            ).fetchall()
        return [
            CachedRace(
                Conditions(*row[:5]),
                row[5],
                row[6],
                row[7] * 1e3,
                None if row[8] is None else row[8] * 1e3,
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row[9])),
            )
            for row in rows
        ]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> UsageError:
        if _is_locked(error):
            return UsageError(f"{self.path} is locked by another process for more than {BUSY:.0f} s")
        return UsageError(
            f"{self.path} is no cache of timings, or a damaged one ({error}): "
            "remove it with: edgekron tune --clear"
        )


def clear(folder: Path | None = None) -> int:
    """Forget all timings; returns how many layers they were of. Removes a file that is damaged."""
    path = (default_folder() if folder is None else folder) / FILE
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as connection:
            query = f"select count(*) from (select distinct {', '.join(_CONDITIONS)}, layer from timing)"
            with _transaction(connection):
                [count] = connection.execute(query).fetchone()
                connection.execute("delete from timing")
            connection.execute("vacuum")
            return int(count)
    except sqlite3.DatabaseError as error:
        if _is_locked(error):
            raise UsageError(f"{path} is locked by another process for more than {BUSY:.0f} s") from error
    try:
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot remove {path}: {error.strerror}") from error
    return 0


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; waits here, at the beginning, for a process that writes."""
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def _values(conditions: Conditions) -> tuple[str | int, ...]:
    return tuple(getattr(conditions, name) for name in _CONDITIONS)


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
