"""PT2 files: the same outputs as torch, real layers, and no attack that torch.export.load falls for."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import edgekron
from edgekron import program
from edgekron.checkpoint import load, read_checkpoint, save
from edgekron.compression import compress
from edgekron.errors import EdgekronError, UnsafeFileError, UnsupportedError, UsageError
from edgekron.layers import KroneckerConv2d, KroneckerLinear
from edgekron.networks import resnet20

Entries = dict[str, bytes]
WEIGHTS = "m/data/weights/model_weights_config.json"
CONSTANTS = "m/data/constants/model_constants_config.json"
GRAPH = "m/models/model.json"


def export(
    net: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, decompose: bool = False, **options: Any
) -> Path:
    exported = torch.export.export(net.eval(), inputs, **options)
    torch.export.save(exported.run_decompositions() if decompose else exported, path)
    return path


def edit(path: Path, change: Callable[[Entries], object]) -> None:
    """Rewrite the entries of a zip file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def edit_json(entries: Entries, name: str, change: Callable[[Any], object]) -> None:
    document = json.loads(entries[name])
    change(document)
    entries[name] = json.dumps(document).encode()


class Zoo(nn.Module):
    """Operators, attribute names and argument kinds that a reader of graphs may trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Conv2d(3, 8, 3, padding="same", dilation=2)
        self.shared = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.twice = nn.Linear(8, 8, bias=False)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.steps = nn.Linear(8, 8)
        self.conv1 = nn.Conv1d(8, 8, 3, padding=1)
        self.own = nn.Parameter(torch.randn(4, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("count", torch.arange(8.0), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        batch = x.shape[0]
        x = F.relu_(self.shared(self.layers(x)))
        x = self.up(self.shared(x) + 1.5)
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        first, second = x.chunk(2, 1)
        x = F.hardtanh(F.gelu(torch.cat([second, first], 1) * torch.tensor([2.0])), -3.0, float("inf"))
        t = self.drop(self.steps(self.norm(x.flatten(2).transpose(1, 2))) + self.count)
        t = t + self.attention(t, t, t, need_weights=False)[0]
        t = self.twice(t) + F.conv1d(t.transpose(1, 2), self.twice.weight[..., None]).transpose(1, 2)
        mean = self.conv1(t.transpose(1, 2)).mean(-1)
        total = t.reshape(batch, -1).to(torch.float64).sum(1).float() * y
        share = torch.where(t > 0, t, torch.zeros_like(t)).view(batch, -1).softmax(-1)
        return F.linear(t, self.own), mean, total, x[:, [0, 2]].amax((2, 3)), share, torch.arange(batch)


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("batch", [3, None])
def test_outputs_equal_torchs(batch: int | None, decompose: bool, tmp_path: Path) -> None:
    free = {} if batch else {"dynamic_shapes": ({0: Dim("b")}, {0: Dim("b")})}
    example = (torch.randn(3, 3, 8, 8), torch.randn(3))
    path = export(Zoo(), example, tmp_path / "m.pt2", decompose=decompose, **free)
    checkpoint = read_checkpoint(path)
    assert checkpoint.inputs == (((3, 3, 8, 8), "float32"), ((3,), "float32"))
    inputs = checkpoint.example_inputs(batch or 5)
    expected = torch.export.load(path).module()(*inputs)
    actual = checkpoint.model(*inputs)
    assert len(actual) == 6
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    kinds = {
        name: type(m).__name__
        for name, m in checkpoint.model.named_modules()
        if hasattr(m, "reset_parameters")
    }
    linear = {} if decompose else {"steps": "Linear", "attention.out_proj": "Linear"}
    # `twice` and `own` are not the weight of one layer each; addmm is not recognised
    assert kinds == {"layers": "Conv2d", "shared": "Conv2d", "conv1": "Conv1d"} | linear


def test_the_layers_keep_their_arguments(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 6, (3, 1), (2, 1), (1, 0), (1, 2), groups=2, bias=False), nn.Conv2d(6, 2, 1, 2)
    )
    model: Any = load(export(net, (torch.randn(1, 4, 9, 9),), tmp_path / "m.pt2"))
    assert str(model.get_submodule("0")) == str(net[0])
    assert str(model.get_submodule("1")) == str(net[1])
    assert not model.training


def test_compress_and_save_need_no_factory(tmp_path: Path) -> None:
    net = resnet20()
    x = torch.randn(2, 3, 32, 32)
    model = load(export(net, (x,), tmp_path / "m.pt2"))
    assert model.state_dict().keys() == net.state_dict().keys()
    texts = {"layer3.0.conv2": "8x8x3x1[r] * 8x8x1x3[r]; r=4", "fc": "5x8[r] * 2x8[r]; r=3"}
    small = compress(model, structures=texts, example_inputs=x).eval()
    save(small, tmp_path / "m.pt", example_inputs=x)
    again = read_checkpoint(tmp_path / "m.pt")
    assert isinstance(again.model.get_submodule("layer3.0.conv2"), KroneckerConv2d)
    assert isinstance(again.model.get_submodule("fc"), KroneckerLinear)
    assert str(again.model.compression) == str(small.compression)
    assert again.inputs == (((2, 3, 32, 32), "float32"),) and again.factory is None
    state = again.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())
    assert torch.equal(again.model(x), small(x))
    assert (tmp_path / "m.pt").stat().st_size < (tmp_path / "m.pt2").stat().st_size  # no dense weights


def test_a_program_takes_as_many_inputs_as_it_had(tmp_path: Path) -> None:
    model = load(export(nn.Linear(2, 2), (torch.randn(1, 2),), tmp_path / "m.pt2"))
    with pytest.raises(UsageError, match=r"the network takes 1 inputs \(input\), got 2"):
        model(torch.randn(1, 2), torch.randn(1, 2))


def test_a_program_can_be_exported_again(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 32, 32)
    net = resnet20().eval()
    model = load(export(net, (x,), tmp_path / "m.pt2"))
    assert torch.equal(torch.export.export(model, (x,)).module()(x), net(x))


# attacks


class Evil:
    """Unpickling it creates the file `owned` in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


