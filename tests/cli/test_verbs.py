"""The verbs from end to end on a bundled network; every result as strict JSON; every help an example."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

import edgekron
from edgekron import bundled
from edgekron.delegation import DelegationReport, Undelegated
from edgekron.selection import candidates, methods
from edgekron.selection.methods import Method
from edgekron.structure import Structure
from edgekron.verbs.doctor import DoctorReport, Finding
from tests.cli.conftest import Run

VERBS = ("compress", "export", "verify", "bench", "profile", "tune", "inspect", "doctor", "demo")


def strict(text: str) -> Any:
    """Parse JSON; NaN and Infinity, which Python would take, are refused."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_compress_export_verify_bench_inspect(folder: Path, run: Run) -> None:
    (folder / "resnet20.pt").write_bytes(bundled.RESNET20.read_bytes())
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32))
    np.savez(folder / "x.npz", input=images)

    result = run("compress", "resnet20.pt", "--ratio", 3, "--json")
    assert result.code == 0
    compressed = strict(result.out)
    assert compressed["ratio"] >= 3
    assert compressed["path"] == "resnet20.kron.pt"
    assert compressed["sha256"] == sha256(folder / "resnet20.kron.pt")
    assert compressed["parameters"][0] == 269_722
    assert "spectra" in result.err and result.errors == []

    result = run("export", "resnet20.kron.pt", "-f", "onnx", "-f", "tflite", "--inputs", "x.npz", "--json")
    assert result.code == 0
    reports = strict(result.out)
    paths = [folder / "resnet20.kron.onnx", folder / "resnet20.kron.tflite"]
    for path, report in zip(paths, reports, strict=True):
        manifest = report["manifest"]
        assert (report["path"], report["sha256"], report["size"]) == (
            path.name,
            sha256(path),
            path.stat().st_size,
        )
        assert manifest["source_sha256"] == compressed["sha256"]
        assert manifest["factory"] == "edgekron.networks:resnet20"
        assert manifest["parameters"][0] == 269_722
        chosen = {layer["name"]: layer["structure"] for layer in compressed["layers"] if layer["structure"]}
        assert {name: layer["structure"] for name, layer in manifest["layers"].items()} == chosen
        assert report["parity"]["passed"] and len(report["parity"]["rows"]) == 4

    for path in paths:
        result = run("verify", path.name, "--reference", "resnet20.kron.pt", "--inputs", "x.npz", "--json")
        assert result.code == 0
        verified = strict(result.out)
        assert verified["passed"] and verified["rows"][3]["input"] == "x.npz"
        assert run("verify", path.name, "--reference", "resnet20.pt").code == 4

    result = run("bench", *(path.name for path in paths), "--seconds", 0.05, "--json")
    assert result.code == 0
    measured = strict(result.out)
    assert [each["name"] for each in measured["candidates"]] == [path.name for path in paths]
    assert (measured["baseline"], measured["unit"]) == (paths[0].name, "ms")
    assert all(min(each["samples"]) > 0 for each in measured["candidates"])

    result = run("inspect", paths[0].name, "--profile", "--threads", 2, "--json")
    assert result.code == 0
    profile = strict(result.out)["profile"]
    assert profile["threads"] == 2 and {each["kind"] for each in profile["kinds"]} >= {"Conv"}
    result = run("inspect", paths[1].name, "--profile")
    assert (result.code, result.out) == (2, "")
    assert "LiteRT's Python interpreter gives no time per operator" in result.errors[0]

    for name, kind in (
        (paths[0].name, "artifact"),
        (paths[1].name, "artifact"),
        ("resnet20.kron.pt", "checkpoint"),
    ):
        result = run("inspect", name, "--json")
        assert result.code == 0
        assert strict(result.out)["kind"] == kind
    assert {layer["name"]: layer["structure"] for layer in strict(result.out)["layers"]} == {
        layer["name"]: layer["structure"] or "dense" for layer in compressed["layers"]
    }
    assert sorted(os.listdir(folder)) == [
        *("networks_of_a_user.py", "resnet20.kron.onnx", "resnet20.kron.pt", "resnet20.kron.tflite"),
        *("resnet20.pt", "state.pt", "x.npz"),
    ]


