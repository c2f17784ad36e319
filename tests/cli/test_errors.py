"""Bad input: one clear line, the right exit code, nothing left behind. The list of issue 2, and more."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekron import bundled
from tests.cli.conftest import Result, Run, listing
from tests.edgekron_tflite import foreign

FACTORY = "networks_of_a_user:build"
STATE = ("state.pt", "--factory", FACTORY, "--input-shape", "1,3,8,8")


class Trap:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trapped",)


@pytest.fixture
def files(folder: Path) -> Path:
    """The current folder with what users have: good files and bad ones."""
    good = bundled.RESNET20.read_bytes()
    (folder / "good.pt").write_bytes(good)
    (folder / "cut.pt").write_bytes(good[: len(good) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "letter.pt").write_text("Dear reader, this is a letter.")
    (folder / "a.tflite").write_bytes(foreign.file())
    (folder / "cut.tflite").write_bytes(foreign.file()[:200])
    (folder / "broken.onnx").write_bytes(b"\x08\x08\x3a\xff\x01abc")
    (folder / "old.onnx").write_bytes(b"old")
    (folder / "bad.json").write_text('{"0": ')
    (folder / "list.json").write_text("[1]")
    torch.save({"weights": Trap()}, folder / "trap.pt")
    np.savez(folder / "trap.npz", x=np.array([Trap()], dtype=object))
    np.savez(folder / "small.npz", x=np.zeros((2, 2)))
    (folder / "folder.pt").mkdir()
    return folder


CASES: dict[str, tuple[tuple[object, ...], int, str]] = {
    # a missing file
    "compress none": (("compress", "none.pt", "--ratio", 2), 2, "no such file: none.pt"),
    "export none": (("export", "none.pt", "-f", "onnx"), 2, "no such file: none.pt"),
    "verify none": (
        ("verify", "none.onnx", "--reference", "good.pt"),
        2,
        "no such file: none.onnx",
    ),
    "verify no reference": (
        ("verify", "a.tflite", "--reference", "none.pt"),
        2,
        "no such file: none.pt",
    ),
    "bench none": (("bench", "none.onnx"), 2, "no such file: none.onnx"),
    "inspect none": (("inspect", "none.onnx"), 2, "no such file: none.onnx"),
    "a folder": (("inspect", "folder.pt"), 2, "folder.pt is a folder, not a file"),
    # a damaged one
    "cut checkpoint": (
        ("export", "cut.pt", "-f", "onnx"),
        2,
        "cut.pt is truncated or damaged: BadZipFile: File is not a zip file",
    ),
    "cut checkpoint to compress": (
        ("compress", "cut.pt", "--ratio", 2),
        2,
        "cut.pt is truncated or damaged: BadZipFile: File is not a zip file",
    ),
    "empty checkpoint": (("inspect", "empty.pt"), 2, "empty.pt is empty"),
    "no checkpoint": (("export", "letter.pt", "-f", "onnx"), 2, "letter.pt is not a PyTorch file: expected "),
    "an artifact as a model": (
        ("export", "a.tflite", "-f", "onnx"),
        2,
        "a.tflite is a TFLite file: give the PyTorch network it was exported from",
    ),
    "cut artifact": (("bench", "cut.tflite"), 2, "cut.tflite: a damaged TFLite file"),
    "cut onnx": (("inspect", "broken.onnx"), 2, "broken.onnx: not an ONNX file, or a damaged one"),
    # code in a file
    "pickle": (("export", "trap.pt", "-f", "onnx"), 7, "trap.pt is a pickle that would execute code"),
    "pickle to compress": (("compress", "trap.pt", "--ratio", 2), 7, "trap.pt is a pickle that would"),
    "pickle to inspect": (("inspect", "trap.pt"), 7, "trap.pt is a pickle that would execute code"),
    "pickle as a reference": (
        ("verify", "a.tflite", "--reference", "trap.pt"),
        7,
        "trap.pt is a pickle that would execute code",
    ),
    "pickled arrays": (
        ("export", *STATE, "-f", "onnx", "--inputs", "trap.npz"),
        2,
        "trap.npz: not a readable .npz file of plain arrays: ValueError: ",
    ),
    # a state dict
    "no factory": (
        ("export", "state.pt", "-f", "onnx"),
        2,
        "state.pt is a state dict: say how to build the network with --factory package.module:callable",
    ),
    "no such factory": (
        ("export", "state.pt", "-f", "onnx", "--factory", "networks_of_a_user:built"),
        2,
        "factory 'networks_of_a_user:built': ",
    ),
    "no input shape": (
        ("export", "state.pt", "-f", "onnx", "--factory", FACTORY),
        2,
        "state.pt does not say the shape of its input: give --input-shape, for instance 1,3,224,224",
    ),
    # formats
    "unknown format": (
        ("export", "good.pt", "--format", "onx"),
        2,
        "unknown format 'onx': known are onnx, tflite. Did you mean 'onnx'?",
    ),
    "unknown suffix": (
        ("export", "good.pt", "-o", "m.tflit"),
        2,
        "m.tflit: the suffix says no format; known are .onnx, .tflite. Did you mean 'tflite'?",
    ),
    "no format": (("export", "good.pt"), 2, "say --format onnx or --format tflite"),
    "one name for two": (
        ("export", "good.pt", "-f", "onnx", "-f", "tflite", "-o", "m.onnx"),
        2,
        "-o names one file: leave it out to export several formats",
    ),
    "suffix of another format": (
        ("export", "good.pt", "-f", "onnx", "-o", "m.tflite"),
        2,
        "m.tflite: the suffix says tflite, but the format is onnx",
    ),
    "opset of tflite": (
        ("export", *STATE, "-f", "tflite", "--opset", 18),
        2,
        "--opset is for ONNX; TFLite operators have versions of their own",
    ),
    "opset out of reach": (
        ("export", *STATE, "-f", "onnx", "--opset", 3),
        2,
        "--opset 3: this version exports 18 to 23",
    ),
    "layout of tflite": (
        ("export", *STATE, "-f", "onnx", "--layout", "nhwc"),
        2,
        "--layout nhwc is for TFLite; ONNX files keep PyTorch's nchw",
    ),
    "unknown runtime": (
        ("verify", "a.tflite", "--reference", "good.pt", "--runtime", "litret"),
        2,
        "unknown runtime 'litret': known are litert, onnxruntime, tflite-runtime. Did you mean 'litert'?",
    ),
    # budgets
    "ratio out of reach": (
        ("compress", *STATE, "--ratio", 1000),
        2,
        "ratio=1000 cannot be met: the best reachable ratio is 14.92",
    ),
    "macs out of reach": (
        ("compress", *STATE, "--macs", 1000),
        2,
        "macs=1000 cannot be met: the best reachable macs is ",
    ),
    "ratio below 1": (("compress", *STATE, "--ratio", 0.5), 2, "ratio must be at least 1, got 0.5"),
    "no budget": (("compress", *STATE), 2, "give either ratio=, macs= and/or speedup=, or structures="),
    "no json": (("compress", *STATE, "--structures", "bad.json"), 2, "bad.json: not a readable JSON file: "),
    "other json": (
        ("compress", *STATE, "--structures", "list.json"),
        2,
        'list.json: expected {"layer": "structure", ..}',
    ),
    # shapes
    "shape": (
        ("export", "good.pt", "-f", "onnx", "--input-shape", "1,4,32,32"),
        2,
        "the network does not accept inputs of shape 1x4x32x32: ",
    ),
    "shape to compress": (
        ("compress", "good.pt", "--ratio", 2, "--input-shape", "1,3"),
        2,
        "the network does not accept inputs of shape 1x3: ",
    ),
    "no shape": (
        ("export", "good.pt", "-f", "onnx", "--input-shape", "a,b"),
        2,
        "--input-shape a,b: expected positive extents such as 1,3,224,224",
    ),
    "arrays that do not fit": (
        ("export", *STATE, "-f", "onnx", "--inputs", "small.npz"),
        2,
        "small.npz: 'input' has shape 2x2, the network takes 1x3x8x8 (PyTorch's layout)",
    ),
    "tolerance": (
        ("export", *STATE, "-f", "onnx", "--rtol", "-1"),
        2,
        "rtol=-1.0 is no tolerance: give a finite number >= 0",
    ),
    # outputs
    "read-only folder": (
        ("export", "good.pt", "-o", "/proc/m.onnx"),
        2,
        "cannot write /proc/m.onnx: No such file or directory",
    ),
    "read-only folder to compress": (
        ("compress", "good.pt", "--ratio", 2, "-o", "/proc/m.pt"),
        2,
        "cannot write /proc/m.pt: No such file or directory",
    ),
    "below a file": (
        ("export", "good.pt", "-o", "old.onnx/m.onnx"),
        2,
        "cannot write old.onnx/m.onnx: old.onnx is not a folder",
    ),
    "no folder": (
        ("compress", "good.pt", "--ratio", 2, "-o", "no/m.pt"),
        2,
        "cannot write no/m.pt: no such folder: no",
    ),
    "exists": (
        ("export", "good.pt", "-o", "old.onnx"),
        2,
        "old.onnx exists; use --force to overwrite it",
    ),
    "exists to compress": (
        ("compress", "good.pt", "--ratio", 2, "-o", "old.onnx"),
        2,
        "old.onnx exists; use --force to overwrite it",
    ),
    "a folder as output": (
        ("compress", "good.pt", "--ratio", 2, "-o", "folder.pt", "--force"),
        2,
        "folder.pt is a folder, not a file",
    ),
    # the rest
    "unsupported network": (
        (
            *("export", "choosy.pt", "--factory", "networks_of_a_user:Choosy"),
            *("--input-shape", "1,4", "-f", "onnx"),
        ),
        3,
        "torch.onnx cannot export this network: ",
    ),
    "unsupported by tflite": (
        (
            *("export", "choosy.pt", "--factory", "networks_of_a_user:Choosy"),
            *("--input-shape", "1,4", "-f", "tflite"),
        ),
        3,
        "litert-torch cannot convert this network: ",
    ),
    "the same twice": (("bench", "a.tflite", "./a.tflite"), 2, "bench was given the same artifact twice"),
    "baseline": (
        ("bench", "a.tflite", "--baseline", "b.tflite"),
        2,
        "baseline 'b.tflite' is none of the candidates ['a.tflite']",
    ),
    "threads": (("bench", "a.tflite", "--threads", 4096), 2, "threads=4096, but this process may use "),
    "no images": (("demo", "--cifar10", ".", "--folder", "kept"), 2, ". holds no test_batch.bin: unpack "),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_left_behind(name: str, files: Path, run: Run) -> None:
    arguments, code, message = CASES[name]
    if "choosy.pt" in arguments:
        torch.save({"scale": torch.ones(1)}, files / "choosy.pt")
    before = listing(files)
    result = run(*arguments)
    assert (result.code, result.out) == (code, "")
    assert len(result.errors) == 1
    assert result.errors[0].startswith(f"error: {message}")
    assert result.err.splitlines()[-1] == result.errors[0]
    assert listing(files) == before
    assert not (files / "trapped").exists()


def test_the_best_reachable_ratio_is_reachable(files: Path, run: Run) -> None:
    best = run("compress", *STATE, "--ratio", 1000).errors[0].rpartition(" ")[2]
    assert run("compress", *STATE, "--ratio", best).code == 0
    assert run("compress", *STATE, "--ratio", float(best) + 0.02, "--force").code == 2


def test_every_cut_of_a_checkpoint_is_one_line(files: Path, run: Run) -> None:
    data = (files / "good.pt").read_bytes()
    for end in (1, 3, 100, 5000, len(data) - 500, len(data) - 1):
        (files / "cut.pt").write_bytes(data[:end])
        result = run("inspect", "cut.pt")
        assert (result.code, result.out, len(result.errors)) == (2, "", 1)
        assert result.errors[0].startswith("error: cut.pt ")


def test_a_checkpoint_with_a_hole_is_one_line(files: Path, run: Run) -> None:
    source = zipfile.ZipFile(files / "good.pt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            if not name.endswith("/data/3"):
                target.writestr(name, source.read(name))
    (files / "hole.pt").write_bytes(buffer.getvalue())
    result = run("inspect", "hole.pt")
    assert (result.code, len(result.errors)) == (2, 1)
    assert result.errors[0].startswith("error: hole.pt is truncated or damaged: ")


def test_parity_that_fails_is_exit_4_and_keeps_the_file(files: Path, run: Run) -> None:
    result = run("export", *STATE, "-f", "tflite", "--rtol", 0, "--atol", 0)
    assert (result.code, result.out) == (4, "")
    assert len(result.errors) == 1
    assert result.errors[0].startswith("error: parity FAILED: ")
    assert result.errors[0].endswith("; the file is kept as state.tflite.failed")
    assert (files / "state.tflite.failed").exists() and not (files / "state.tflite").exists()


def test_verify_of_another_network_is_exit_4(files: Path, run: Run) -> None:
    assert run("export", *STATE, "-f", "onnx").code == 0
    state = torch.load("state.pt")
    state["5.bias"][0] += 0.01
    torch.save(state, "other.pt")
    before = listing(files)
    for arguments in ((), ("--json",)):
        result = run("verify", "state.onnx", "--reference", "other.pt", "--factory", FACTORY, *arguments)
        assert result.code == 4
        assert "parity FAILED: 3 of 3 compared" in result.out
        assert result.errors == []
    assert listing(files) == before


def test_existing_files_are_overwritten_by_force(files: Path, run: Run) -> None:
    (files / "state.onnx").write_bytes(b"old")
    assert run("export", *STATE, "-f", "onnx").errors == [
        "error: state.onnx exists; use --force to overwrite it"
    ]
    assert run("export", *STATE, "-f", "onnx", "--force").code == 0
    assert (files / "state.onnx").stat().st_size > 1000


def crash(result: str) -> None:
    raise ZeroDivisionError(result)


def test_a_bug_of_ours_is_exit_1(files: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekron.verbs.inspect.inspect", lambda *_, **__: crash("division\nby zero"))
    result = run("inspect", "good.pt")
    assert result == Result(
        1,
        "",
        "internal error: ZeroDivisionError: division (set EDGEKRON_DEBUG=1 for the traceback, and please "
        "report it)\n",
    )
    monkeypatch.setenv("EDGEKRON_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("inspect", "good.pt")


def test_errors_of_typer_are_exit_2(run: Run) -> None:
    for arguments, part in (
        (("inspect",), "Missing argument"),
        (("inspect", "a", "--nonsense"), "No such option: --nonsense"),
        (("expart", "a"), "No such command 'expart'"),
        (("export", "a", "--plan", "dens"), "'dens' is not one of"),
        (("bench", "a", "--threads", "0"), "greater than or equal to 1"),
    ):
        result = run(*arguments)
        assert (result.code, result.out) == (2, "")
        assert part in " ".join(result.err.split())
