"""Wording: texts of others (names in a file, errors of a library) fit for one line; percents."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return printable(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)


def printable(text: str) -> str:
    r"""The text with line breaks and control characters escaped.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def share(part: float, whole: float) -> str:
    """The part in percent.

    >>> share(1, 8), share(0, 0)
    ('12.5%', '0.0%')
    """
    return f"{part / whole if whole else 0:.1%}"