def test_texts_say_path_size_checksum_and_what_to_try_next(folder: Path, run: Run) -> None:
    common = ("--factory", "networks_of_a_user:build", "--input-shape", "1x3x8x8")
    (folder / "s.json").write_text('{"2": "16x1x3x1[r] * 1x16x1x3[r]; r=4"}')
    result = run("compress", "state.pt", *common, "--structures", "s.json")
    assert result.code == 0
    lines = result.out.splitlines()
    path = folder / "state.kron.pt"
    assert lines[0].split() == ["layer", "weight", "structure", "error", "params", "MACs"]
    assert "16x1x3x1[r] * 1x16x1x3[r]; r=4" in lines[2]
    assert "dense: not named in structures=" in lines[1]
    assert lines[-2] == f"state.kron.pt  {path.stat().st_size:,} bytes  sha256 {sha256(path)[:16]}"
    assert lines[-1] == "next: edgekron export state.kron.pt --format onnx"

    result = run("export", "state.kron.pt", "-f", "onnx", "--dynamic-batch", *common[:2])
    assert result.code == 0
    path = folder / "state.kron.onnx"
    lines = result.out.splitlines()
    assert lines[0] == f"state.kron.onnx  {path.stat().st_size:,} bytes  sha256 {sha256(path)[:16]}"
    assert "parity passed: 6 compared" in lines[2]
    assert lines[-1] == "next: edgekron bench state.kron.onnx"
    assert result.err.splitlines() == [
        "converting 0/3",
        "verifying 1/3",
        "writing 2/3",
        "written 3/3",
    ]

    result = run("bench", "state.kron.onnx", "--seconds", 0)
    assert result.out.splitlines()[0].split()[:3] == ["candidate", "median", "ms"]
    assert "measuring 100/100" in result.err
    result = run("verify", "state.kron.onnx", "--reference", "state.kron.pt", *common[:2])
    assert result.out.splitlines()[-1].startswith("parity passed: 6 compared (atol=0, rtol=1e-05)")
    result = run("inspect", "state.kron.onnx")
    assert "16x1x3x1[r] * 1x16x1x3[r]; r=4" in result.out


def test_verify_layer_by_layer(folder: Path, run: Run) -> None:
    common = ("--factory", "networks_of_a_user:build")
    (folder / "s.json").write_text('{"2": "16x1x3x1[r] * 1x16x1x3[r]; r=4"}')
    shape = ("--input-shape", "1x3x8x8")
    assert run("compress", "state.pt", *common, *shape, "--structures", "s.json").code == 0
    assert run("export", "state.kron.pt", "-f", "onnx", *common).code == 0
    verify = ("verify", "state.kron.onnx", "--reference", "state.kron.pt", *common)

    result = run(*verify, "--layerwise", "--original", "state.pt", "--bundle", "report", "--json")
    assert (result.code, result.errors) == (0, [])
    assert "attributing 0/4" in result.err and "attributing 4/4" in result.err
    report = strict(result.out)
    assert report["passed"] and report["bundle"] == "report"
    rows = report["layerwise"]["layers"]
    assert [(row["layer"], row["kind"], row["status"]) for row in rows] == [
        ("0", "Conv2d", "agrees"),
        ("2", "KroneckerConv2d", "agrees"),
        ("5", "Linear", "agrees"),
    ]
    assert [row["approximation"] > 0 for row in rows] == [False, True, False]
    assert report["layerwise"]["totals"]["approximation"] > 1e-3 > report["layerwise"]["totals"]["runtime"]
    assert subprocess.run([sys.executable, "report/reproduce.py"], check=False).returncode == 0

    again = (*verify, "--layerwise", "--bundle", "report")
    assert run(*again).errors == ["error: report exists; use --force to replace it"]
    assert run(*verify, "--original", "state.pt").errors == [
        "error: --original is compared layer by layer: add --layerwise"
    ]
    state = torch.load("state.kron.pt")
    state["state"]["2.factors.0"][0, 0, 0, 0] += 0.5
    torch.save(state, "state.kron.pt")
    result = run(*again, "--force")
    assert (result.code, result.errors) == (4, [])
    assert "the artifact departs at layer '2' (KroneckerConv2d, 16x1x3x1[r] *" in result.out
    assert result.out.splitlines()[-1] == "report  reproduce with: python report/reproduce.py"
    assert subprocess.run([sys.executable, "report/reproduce.py"], check=False).returncode == 1


