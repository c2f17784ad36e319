"""Failures: what the last words of ssh, or of the Python on a board, mean and what to do next."""

from __future__ import annotations

from edgekron.wording import printable
from edgekron.worker import PACKAGES

_NOT_FOUND = (126, 127)
"""Exit codes of a shell that cannot start a program."""


def of_ssh(login: str, said: str) -> str:
    """Why ssh itself failed; login: the call that a user can try; said: its stderr.

    >>> of_ssh("ssh pi", "No ED25519 host key is known for pi and you have requested strict checking.")
    'has an unknown host key: look at it and accept it with: ssh pi'
    """
    if "IDENTIFICATION HAS CHANGED" in said:
        return "shows another host key than before: if that is right, remove the old one with ssh-keygen -R"
    if "Host key verification failed" in said or "host key is known" in said:
        return f"has an unknown host key: look at it and accept it with: {login}"
    if "Permission denied" in said or "Too many authentication failures" in said:
        return f"refuses the login: make it work without a password (see ssh-copy-id) and try: {login}"
    return f"cannot be reached: {_last(said) or 'ssh says nothing'}; try: {login}"


def of_python(login: str, python: str, runtime: str, code: int, said: str) -> str:
    """Why the worker does not start on a board; code and said: exit code and stderr of the Python there.

    >>> of_python("ssh pi", "python3", "litert", 127, "sh: 1: python3: not found")
    "has no program 'python3': give the Python that holds litert with --option python=PATH"
    """
    last = _last(said) or f"exit code {code}"
    if code in _NOT_FOUND:
        return f"has no program '{python}': give the Python that holds {runtime} with --option python=PATH"
    if "ModuleNotFoundError" in last:
        return (
            f"has no {runtime} in {python} ({last.removeprefix('error: ')}); make an environment with: "
            f"{login} 'python3 -m venv edgekron && edgekron/bin/pip install {PACKAGES[runtime]}', "
            "and give --option python=edgekron/bin/python"
        )
    if "SyntaxError" in last or "AttributeError" in last:
        return f"cannot run the worker: {python} must be Python 3.8 or newer ({last})"
    return f"cannot load {runtime} in {python}: {last}"


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else ""
