"""Quiet: nothing of what others write reaches the terminal, and everything works again afterwards."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from edgekron.quiet import quiet


def chatter() -> None:
    print("print")
    print("error", file=sys.stderr)
    os.write(1, b"native out\n")
    os.write(2, b"native error \xff\n")
    subprocess.run(["sh", "-c", "echo child; echo child >&2"], check=True)
    logging.getLogger("some.library").warning("logged")
    warnings.warn("warned", stacklevel=1)


def failing() -> None:
    chatter()
    raise ZeroDivisionError


def test_nothing_gets_out_and_all_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        chatter()
        with quiet():
            chatter()
        chatter()
    assert capfd.readouterr() == ("", "")
    print("after")
    os.write(2, b"native after\n")
    assert capfd.readouterr() == ("after\n", "native after\n")
    assert logging.root.manager.disable == logging.NOTSET
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)


def test_what_was_written_before_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write("before ")
    with quiet():
        chatter()
    sys.stdout.write("after")
    assert capfd.readouterr().out == "before after"


@pytest.mark.parametrize(("debug", "shown"), [("", False), ("1", True)])
def test_chatter_of_a_failure_is_shown_for_debugging(
    debug: str, shown: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKRON_DEBUG", debug)
    with pytest.raises(ZeroDivisionError), quiet():
        failing()
    out, err = capfd.readouterr()
    assert out == ""
    assert ("native error" in err and "print" in err) == shown
    with quiet():
        chatter()
    assert capfd.readouterr() == ("", "")


def test_a_process_without_streams() -> None:
    program = (
        "import os\nfrom edgekron.quiet import quiet\nos.close(1)\nos.close(2)\n"
        "with quiet():\n    done = True\nos._exit(7 if done else 1)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7