def test_compress_by_a_method_and_inspect(folder: Path, run: Run) -> None:
    common = ("state.pt", "--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8", "--json")
    result = run("compress", *common, "--ratio", 2.5, "--method", "tucker", "--max-factors", 3)
    assert result.code == 0
    report = strict(result.out)
    assert report["ratio"] >= 2.5
    assert report["search"]["method"] == "tucker" and report["search"]["structures"] > 50
    structures = {row["name"]: row["structure"] for row in report["layers"] if row["structure"]}
    assert "2" in structures and all(
        Structure.parse(text).pattern == "tucker" for text in structures.values()
    )
    inspected = run("inspect", "state.kron.pt", "--factory", "networks_of_a_user:build").out
    for row in report["layers"]:
        (line,) = [line for line in inspected.splitlines() if line.startswith(f"{row['name']} ")]
        assert (row["structure"] or "dense") in line

    (folder / "s.json").write_text(json.dumps(structures))
    result = run("compress", *common, "--structures", "s.json", "-o", "again.pt")
    assert result.code == 0
    again = strict(result.out)
    assert again["search"] is None
    assert [row["structure"] for row in again["layers"]] == [row["structure"] for row in report["layers"]]
    assert again["parameters"] == report["parameters"]

    result = run("compress", *common[:-1], "--ratio", 12, "--method", "sekron", "--max-factors", 4, "--force")
    assert re.search(
        r"^chosen among [\d,]+ structures \(method sekron, at most 4 factors\)$", result.out, re.MULTILINE
    )
    result = run("compress", *common, "--ratio", 2, "--method", "svd")
    assert result.code == 2 and "'svd' is not one of" in result.err


def test_help_of_compress_says_what_is_searched_and_what_is_left_out(run: Run) -> None:
    text = " ".join(run("compress", "--help").out.split())
    for method in get_args(Method):
        assert re.search(rf"[ ,]{method}(, \w+)?: ", text), method
    for number, what in (
        (candidates.WIDEST, "more than {} entries"),
        (methods.FAMILIES, "the {} shapes of most equal factors"),
        (methods.SINGLE_RANKS, "at most {} ranks"),
        (candidates.POLISHED, "at most {} for a layer"),
        (methods.RANKS, "at most {} for a label"),
        (methods.COMBINATIONS, "{} combinations for a shape"),
    ):
        assert what.format(number) in text
    assert text.count("Left out: ") == 5
    assert '{"layer": "4x4x3x1[r] *' in text


