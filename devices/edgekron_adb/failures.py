"""Failures: what the last words of adb, or of a shell on a phone, mean and what to do next."""

from __future__ import annotations

from edgekron.wording import printable

OF_STATE = {
    "unauthorized": "does not trust this machine: unlock it, and allow USB debugging on its screen",
    "authorizing": "does not trust this machine yet: unlock it, and allow USB debugging on its screen",
    "offline": "is offline: plug it in again, or switch USB debugging off and on",
    "no permissions": "may not be used by this user: see `adb devices`, and add a udev rule for it",
}
"""States in `adb devices`, as they begin."""
_NOT_FOUND, _NOT_EXECUTABLE, _KILLED = 127, 126, 137


def of_program(program: str, code: int, said: bytes) -> str:
    """Why a program on the phone failed; code and said: its exit code and stderr.

    >>> of_program("ekrun", 1, b"sh: ./ekrun: not executable: 64-bit ELF file")
    'cannot execute ekrun: it must be built for its processor (sh: ./ekrun: not executable: 64-bit ELF file)'
    """
    line = last(said)
    if "No space left" in line:
        return f"is full: free some space in /data ({line})"
    if code == _NOT_EXECUTABLE or "not executable" in line or "Exec format error" in line:
        return f"cannot execute {program}: it must be built for its processor ({line})"
    if code == _NOT_FOUND:
        return f"cannot start {program}: it, its loader or a library is missing there ({line})"
    if code == _KILLED:
        return f"ended {program}, as it does when memory is short: close the apps on it, and repeat"
    return f"cannot run {program}: {line or f'exit code {code}'}"


def last(said: bytes) -> str:
    """The last line."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return printable(lines[-1]) if lines else ""
