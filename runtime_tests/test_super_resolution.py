"""VDSR on photographs: every artifact gives the PSNR that PyTorch gives, to 0.001 dB.

Needs the images and weights of EDGEKRON_ASSETS. Without --full: gkpd, the smallest image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekron
from edgekron.network import as_inputs
from edgekron.runtime import Runtime
from edgekron.verbs.trials import Trial, session_outputs
from runtime_tests.matrix import STRUCTURES
from runtime_tests.networks import ASSETS, NETWORKS
from runtime_tests.structures import PATTERNS, structured
from runtime_tests.super_resolution import HALO, TILE, Plane, in_tiles, pairs, psnr

FOLDER = ASSETS / "super_resolution"
SHAPE = (1, 1, TILE, TILE)
PUBLISHED = {"Set5": 37.62, "Set14": 33.08}
"""dB of the dense network with these images and weights, run whole."""


def torch_run(model: nn.Module) -> Callable[[Plane], Plane]:
    def run(x: Plane) -> Plane:
        with torch.no_grad():
            y: Plane = model(torch.from_numpy(x)[None, None])[0, 0].numpy()
        return y

    return run


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs images and weights: {FOLDER} is missing")
@pytest.mark.parametrize("structure", STRUCTURES)
def test_psnr(
    structure: str, tmp_path: Path, runtimes: dict[str, Runtime], pytestconfig: pytest.Config
) -> None:
    full = pytestconfig.option.full
    if not full and structure != "gkpd":
        pytest.skip("run it with --full")
    assert NETWORKS["vdsr"].trained
    model = NETWORKS["vdsr"].model()
    for pattern in PATTERNS:
        if pattern == structure:
            model = structured(model, as_inputs(torch.zeros(SHAPE)), pattern)
    sets = {name: list(pairs(FOLDER / name)) for name in PUBLISHED}
    if not full:
        sets = {"Set5": [min(sets["Set5"], key=lambda pair: pair[0].size)]}
    expected = {
        name: [psnr(high, in_tiles(torch_run(model), low)) for high, low in s] for name, s in sets.items()
    }
    if full and structure == "dense":
        for name, published in PUBLISHED.items():
            assert np.mean(expected[name]) == pytest.approx(published, abs=0.006)
    for format in ("onnx", "tflite"):
        path = tmp_path / f"m.{format}"
        layout = edgekron.export(model, path, example_inputs=torch.zeros(SHAPE), guard="off").manifest.layout
        for runtime in [each for each in runtimes.values() if format in each.formats]:
            session = runtime.open(path)

            def run(x: Plane) -> Plane:
                [[y]] = session_outputs(session, [Trial("tile", (x[None, None],))], layout)  # noqa: B023
                return np.asarray(y[0, 0], np.float32)

            for name, images in sets.items():
                for (high, low), db in zip(images, expected[name], strict=True):
                    assert psnr(high, in_tiles(run, low)) == pytest.approx(db, abs=0.001), (
                        runtime.name,
                        name,
                    )


def test_tiles_give_what_the_whole_image_gives() -> None:
    """A sum over all that VDSR sees of a pixel, with zeros beyond the image."""
    image = np.random.default_rng(0).random((2 * TILE + 3, TILE + 1)).astype(np.float32)

    def box(x: Plane) -> Plane:
        y = torch.from_numpy(x)[None, None].double()
        extent = 2 * HALO + 1
        weight = torch.ones(1, 1, extent, extent, dtype=torch.float64)
        return np.asarray(torch.nn.functional.conv2d(y, weight, padding=HALO)[0, 0].numpy(), np.float32)

    np.testing.assert_allclose(in_tiles(box, image), box(image), rtol=1e-6)
