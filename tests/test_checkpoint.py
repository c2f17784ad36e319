"""Checkpoint: saved networks come back bit by bit; no file is executed; a bad one is one clear line."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekron.checkpoint import load, read_checkpoint, save
from edgekron.compression import compress
from edgekron.errors import EdgekronError, UnsafeFileError, UsageError
from edgekron.layers import KroneckerConv2d, KroneckerLinear
from edgekron.networks import resnet20, resnet32

FACTORY = "edgekron.networks:resnet20"
STRUCTURES = {"layer3.0.conv2": "8x8x3x1[r] * 8x8x1x3[r]; r=4", "fc": "5x8[r] * 2x8[r]; r=3"}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, so that messages hold short paths; its modules are forgotten again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    """ResNet-20 whose batch norms have seen data."""
    torch.manual_seed(0)
    net = resnet20()
    net(X)
    return net


@pytest.fixture(scope="module")
def small(dense: nn.Module) -> nn.Module:
    return compress(dense, structures=STRUCTURES, example_inputs=X)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


# round trips


@pytest.mark.parametrize("kind", ["dense", "small"])
def test_round_trip(kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
    model: nn.Module = request.getfixturevalue(kind)
    metadata = {
        "accuracy": 0.94,
        "mean": [0.5, 0.5, 0.5],
        "classes": ["cat"],
        "notes": None,
        "pair": (1, True),
    }
    random_state = torch.get_rng_state()
    save(model, "m.pt", example_inputs=X, factory=FACTORY, metadata=metadata)
    checkpoint = read_checkpoint("m.pt")
    again = checkpoint.model
    assert torch.equal(torch.get_rng_state(), random_state)
    assert same_state(again, model)
    assert not again.training
    assert torch.equal(again(X), model.eval()(X))
    assert checkpoint.inputs == (((2, 3, 32, 32), "float32"),)
    assert (checkpoint.factory, checkpoint.metadata) == (FACTORY, metadata)
    assert checkpoint.sha256 == hashlib.sha256(Path("m.pt").read_bytes()).hexdigest()
    layers = {name: m for name, m in again.named_modules() if hasattr(m, "structure")}
    if kind == "small":
        assert {name: str(layer.structure) for name, layer in layers.items()} == STRUCTURES
        assert isinstance(layers["layer3.0.conv2"], KroneckerConv2d)
        assert isinstance(layers["fc"], KroneckerLinear)
        assert again.compression == model.compression
    else:
        assert not layers
        assert not hasattr(again, "compression")
    assert os.listdir() == ["m.pt"]


def test_the_file_is_plain_data(small: nn.Module, folder: Path) -> None:
    save(small, "m.pt", example_inputs=X, factory=FACTORY)
    content = torch.load("m.pt", weights_only=True)
    assert list(content) == [
        "edgekron",
        "factory",
        "inputs",
        "structures",
        "compression",
        "metadata",
        "state",
    ]
    assert content["edgekron"] == 1
    assert content["inputs"] == [[[2, 3, 32, 32], "float32"]]
    assert content["structures"] == STRUCTURES
    assert content["state"].keys() == small.state_dict().keys()


def test_half_precision_is_stored_and_loaded_into_the_factorys(dense: nn.Module, folder: Path) -> None:
    half = resnet20()
    half.load_state_dict(dense.state_dict())
    save(half.half(), "m.pt", example_inputs=X.half(), factory=FACTORY)
    assert Path("m.pt").stat().st_size < 700_000  # 270,000 parameters
    checkpoint = read_checkpoint("m.pt")
    assert checkpoint.inputs == (((2, 3, 32, 32), "float16"),)
    weight = checkpoint.model.get_parameter("fc.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half.get_parameter("fc.weight").float())


@pytest.mark.parametrize("shared_when_built", [True, False])
def test_one_module_at_two_places(shared_when_built: bool, folder: Path) -> None:
    Path("two_places.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())\n"
        "    other = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())\n"
        f"    return nn.Sequential(block, {'block' if shared_when_built else 'other'})\n"
    )
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    x = torch.randn(1, 8, 4, 4)
    small = compress(
        nn.Sequential(block, block), structures={"0.0": "4x2x3x1[r] * 2x4x1x3[r]; r=2"}, example_inputs=x
    )
    save(small, "m.pt", example_inputs=x, factory="two_places:net")
    again: Any = load("m.pt", factory="two_places:net")
    assert same_state(again, small)
    assert torch.equal(again.eval()(x), small.eval()(x))
    assert (again[0][0] is again[1][0]) == shared_when_built


def test_a_network_that_is_one_layer(folder: Path) -> None:
    Path("one_layer.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(6, 8)\n")
    x = torch.randn(3, 6)
    small = compress(nn.Linear(6, 8), structures={"": "4x2[r] * 2x3[r]; r=2"}, example_inputs=x)
    save(small, "m.pt", example_inputs=x, factory="one_layer:net")
    again = load("m.pt", factory="one_layer:net")
    assert isinstance(again, KroneckerLinear)
    assert torch.equal(again(x), small(x))


def test_a_network_without_a_name_needs_the_factory_again(small: nn.Module, folder: Path) -> None:
    save(small, "m.pt", example_inputs=X)
    with pytest.raises(UsageError, match=r"^m.pt does not say how to build its network: pass --factory"):
        load("m.pt")
    assert same_state(load("m.pt", factory=resnet20), small)
    checkpoint = read_checkpoint("m.pt", factory=lambda: resnet20())
    assert checkpoint.factory is None
    assert read_checkpoint("m.pt", factory=resnet20).factory == "edgekron.networks.cifar:resnet20"


# example inputs


def test_example_inputs(dense: nn.Module, folder: Path) -> None:
    inputs = (X, torch.zeros(2, 5, dtype=torch.int64), torch.zeros((), dtype=torch.bool))
    save(dense, "m.pt", example_inputs=inputs, factory=FACTORY)
    checkpoint = read_checkpoint("m.pt")
    first = checkpoint.example_inputs()
    assert [(x.shape, x.dtype) for x in first] == [(x.shape, x.dtype) for x in inputs]
    assert all(torch.equal(a, b) for a, b in zip(first, checkpoint.example_inputs(), strict=True))
    assert not torch.equal(first[0], checkpoint.example_inputs(seed=1)[0])
    assert [tuple(x.shape) for x in checkpoint.example_inputs(batch=7)] == [(7, 3, 32, 32), (7, 5), ()]


def test_input_shapes_of_the_caller(dense: nn.Module, folder: Path) -> None:
    save(dense, "m.pt", example_inputs=X.half(), factory=FACTORY)
    assert read_checkpoint("m.pt", input_shapes=[(1, 3, 8, 8)]).inputs == (((1, 3, 8, 8), "float16"),)
    assert read_checkpoint("m.pt", input_shapes=[(1,), (2,)]).inputs == (((1,), "float32"), ((2,), "float32"))
    with pytest.raises(UsageError, match=r"whole numbers from 1, got \(0, 3\)"):
        read_checkpoint("m.pt", input_shapes=[(0, 3)])


def test_a_state_dict_has_no_example_inputs(dense: nn.Module, folder: Path) -> None:
    torch.save(dense.state_dict(), "s.pt")
    with pytest.raises(
        UsageError, match="does not say the shape of its input: pass --input-shape 1x3x224x224"
    ):
        read_checkpoint("s.pt", factory=FACTORY).example_inputs()
    assert read_checkpoint("s.pt", factory=FACTORY, input_shapes=[(1, 3, 32, 32)]).example_inputs()


# saving what cannot be loaded


def test_the_factory_must_build_this_network(small: nn.Module, folder: Path) -> None:
    with pytest.raises(UsageError) as error:
        save(small, "m.pt", example_inputs=X, factory="edgekron.networks:resnet32")
    assert str(error.value) == (
        "the factory 'edgekron.networks:resnet32' does not build this network: missing keys: "
        "layer1.3.conv1.weight, layer1.3.bn1.weight, layer1.3.bn1.bias, layer1.3.bn1.running_mean, "
        "layer1.3.bn1.running_var and 55 more"
    )
    with pytest.raises(
        UsageError,
        match=r"unexpected keys: layer1.3.conv1.weight,.*other shapes: fc.weight is 7x64 but 10x64",
    ):
        save(resnet32(classes=7), "m.pt", example_inputs=X, factory=FACTORY)
    with pytest.raises(UsageError, match=r"the network has no layer 'layer3.0.conv2', which is compressed"):
        save(small, "m.pt", example_inputs=X, factory="torch.nn:Identity")
    with pytest.raises(UsageError, match="has no 'resnet2O'; did you mean 'resnet20'"):
        save(small, "m.pt", example_inputs=X, factory="edgekron.networks:resnet2O")
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": np.zeros(3)}, r"^metadata\['mean'\] is of type ndarray: only numbers, texts, lists"),
        ({"a": [1, {"b": torch.zeros(1)}]}, r"^metadata\['a'\]\[1\]\['b'\] is of type Tensor"),
        ({1: 2}, "^metadata is of type dict: only .* dicts with texts as keys"),
        ({"a": np.float64(1)}, r"^metadata\['a'\] is of type float64"),
    ],
)
def test_metadata_is_plain_data(metadata: Any, message: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        save(nn.Identity(), "m.pt", example_inputs=X, metadata=metadata)
    assert os.listdir() == []


def test_a_state_of_other_things_is_refused(folder: Path) -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> str:
            return "text"

    with pytest.raises(UsageError, match="'_extra_state' of the state is of type str, not a tensor"):
        save(Extra(), "m.pt", example_inputs=X)


def test_saving_is_atomic_and_never_overwrites(
    small: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(small, "m.pt", example_inputs=X, factory=FACTORY)
    old = Path("m.pt").read_bytes()
    with pytest.raises(UsageError, match=r"^m.pt exists; use --force to overwrite it$"):
        save(resnet32(), "m.pt", example_inputs=X, factory="no.such:factory")  # asked before all work
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                save(resnet20(), "m.pt", example_inputs=X, factory=FACTORY, force=True)
        assert Path("m.pt").read_bytes() == old
    assert os.listdir() == ["m.pt"]
    save(resnet20(), "m.pt", example_inputs=X, factory=FACTORY, force=True)
    assert Path("m.pt").read_bytes() != old
    with pytest.raises(UsageError, match=r"cannot write no/m.pt: no such folder: no"):
        save(small, "no/m.pt", example_inputs=X)


# the factory named in a file


def test_only_trusted_factories_are_imported(dense: nn.Module, folder: Path) -> None:
    Path("evil_factory.py").write_text("open('owned', 'w')\ndef net():\n    pass\n")
    save(dense, "m.pt", example_inputs=X, factory=FACTORY)
    for name in ("evil_factory:net", "edgekron.networks.resnet:OrderedDict", "os:getcwd"):
        torch.save(torch.load("m.pt") | {"factory": name}, "m.pt")
        with pytest.raises(UnsafeFileError) as error:
            load("m.pt")
        assert str(error.value) == (
            f"m.pt names the factory '{name}', which is not edgekron's, torchvision's or timm's: "
            f"pass --factory {name} if you trust it"
        )
    assert sorted(os.listdir()) == ["evil_factory.py", "m.pt"]
    checkpoint = read_checkpoint("m.pt", factory=FACTORY)
    assert same_state(checkpoint.model, dense)
    assert checkpoint.factory == FACTORY


# state dicts


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}},
        lambda state: {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    ],
)
def test_state_dicts(
    wrap: Callable[[dict[str, Tensor]], Any], zipped: bool, dense: nn.Module, folder: Path
) -> None:
    torch.save(wrap(dense.state_dict()), "s.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint("s.pt", factory=FACTORY)
    assert torch.equal(checkpoint.model(X), dense.eval()(X))
    assert (checkpoint.inputs, checkpoint.factory, checkpoint.metadata) == (None, FACTORY, {})
    with pytest.raises(UsageError) as error:
        load("s.pt")
    assert str(error.value) == (
        "s.pt is a state dict: say how to build the network with --factory package.module:callable"
    )


def test_a_network_with_a_child_called_module(folder: Path) -> None:
    net = nn.Sequential()
    net.add_module("module", nn.Linear(2, 2))
    torch.save(net.state_dict(), "s.pt")
    assert same_state(load("s.pt", factory=lambda: nn.Sequential().append(nn.Identity()) and net), net)


def test_a_state_dict_of_another_network(dense: nn.Module, folder: Path) -> None:
    torch.save(dense.state_dict(), "s.pt")
    with pytest.raises(UsageError) as error:
        load("s.pt", factory="edgekron.networks:resnet32")
    assert str(error.value) == (
        "s.pt: the state does not fit the network of 'edgekron.networks:resnet32': missing keys: "
        "layer1.3.conv1.weight, layer1.3.bn1.weight, layer1.3.bn1.bias, layer1.3.bn1.running_mean, "
        "layer1.3.bn1.running_var and 55 more"
    )


# pickles


class Evil:
    """Unpickling it creates the file `owned` in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda e: e, lambda e: {"state_dict": e}, lambda e: {"edgekron": 1, "metadata": {"a": e}}]
)
def test_a_malicious_pickle_is_not_executed(wrap: Callable[[Evil], Any], zipped: bool, folder: Path) -> None:
    torch.save(wrap(Evil()), "m.pt", _use_new_zipfile_serialization=zipped)
    for factory in (None, FACTORY):
        with pytest.raises(UnsafeFileError) as error:
            load("m.pt", factory=factory)
        assert str(error.value) == (
            "m.pt is a pickle that would execute code when loaded "
            f"(it names `{os.system.__module__}.system`): save a state dict instead, "
            "torch.save(model.state_dict(), ..), or pass --allow-pickle if you trust whoever made it"
        )
        assert error.value.exit_code == 7
    assert os.listdir() == ["m.pt"]
    torch.load("m.pt", weights_only=False)  # the attack is real
    assert sorted(os.listdir()) == ["m.pt", "owned"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_is_not_executed(protocol: int, folder: Path) -> None:
    Path("m.pt").write_bytes(pickle.dumps(Evil(), protocol=protocol))
    with pytest.raises(EdgekronError):
        load("m.pt")
    if protocol >= 2:
        torch.save({"a": Evil()}, "m.pt", pickle_protocol=protocol)
        with pytest.raises(
            UnsafeFileError, match=r"is a pickle that (would execute code|cannot be loaded safely)"
        ):
            load("m.pt")
    assert os.listdir() == ["m.pt"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_network_needs_permission(zipped: bool, dense: nn.Module, folder: Path) -> None:
    for content in (dense, {"model": dense, "epoch": 1}):
        torch.save(content, "m.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UnsafeFileError, match=r"it names `edgekron.networks.resnet.ResNet`\): save a state dict"
        ):
            load("m.pt")
        model = load("m.pt", allow_pickle=True)
        assert same_state(model, dense)
        assert not model.training
        with pytest.raises(
            UsageError, match=r"m.pt is a whole network, which needs no factory: leave 'a:b' out"
        ):
            load("m.pt", factory="a:b", allow_pickle=True)


def test_a_training_checkpoint_with_other_classes(dense: nn.Module, folder: Path) -> None:
    torch.save({"state_dict": dense.state_dict(), "args": argparse.Namespace(lr=0.1)}, "m.pt")
    with pytest.raises(UnsafeFileError, match=r"it names `argparse.Namespace`"):
        load("m.pt", factory=FACTORY)
    assert same_state(load("m.pt", factory=FACTORY, allow_pickle=True), dense)


def test_allowing_pickles_executes_only_what_needs_it(
    dense: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(Evil(), "e.pt")
    with pytest.raises(UsageError, match=r"^e.pt holds a value of type int: expected an edgekron checkpoint"):
        load("e.pt", allow_pickle=True)
    assert "owned" in os.listdir()

    torch.save(dense.state_dict(), "s.pt")
    modes = []
    torch_load = torch.load

    def spy(*args: Any, **options: Any) -> Any:
        modes.append(options["weights_only"])
        return torch_load(*args, **options)

    monkeypatch.setattr(torch, "load", spy)
    load("s.pt", factory=FACTORY, allow_pickle=True)
    assert modes == [True]


def test_a_pickle_of_an_unknown_class(folder: Path) -> None:
    Path("gone.py").write_text("class Gone:\n    pass\n")
    sys.path.insert(0, "")
    try:
        import gone  # type: ignore[import-not-found]
    finally:
        sys.path.remove("")
    torch.save(gone.Gone(), "m.pt")
    del sys.modules["gone"]
    with pytest.raises(
        UsageError, match=r"m.pt holds a value of type Gone"
    ):  # classes of the current folder are found
        load("m.pt", allow_pickle=True)
    del sys.modules["gone"]
    Path("gone.py").unlink()
    with pytest.raises(
        UsageError, match=r"m.pt cannot be unpickled: ModuleNotFoundError: No module named 'gone'"
    ):
        load("m.pt", allow_pickle=True)


# files that are something else


def zip_of(**entries: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


EXPECTED = "expected an edgekron model.pt, a state dict, or a torch.export .pt2"
EXPECTED_CONTENT = "expected an edgekron checkpoint or a state dict of tensors"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello world, this is a text\n", f"is not a PyTorch file: {EXPECTED}"),
        (random.Random(0).randbytes(5000), f"is not a PyTorch file: {EXPECTED}"),
        (torch_bytes({"a": X})[:-20], "is truncated or damaged: BadZipFile: File is not a zip file"),
        (torch_bytes({"a": X})[:30], "is truncated or damaged: BadZipFile: File is not a zip file"),
        (b"\x80\x02", "is truncated or damaged: EOFError"),
        (b"\x08\x08\x12\x07pytorch", "is an ONNX file: give the PyTorch network it was exported from"),
        (b"\x1c\0\0\0TFL3", "is a TFLite file: give the PyTorch network it was exported from"),
        (
            b'\x10\0\0\0\0\0\0\0{"a":{}}',
            "is a safetensors file: load it in torch and save it with torch.save(state_dict, ..)",
        ),
        (zip_of(a="b"), f"is a zip file, but not one of torch: {EXPECTED}"),
        (
            script(),
            "is a TorchScript file: save the state dict of the network, or export it with torch.export",
        ),
        (torch_bytes([1]), f"holds a value of type list: {EXPECTED_CONTENT}"),
        (torch_bytes({}), f"holds a value of type dict: {EXPECTED_CONTENT}"),
        (
            torch_bytes({"epoch": 1, "\x1b\n": 3}),
            f"holds a value of type dict with keys epoch, \\x1b\\n: {EXPECTED_CONTENT}",
        ),
        (torch_bytes({"edgekron": 2}), "has format 2, this edgekron reads format 1: update edgekron"),
        (torch_bytes({"edgekron": "x"}), "is damaged: its format is x"),
        (torch_bytes({"edgekron": 1}), "is damaged: it has no 'factory'"),
    ],
)
def test_other_files(data: bytes, message: str, folder: Path) -> None:
    Path("m.pt").write_bytes(data)
    for allow_pickle in (False, True):
        with pytest.raises(UsageError) as error:
            load("m.pt", allow_pickle=allow_pickle)
        assert str(error.value) == f"m.pt {message}"


def test_no_file_and_a_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^no such file: m.pt$"):
        load("m.pt")
    with pytest.raises(UsageError, match=r"is a folder, not a file$"):
        load(folder)
    Path("m.onnx").write_bytes(b"anything")
    with pytest.raises(UsageError, match=r"^m.onnx is an ONNX file"):
        load("m.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": ...}, " is damaged: it has no 'state'"),
        ({"state": [1]}, " is damaged: its 'state' is of type list"),
        ({"state": {"a": 1}}, ": 'a' of the state is of type int, not a tensor"),
        (
            {"state": {}},
            ": the state does not fit its own network: missing keys: conv1.weight, bn1.weight, bn1.bias, "
            "bn1.running_mean, bn1.running_var and 92 more",
        ),
        ({"factory": 3}, " is damaged: its 'factory' is of type int"),
        ({"inputs": None}, " is damaged: its 'inputs' is of type NoneType"),
        ({"inputs": [[[1, "2"], "float32"]]}, ": the shape of an input is [1, '2']"),
        ({"inputs": [[[1], "os"]]}, ": the type of an input is 'os'"),
        ({"inputs": [3]}, " is damaged: TypeError: cannot unpack non-iterable int object"),
        (
            {"metadata": {"a": torch.zeros(1)}},
            ": metadata['a'] is of type Tensor: only numbers, texts, lists, and dicts with texts as keys "
            "are stored",
        ),
        ({"structures": {"fc": 3}}, " is damaged: its 'structures' are not texts"),
        ({"structures": {"a\n": "1x1"}}, ": the network has no layer 'a\\n', which is compressed"),
        (
            {"structures": {"bn1": "1x1"}},
            ": layer 'bn1' is of type BatchNorm2d, which cannot be compressed",
        ),
        (
            {"structures": {"fc": "5x8"}},
            ": 5x8: the product of the factor shapes is 5x8, but the weight is 10x64",
        ),
        (
            {"structures": {"fc": "hello"}},
            ": cannot read the factor 'hello' of 'hello': expected for instance 64x1x3x1[r]",
        ),
        ({"compression": {"layers": []}}, " is damaged: KeyError: 'parameters'"),
        (
            {"compression": {"layers": [], "parameters": [[], 1], "macs": [1, 1]}},
            " is damaged: TypeError: unsupported format string passed to list.__format__",
        ),
        (
            {"compression": {"layers": [], "parameters": [2, 1], "macs": [1, 1], "search": {"method": "tt"}}},
            " is damaged: TypeError: Search.__init__() missing 2 required positional arguments",
        ),
        (
            {
                "compression": {"layers": [], "parameters": [2, 1], "macs": [1, 1]}
                | {"search": {"method": "tt", "max_factors": 3, "structures": "many"}}
            },
            " is damaged: ValueError: Cannot specify ',' with 's'.",
        ),
        ({"program": {"nodes": []}}, " is damaged: KeyError: 'tensors'"),
        (
            {"factory": None, "program": {"nodes": [], "tensors": {"a": 1}}},
            " is damaged: TypeError: cannot unpack non-iterable int object",
        ),
    ],
)
def test_wrong_content(changes: dict[str, Any], message: str, dense: nn.Module, folder: Path) -> None:
    save(dense, "m.pt", example_inputs=X, factory=FACTORY)
    content = torch.load("m.pt") | changes
    torch.save({key: value for key, value in content.items() if value is not ...}, "m.pt")
    with pytest.raises(UsageError) as error:
        load("m.pt")
    assert str(error.value).startswith(f"m.pt{message}")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_and_flipped_byte_is_one_clear_error(
    zipped: bool, small: nn.Module, folder: Path
) -> None:
    save(small, "m.pt", example_inputs=X, factory=FACTORY)
    torch.save(torch.load("m.pt"), "m.pt", _use_new_zipfile_serialization=zipped)
    data = Path("m.pt").read_bytes()
    generator = random.Random(0)
    places = [generator.randrange(len(data)) for _ in range(15)] + [
        generator.randrange(9000) for _ in range(30)
    ]
    for k in places:
        for changed in (data[:k], data[:k] + bytes([data[k] ^ generator.randrange(1, 256)]) + data[k + 1 :]):
            Path("m.pt").write_bytes(changed)
            lines = ["m.pt"]
            try:
                load("m.pt")
            except EdgekronError as error:
                lines = str(error).splitlines()
            assert len(lines) == 1
            assert "m.pt" in lines[0]