def test_a_program_of_torch_export_needs_no_factory(folder: Path, run: Run) -> None:
    import networks_of_a_user  # type: ignore[import-not-found]

    program = torch.export.export(networks_of_a_user.build().eval(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, folder / "net.pt2")
    result = run("compress", "net.pt2", "--ratio", 2, "-o", "small.pt", "--json")
    assert result.code == 0
    assert strict(result.out)["ratio"] >= 2
    result = run("export", "small.pt", "-f", "onnx", "-f", "tflite", "--json")
    assert result.code == 0
    for report in strict(result.out):
        assert report["manifest"]["factory"] is None
        assert list(report["manifest"]["layers"]) == ["2"]


def test_options_of_export(folder: Path, run: Run) -> None:
    common = ("state.pt", "--factory", "networks_of_a_user:build", "--input-shape", "2,3,8,8", "--no-verify")
    result = run("export", *common, "-o", "a.onnx", "--opset", 20, "--plan", "dense", "--json")
    [report] = strict(result.out)
    assert report["parity"] is None
    assert report["manifest"]["options"] == {
        "plan": "dense",
        "guard": "latency",
        "threads": 1,
        "opset": 20,
        "dynamic_batch": False,
        "layout": None,
        "at_load": False,
        "cpu": "x86-64",
        "precision": "fp32",
        "io": "float",
        "rebalance": False,
        "int8_min_sqnr": None,
    }
    assert report["manifest"]["inputs"] == [{"name": "input", "shape": [2, 3, 8, 8], "dtype": "float32"}]
    result = run("export", *common, "-f", "onnx", "-f", "tflite", "--layout", "nchw", "--opset", 19, "--json")
    onnx, tflite = (report["manifest"] for report in strict(result.out))
    assert (onnx["options"]["opset"], onnx["layout"]) == (19, "nchw")
    assert (tflite["options"]["opset"], tflite["layout"]) == (None, "nchw")


def test_to_compute_in_half_precision(folder: Path, run: Run) -> None:
    options = ("--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8")
    both = ("-f", "onnx", "-f", "tflite")
    result = run("export", "state.pt", *options, *both, "--precision", "fp16-compute", "--rtol", 2e-3)
    assert result.code == 0 and result.out.count(", fp16-compute, 0 compressed layers") == 2
    for name in ("state.onnx", "state.tflite"):
        told = "\nprecision fp16-compute, computed in fp16 where the runtime has kernels for it\n"
        assert told in run("inspect", name).out
        assert run("verify", name, "--reference", "state.pt", *options, "--rtol", 2e-3).code == 0
    assert "(atol=0, rtol=0.01)" in run("verify", name, "--reference", "state.pt", *options).out


def test_half_precision(folder: Path, run: Run) -> None:
    options = ("--factory", "networks_of_a_user:build")
    result = run(
        "export", "state.pt", *options, "--input-shape", "1,3,8,8", "-o", "a.onnx", "--precision", "fp16"
    )
    assert result.code == 0 and ", fp16, 0 compressed layers" in result.out
    assert "parity passed: 3 compared (atol=0, rtol=0.002)" in result.out
    assert "\nprecision fp16, computed in fp32\n" in run("inspect", "a.onnx").out
    result = run("verify", "a.onnx", "--reference", "state.pt", *options)
    assert result.code == 0 and "(atol=0, rtol=0.002)" in result.out
    assert run("verify", "a.onnx", "--reference", "state.pt", *options, "--rtol", "1e-6").code == 4
    assert run("bench", "a.onnx", "--seconds", 0).code == 0
    result = run("profile", "a.onnx", "--reference", "state.pt", *options, "--seconds", 0)
    assert result.code == 0 and "(atol=0, rtol=0.002)" in result.out


def test_data_to_verify_on(folder: Path, run: Run) -> None:
    common = ("--factory", "networks_of_a_user:build")
    np.savez(folder / "data.npz", np.random.default_rng(0).random((5, 3, 8, 8), np.float32))
    options = ("--data", "data.npz", "--calibration-samples", 3)
    result = run("export", "state.pt", *common, "--input-shape", "1,3,8,8", "-o", "a.onnx", *options)
    assert result.code == 0 and "parity passed: 4 compared" in result.out
    result = run("verify", "a.onnx", "--reference", "state.pt", *common, *options)
    assert result.code == 0 and "3 samples of data.npz" in result.out
    result = run("verify", "a.onnx", "--reference", "state.pt", *common, "--data", folder)
    assert result.code == 2 and "the model file does not say how to prepare them" in result.err


def test_images_are_prepared_as_the_model_file_says(folder: Path, run: Run) -> None:
    from networks_of_a_user import build

    metadata = {"preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}
    factory = "networks_of_a_user:build"
    edgekron.save(build(), "m.pt", example_inputs=torch.zeros(1, 3, 8, 8), factory=factory, metadata=metadata)
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 12, 3), np.uint8)
    for k, each in enumerate(pixels):
        Image.fromarray(each).save(folder / "images" / f"{k}.png")
    options = ("--factory", factory, "--precision", "int8", "--data", "images", "--min-sqnr", 15)
    result = run("export", "m.pt", "-f", "onnx", *options)
    assert result.code == 0 and "'4 samples of images'" in result.out


