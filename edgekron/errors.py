"""The errors edgekron raises on purpose; each knows the exit code of the command line."""

from __future__ import annotations


class EdgekronError(Exception):
    """Base of every error raised on purpose. The text is one line that says what to do next."""

    exit_code = 1


class UsageError(EdgekronError):
    """What was given cannot be used: a missing file, a bad shape, a budget out of reach."""

    exit_code = 2


class StructureError(UsageError):
    """A structure that violates an equation of the family, or does not fit a weight."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the text is the line that installs it."""


class UnsupportedError(EdgekronError):
    """A layer, structure or operator that cannot be handled; the text says which and why."""

    exit_code = 3


class UndelegatedError(UnsupportedError):
    """Operators that run on slow kernels although full delegation was required."""


class ParityError(EdgekronError):
    """Outputs of an artifact disagree with the reference."""

    exit_code = 4


class UnavailableError(EdgekronError):
    """What should execute a file died, hung, or does not answer."""

    exit_code = 6


class UnsafeFileError(EdgekronError):
    """A file that would execute code when loaded."""

    exit_code = 7
