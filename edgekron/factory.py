"""Factory: the function that builds a network, named 'package.module:callable', and whom to trust."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches

import torch
from torch import nn

from edgekron.errors import MissingExtraError, UnsafeFileError, UsageError
from edgekron.wording import one_line

Factory = Callable[[], nn.Module]
_PACKAGES = ("edgekron.networks", "torchvision.models", "timm.models")
_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


def build(factory: str | Factory) -> nn.Module:
    """The network of a factory that the caller trusts; the current folder is importable, too.

    The global random state is left as it was. Raises UsageError if the factory cannot be found,
    fails, needs arguments, or returns something else than a network.
    """
    with importable_here():
        return _call(_find(factory) if isinstance(factory, str) else factory, factory_name(factory))


def build_from_file(factory: str, path: object) -> nn.Module:
    """The network of a factory that a file names: only edgekron's, torchvision's or timm's are called.

    Raises UnsafeFileError for any other, and for a callable that such a module only imports.
    """
    match = _NAME.fullmatch(factory)
    package = match and next((p for p in _PACKAGES if f"{match[1]}.".startswith(f"{p}.")), None)
    if not match or package is None or match[2].startswith("_"):
        raise _unsafe(factory, path)
    try:
        importlib.import_module(package)
    except (Exception, SystemExit) as error:
        library = package.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == library:
            raise MissingExtraError(
                f"{path} was built by '{factory}', but {library} is not installed: pip install {library}"
            ) from error
        raise UsageError(f"{path} needs {library}, which cannot be imported: {one_line(error)}") from error
    try:
        function = _find(factory)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    home = getattr(function, "__module__", None)
    if not isinstance(home, str) or not f"{home}.".startswith(f"{package}."):
        raise _unsafe(factory, path)
    return _call(function, factory)


def factory_name(factory: str | Factory) -> str:
    """The text form of a factory."""
    if isinstance(factory, str):
        return factory
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', repr(factory))}"


def importable_name(factory: str | Factory) -> str | None:
    """'package.module:callable' if the factory can be found under that name, else None."""
    name = factory_name(factory)
    if isinstance(factory, str):
        return name
    match = _NAME.fullmatch(name)
    if (
        not match
        or match[1] == "__main__"
        or getattr(sys.modules.get(match[1]), match[2], None) is not factory
    ):
        return None
    return name


@contextmanager
def importable_here() -> Iterator[None]:
    """Let modules of the current folder be imported, as for a script that lies in it."""
    sys.path.insert(0, "")
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove("")


def _find(name: str) -> Factory:
    match = _NAME.fullmatch(name)
    if not match:
        dotted = re.fullmatch(r"(.+)\.(\w+)", name)
        hint = f"; did you mean '{dotted[1]}:{dotted[2]}'?" if dotted and ":" not in name else ""
        raise UsageError(f"a factory is named package.module:callable, got '{name}'{hint}")
    module_name, attribute = match.groups()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UsageError(
                f"factory '{name}': no module '{missing}', neither installed nor in the current folder"
            ) from error
        raise UsageError(f"factory '{name}': importing {module_name} failed: {one_line(error)}") from error
    function = getattr(module, attribute, None)
    if function is None:
        callables = [other for other in dir(module) if callable(getattr(module, other))]
        close = get_close_matches(attribute, callables)
        best = max(
            close, key=lambda other: [a == b for a, b in zip(other, attribute, strict=False)], default=None
        )
        hint = f"; did you mean '{best}'?" if best else ""
        raise UsageError(f"factory '{name}': {module_name} has no '{attribute}'{hint}")
    return function  # type: ignore[no-any-return]


def _call(function: Factory, name: str) -> nn.Module:
    if not callable(function):
        raise UsageError(f"factory '{name}' is not callable, it is a {type(function).__name__}")
    with torch.random.fork_rng(devices=[]):
        try:
            network = function(**_no_download(function))
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"factory '{name}', called without arguments, failed: {one_line(error)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"factory '{name}' returned a {type(network).__name__}, not a torch.nn.Module")
    return network


def _no_download(function: Factory) -> dict[str, None]:
    """torchvision's detectors and segmenters fetch a trained backbone unless told not to."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {"weights_backbone": None} if "weights_backbone" in parameters else {}


def _unsafe(factory: str, path: object) -> UnsafeFileError:
    advice = f": pass --factory {factory} if you trust it" if _NAME.fullmatch(factory) else ""
    return UnsafeFileError(
        f"{path} names the factory {factory!r}, which is not edgekron's, torchvision's or timm's{advice}"
    )