def test_int8(folder: Path, run: Run) -> None:
    common = ("--factory", "networks_of_a_user:build")
    export = ("export", "state.pt", *common, "--input-shape", "1,3,8,8", "--precision", "int8", "-o")
    result = run(*export, "a.onnx")
    assert result.code == 2 and "int8 needs inputs like those the network will see" in result.err
    np.savez(folder / "data.npz", np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    assert run(*export, "a.onnx", "--data", "data.npz", "--io", "int8").code == 2
    result = run(*export, "a.onnx", "--data", "data.npz", "--min-sqnr", 90)
    assert result.code == 4 and "SQNR >= 90 dB" in result.err and (folder / "a.onnx.failed").exists()
    [error] = result.errors
    remedy = re.search(
        r"the layer with the least own SQNR is \w+ (\d+)\.\d dB: --int8-min-sqnr (\d+) keeps", error
    )
    assert remedy and int(remedy[2]) == int(remedy[1]) + 1
    result = run(*export, "a.onnx", "--data", "data.npz", "--min-sqnr", 20, "--json")
    [report] = strict(result.out)
    assert (report["manifest"]["options"]["precision"], report["parity"]["passed"]) == ("int8", True)
    [row] = report["parity"]["rows"]
    assert row["input"] == "8 samples of data.npz" and row["shape"] == [8, 4] and row["sqnr"] > 20
    verify = ("verify", "a.onnx", "--reference", "state.pt", *common, "--min-sqnr", 20)
    assert run(*verify, "--data", "data.npz").code == 0
    result = run(*verify)
    assert result.code == 2 and "compared on inputs like those it is for, not on random ones" in result.err
    assert "\nprecision int8\n" in run("inspect", "a.onnx").out
    assert run("profile", "a.onnx", "--seconds", 0).code == 0


def test_layers_in_float(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekron.verbs.export.SPEED_SECONDS", 0.0)
    np.savez(folder / "data.npz", np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    common = ("--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8", "--data", "data.npz")
    export = ("export", "state.pt", *common, "-o", "a.onnx", "--min-sqnr", 15)
    assert run(*export, "--int8-min-sqnr", 99).code == 2
    result = run(*export, "--precision", "int8", "--int8-min-sqnr", 99, "--json")
    [report] = strict(result.out)
    rows = report["noises"]["layers"]
    assert rows and all(row["computed_in"] == "float" and row["own_sqnr"] < 99 for row in rows)
    assert report["manifest"]["float_layers"] == [row["layer"] for row in rows]
    assert report["noises"]["speed"]["low"] <= report["noises"]["speed"]["ratio"]
    assert (
        f"\nprecision int8, in float {', '.join(row['layer'] for row in rows)}\n"
        in run("inspect", "a.onnx").out
    )


def test_full_delegation_can_be_required(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    left = DelegationReport("kernels", 4, (Undelegated("Conv", "y", "some-code", "do this"),))
    monkeypatch.setattr("edgekron_onnx.runtime.OnnxRuntime.delegation", lambda self, path: left)
    common = ("state.pt", "--factory", "networks_of_a_user:build", "--input-shape", "1,3,8,8", "--no-verify")
    before = sorted(os.listdir(folder))
    result = run("export", *common, "-o", "a.onnx", "--require-full-delegation")
    assert (result.code, result.out) == (3, "")
    assert result.errors == [
        "error: full delegation is required, but only 3 of 4 operators run on kernels: "
        "1 x Conv not on kernels [some-code] at y: do this"
    ]
    assert sorted(os.listdir(folder)) == before
    result = run("export", *common, "-o", "a.onnx")
    assert result.code == 0
    assert "warning: 1 x Conv not on kernels [some-code] at y: do this" in result.out.splitlines()
    result = run("inspect", "a.onnx")
    assert "3 of 4 operators run on kernels" in result.out.splitlines()
    result = run("inspect", "a.onnx", "--json")
    assert strict(result.out)["delegation"] == left.to_json()


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("doctor", "--json")
    assert result.code == 0
    assert strict(result.out)["healthy"] is True
    sick = DoctorReport({"cpu": "x"}, (Finding("package onnx", "missing", "pip install 'edgekron[onnx]'"),))
    monkeypatch.setattr("edgekron.verbs.doctor.doctor", lambda: sick)
    result = run("doctor")
    assert result.code == 2
    assert "pip install 'edgekron[onnx]'" in result.out
    assert result.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example_and_every_option_a_text(verb: str, run: Run) -> None:
    for flag in ("--help", "-h"):
        result = run(verb, flag)
        assert (result.code, result.err) == (0, "")
        text = " ".join(result.out.split())
        assert "--json" in text
        if verb != "doctor":  # which has no arguments
            assert re.search(rf"Examples? edgekron {verb} ", text)


def test_help_lists_the_verbs_and_the_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert [line.split()[1] for line in result.out.splitlines() if re.match(r"│ [a-z]+ {2,}\S", line)] == [
        *VERBS
    ]
    text = " ".join(result.out.split())
    assert "Exit codes: 0 ok, 1 internal error, 2 usage, 3 unsupported layer or operator" in text
    assert "4 parity failed, 6 device unavailable, 7 unsafe file refused" in text
    assert "Usage: edgekron" in run().out


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("edgekron")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgekron {edgekron.__version__}\n"
    done = subprocess.run([command, "inspect", "none.onnx"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no such file: none.onnx\n")