PYTHON = "__import__('os').system('touch owned')"


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def evil_sample_inputs(entries: Entries) -> None:
    entries["m/data/sample_inputs/model.pt"] = torch_bytes(((Evil(),), {}))


def evil_weight(entries: Entries) -> None:
    name = json.loads(entries[WEIGHTS])["config"]["0.weight"]["path_name"]
    edit_json(entries, WEIGHTS, lambda d: d["config"]["0.weight"].update(use_pickle=True))
    entries[f"m/data/weights/{name}"] = torch_bytes(Evil())


def evil_constant(entries: Entries) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit_json(entries, CONSTANTS, lambda d: d["config"].update(evil=entry))
    entries["m/data/constants/opaque_obj_0"] = pickle.dumps(Evil())


def evil_size(entries: Entries) -> None:
    def change(document: Any) -> None:
        for tensor in document["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                size.get("as_expr", {}).update(expr_str=PYTHON)

    edit_json(entries, GRAPH, change)


def evil_guard(entries: Entries) -> None:
    edit_json(entries, GRAPH, lambda d: d.update(guards_code=[f"{PYTHON} == 0"]))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .pt2 in the current folder: one convolution and a ReLU, free batch."""
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    return export(net, (torch.randn(2, 3, 5, 5),), Path("m.pt2"), dynamic_shapes=({0: Dim("b")},))


@pytest.mark.parametrize(
    ("attack", "loads"),
    [
        (evil_sample_inputs, True),  # never read
        (evil_size, True),
        (evil_guard, True),
        (evil_weight, False),
        (evil_constant, False),
    ],
)
def test_nothing_in_the_file_is_executed(
    attack: Callable[[Entries], None], loads: bool, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(small, attack)
    x = torch.randn(2, 3, 5, 5)
    if loads:
        load(small)(x)
    else:
        with pytest.raises(
            UnsafeFileError, match="is a pickle, which would execute code when loaded: export"
        ):
            load(small)
    assert os.listdir() == ["m.pt2"]

    # the attack is real: this is why torch.export.load is not used
    monkeypatch.setattr(logging.root, "disabled", True)
    with suppress(Exception):
        torch.export.load(small).module()(x)
    assert sorted(os.listdir()) == ["m.pt2", "owned"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.os.system", "calls 'torch.os.system', which is not an aten operator"),
        ("torch.ops.mine.evil.default", "is not an aten operator"),
        ("torch.ops.aten.relu.__class__", "is not an aten operator"),
        ("torch.ops.aten.__class__.default", "is not an aten operator"),
        ("_operator.attrgetter", "is not an aten operator"),
        ("torch.ops.aten.save.default", "is not"),
        ("torch.ops.aten.from_file.default", "is not a plain function of tensors"),
        ("torch.ops.aten._cudnn_rnn.default", "is not a plain function of tensors"),
        ("x\n\x1b[0m", r"calls 'x\\n\\x1b\[0m', which"),
    ],
)
def test_other_functions_are_refused(target: str, message: str, small: Path) -> None:
    node = {"target": target, "inputs": [], "outputs": [], "metadata": {}}
    edit(small, lambda e: edit_json(e, GRAPH, lambda d: d["graph_module"]["graph"]["nodes"].insert(0, node)))
    with pytest.raises(UnsupportedError, match=f"m.pt2: the program .*{message}"):
        load(small)


# files that cannot be used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop(WEIGHTS), "m.pt2: it was written by an old torch: export it again"),
        (lambda e: e.pop(GRAPH), "m.pt2: it was written by an old torch"),
        (lambda e: e.update({GRAPH: b"{"}), "m.pt2 is damaged: JSONDecodeError"),
        (
            lambda e: edit_json(e, GRAPH, lambda d: d.pop("graph_module")),
            "m.pt2 is damaged: KeyError: 'graph_module'",
        ),
        (lambda e: e.update({"m/byteorder": b"middle"}), "its tensors are not little-endian"),
        (
            lambda e: edit_json(e, GRAPH, lambda d: d["schema_version"].update(major=9)),
            "its schema is 9, .* reads 8",
        ),
        (lambda e: e.update({"m/data/weights/weight_0": b"1234"}), "m.pt2 is damaged: RuntimeError"),
    ],
)
def test_damaged_files(change: Callable[[Entries], object], message: str, small: Path) -> None:
    edit(small, change)
    with pytest.raises(UsageError, match=message):
        load(small)


def test_every_truncation_and_flipped_byte_is_one_clear_error(small: Path) -> None:
    data = small.read_bytes()
    for k in range(0, len(data), len(data) // 60):
        flipped = data[:k] + bytes([data[k] ^ 0x55]) + data[k + 1 :]
        for changed in (data[:k], flipped):
            small.write_bytes(changed)
            lines = ["m.pt2"]
            try:
                load(small)
            except EdgekronError as error:
                lines = str(error).splitlines()
            assert len(lines) == 1 and "m.pt2" in lines[0]


def test_a_compiled_library_is_not_a_graph(small: Path) -> None:
    def change(entries: Entries) -> None:
        del entries[GRAPH]
        entries["m/data/aotinductor/model/model.so"] = b""

    edit(small, change)
    with pytest.raises(UsageError, match=r"m.pt2: it holds a compiled library, not a graph"):
        load(small)


def test_a_program_needs_no_factory(small: Path) -> None:
    with pytest.raises(UsageError, match=r"m.pt2 is a torch.export program, which needs no factory"):
        load(small, factory="edgekron.networks:resnet20")


def test_training_mode_is_refused(tmp_path: Path) -> None:
    for net in (nn.BatchNorm2d(3), nn.Dropout(0.5)):
        exported = torch.export.export(net.train(), (torch.randn(2, 3, 5, 5),))
        torch.export.save(exported, tmp_path / "m.pt2")
        with pytest.raises(
            UnsupportedError, match=r"training mode: call model.eval\(\) before|buffer_mutation"
        ):
            load(tmp_path / "m.pt2")


def test_inputs_and_outputs_are_tensors(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, n: int) -> Tensor:
            return x * n

    exported = torch.export.export(Scaled(), (torch.randn(2), 3), dynamic_shapes=(None, Dim.DYNAMIC))
    torch.export.save(exported, tmp_path / "m.pt2")
    with pytest.raises(UnsupportedError, match="the network has an input of kind user_input, only tensors"):
        load(tmp_path / "m.pt2")


def test_the_codes_are_torchs_own() -> None:
    from torch._export.serde import serialize

    for code, dtype in program.DTYPES.items():
        assert serialize._SERIALIZE_TO_TORCH_DTYPE[code] is dtype
    for code, memory_format in program.MEMORY_FORMATS.items():
        assert serialize._SERIALIZE_TO_TORCH_MEMORY_FORMAT[code] is memory_format


def test_it_is_public() -> None:
    assert edgekron.load is load
