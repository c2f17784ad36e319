"""Quiet: keep the chatter of C++ libraries off the terminal."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow what is written to stdout and stderr, by native code, Python or loggers.

    Converters and interpreters announce themselves on the process's own stderr, below Python; in a
    notebook, Python's streams are others than the process's. If the work fails and EDGEKRON_DEBUG is
    set, it is shown. A process whose descriptors are closed is left alone.
    """
    try:
        saved = [os.dup(fd) for fd in (1, 2)]
    except OSError:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    level = logging.root.manager.disable
    with tempfile.TemporaryFile("w+", errors="replace") as chatter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        for fd in (1, 2):
            os.dup2(chatter.fileno(), fd)
        failed = True
        try:
            with redirect_stdout(chatter), redirect_stderr(chatter):
                yield
            failed = False
        finally:
            chatter.flush()
            for fd, original in zip((1, 2), saved, strict=True):
                os.dup2(original, fd)
                os.close(original)
            logging.disable(level)
            if failed and os.environ.get("EDGEKRON_DEBUG"):
                chatter.seek(0)
                os.write(2, chatter.read().encode())
