"""Factory: which functions are found, which a file may name, and that nothing else is ever imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekron.errors import MissingExtraError, UnsafeFileError, UsageError
from edgekron.factory import build, build_from_file, importable_name
from edgekron.networks import resnet20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules that are imported meanwhile are forgotten again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def fake_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models = folder / "site" / "torchvision" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    (models / "__init__.py").write_text(
        "import os\nfrom os import getcwd\nfrom torch import nn\n"
        "def tiny(*, weights=None):\n    assert weights is None\n    return nn.Linear(2, 3)\n"
    )
    (models / "segmentation.py").write_text(
        "from torch import nn\n"
        "def fcn(*, weights=None, weights_backbone='IMAGENET1K_V1', **options):\n"
        "    if weights_backbone is not None:\n        raise RuntimeError('downloads')\n"
        "    return nn.Linear(2, 3)\n"
    )
    monkeypatch.syspath_prepend(str(folder / "site"))
    return models


def test_a_factory_by_name_and_by_value() -> None:
    assert len(list(build("edgekron.networks:resnet20").modules())) == len(list(resnet20().modules()))
    assert isinstance(build(lambda: nn.Linear(1, 1)), nn.Linear)


def test_building_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    build(resnet20)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_current_folder_is_importable_for_the_caller_only(folder: Path) -> None:
    (folder / "my_nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(4, 2)\n")
    path = list(sys.path)
    with pytest.raises(UnsafeFileError):
        build_from_file("my_nets:net", "m.pt")
    assert "my_nets" not in sys.modules
    assert build("my_nets:net").out_features == 2
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at:all", "no module 'nowhere', neither installed nor in the current folder"),
        ("edgekron.nets:resnet20", "no module 'edgekron.nets'"),
        ("edgekron.networks:resnet2O", "edgekron.networks has no 'resnet2O'; did you mean 'resnet20'"),
        (
            "edgekron.networks.resnet20",
            "package.module:callable, got .*; did you mean 'edgekron.networks:resnet20'",
        ),
        ("resnet20", "a factory is named package.module:callable, got 'resnet20'$"),
        ("a.b:c.d", "a factory is named package.module:callable, got 'a.b:c.d'$"),
        ("", "a factory is named package.module:callable, got ''$"),
        ("edgekron.networks:__all__", "is not callable, it is a list"),
        ("collections:OrderedDict", "returned a OrderedDict, not a torch.nn.Module"),
        ("torch.nn:Linear", "'torch.nn:Linear', called without arguments, failed: TypeError: .*in_features"),
    ],
)
def test_names_that_do_not_work(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name)


def test_a_module_that_cannot_be_imported(folder: Path) -> None:
    (folder / "needs.py").write_text("import nowhere_at_all\n")
    (folder / "script.py").write_text("raise SystemExit(2)\n")
    with pytest.raises(UsageError, match=r"importing needs failed: ModuleNotFoundError: .*nowhere_at_all"):
        build("needs:net")
    with pytest.raises(UsageError, match="importing script failed: SystemExit: 2"):
        build("script:net")


@pytest.mark.parametrize(
    "name",
    [
        "os:getcwd",
        "edgekron.files:read_whole",
        "edgekron.networks_of_mine:net",
        "edgekron.networks.resnet:OrderedDict",  # a callable that the module only imports
        "edgekron.networks.resnet:nn",
        "edgekron.networks.cifar:F",
        "edgekron.networks:__getattr__",
        "my_torchvision.models:net",
        "torchvision.modelsx:net",
    ],
)
def test_a_file_may_not_name(name: str) -> None:
    with pytest.raises(UnsafeFileError) as error:
        build_from_file(name, "m.pt")
    assert str(error.value) == (
        f"m.pt names the factory '{name}', which is not edgekron's, torchvision's or timm's: "
        f"pass --factory {name} if you trust it"
    )
    assert error.value.exit_code == 7


@pytest.mark.parametrize(
    "name",
    [
        "",
        "resnet20",
        "edgekron.networks:a.b",
        "edgekron.networks:f()",
        "edgekron.networks..x:y",
        "é\x1b[0m:\n",
    ],
)
def test_a_file_that_names_nonsense_is_quoted_safely(name: str) -> None:
    with pytest.raises(UnsafeFileError) as error:
        build_from_file(name, "m.pt")
    assert str(error.value) == (
        f"m.pt names the factory {name!r}, which is not edgekron's, torchvision's or timm's"
    )


def test_an_own_factory_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"m.pt: factory .* did you mean 'resnet20'"):
        build_from_file("edgekron.networks:resnet2O", "m.pt")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError) as error:
        build_from_file(f"{library}.models:resnet18", "m.pt")
    assert str(error.value) == (
        f"m.pt was built by '{library}.models:resnet18', but {library} is not installed: "
        f"pip install {library}"
    )


def test_a_library_that_is_broken(fake_torchvision: Path) -> None:
    (fake_torchvision / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms')\n")
    with pytest.raises(UsageError, match="needs torchvision, which cannot be imported: RuntimeError"):
        build_from_file("torchvision.models:tiny", "m.pt")


def test_torchvision_is_trusted_but_not_what_it_imports(fake_torchvision: Path) -> None:
    assert isinstance(build_from_file("torchvision.models:tiny", "m.pt"), nn.Linear)
    for name in ("os", "getcwd", "nn"):
        with pytest.raises(UnsafeFileError, match="names the factory"):
            build_from_file(f"torchvision.models:{name}", "m.pt")


def test_no_backbone_is_downloaded(fake_torchvision: Path) -> None:
    assert isinstance(build_from_file("torchvision.models.segmentation:fcn", "m.pt"), nn.Linear)


def test_the_name_of_a_callable() -> None:
    assert importable_name(resnet20) == "edgekron.networks.cifar:resnet20"
    assert importable_name("a.b:c") == "a.b:c"
    assert importable_name(lambda: nn.Linear(1, 1)) is None
    assert importable_name(nn.Identity().cpu) is None
