"""Options of the tests on real runtimes; which runtimes and which cases a run has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from edgekron import plugins
from edgekron.errors import EdgekronError
from edgekron.runtime import Runtime
from runtime_tests.matrix import FULL, QUICK, Case
from runtime_tests.networks import NETWORKS
from runtime_tests.record import ROOT, Record
from runtime_tests.report import as_text, write

torch.set_num_threads(1)
os.environ.setdefault("EDGEKRON_RUNTIMES", str(ROOT / ".runtimes"))
_CASES = pytest.StashKey[Sequence[Case]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runtimes", help="comma separated: onnxruntime,litert,tflite-runtime:2.14.0,..; required"
    )
    parser.addoption("--full", action="store_true", help="the whole matrix (hours), resumed where it stopped")
    parser.addoption("--network", action="append", help="only these networks of the matrix")
    parser.addoption(
        "--report", type=Path, default=ROOT / "build" / "parity", help="folder of the record and the reports"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Every runtime that is named must be there: none is skipped."""
    if not config.option.runtimes:
        raise pytest.UsageError("name what to test on: --runtimes onnxruntime,litert")
    for name in _names(config):
        try:
            plugins.runtime(name).version()
        except EdgekronError as error:
            raise pytest.UsageError(f"--runtimes {name}: {error}") from None
    wanted = config.option.network or list(NETWORKS)
    if unknown := set(wanted) - set(NETWORKS):
        raise pytest.UsageError(f"--network {unknown.pop()}: known are {', '.join(NETWORKS)}")
    cases = FULL if config.option.full else QUICK
    config.stash[_CASES] = [case for case in cases if case.network in wanted]


def _names(config: pytest.Config) -> list[str]:
    names: str = config.option.runtimes
    return names.split(",")


@pytest.fixture(scope="session")
def runtimes(pytestconfig: pytest.Config) -> dict[str, Runtime]:
    """The runtimes of this run by name."""
    return {name: plugins.runtime(name) for name in _names(pytestconfig)}


@pytest.fixture(scope="session")
def record(pytestconfig: pytest.Config) -> Record:
    """Where the cells are written."""
    return Record(pytestconfig.option.report)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each artifact; cases of one compressed network stay in one process."""
    if "case" not in metafunc.fixturenames:
        return
    config = metafunc.config
    cases, names = config.stash[_CASES], _names(config)
    if config.option.full:
        record = Record(config.option.report)
        passed = {
            (case, format)
            for format in ("onnx", "tflite")
            for case in record.passed([n for n in names if format in plugins.runtime(n).formats])
        }
        cases = tuple(case for case in cases if (str(case), case.format) not in passed)
    metafunc.parametrize("case", [pytest.param(case, id=str(case), marks=_marks(case)) for case in cases])


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.xdist_group(case.group)]
    if case.below:
        marks.append(pytest.mark.xfail(reason=f"SQNR of about {case.below}", strict=True))
    return marks


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the reports from all that was found, in this run and in those it resumed."""
    folder = config.option.report
    if rows := Record(folder).rows():
        terminalreporter.write_line(as_text(rows))
        terminalreporter.write_line(
            f"parity: {write(rows, config.stash[_CASES], folder)}: {folder / 'report.html'}"
        )
