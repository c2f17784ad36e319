"""Quantization: what a lowered network is given before the tool of a format makes it int8."""

from __future__ import annotations

from torch import nn

from edgekron.between_layers import equalise_layers
from edgekron.calibration import Calibration
from edgekron.equalisation import equalise
from edgekron.network import Inputs
from edgekron.norms import convolve_norms
from edgekron.rounding import round_weights


def prepare(
    network: nn.Module, inputs: Inputs, calibration: Calibration, batch: int, *, rebalance: bool
) -> nn.Module:
    """The network with its free scales chosen if asked to, its weights rounded and its biases corrected.

    network: lowered, for this alone: it is changed in place and given back.
    inputs: that it can be traced with; batch: samples that it takes at once.
    """
    network = convolve_norms(network, inputs)
    if rebalance:
        equalise_layers(network, inputs, calibration, batch)
        equalise(network, calibration, batch)
    round_weights(network, inputs, calibration, batch)
    return network
