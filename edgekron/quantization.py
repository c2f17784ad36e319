"""Quantization: what a lowered network is given before the tool of a format makes it int8."""

from __future__ import annotations

from torch import nn

from edgekron.between_layers import equalise_layers
from edgekron.calibration import Calibration
from edgekron.equalisation import equalise
from edgekron.exporter import ExportOptions
from edgekron.layer_noise import LayerNoise, layer_noise, layer_weights, network_layers
from edgekron.network import Inputs
from edgekron.norms import convolve_norms
from edgekron.rounding import round_weights


def prepare(
    network: nn.Module, inputs: Inputs, calibration: Calibration, options: ExportOptions
) -> tuple[nn.Module, tuple[LayerNoise, ...]]:
    """The network with its free scales chosen if asked to, its weights rounded and its biases corrected.

    network: lowered, for this alone: it is changed in place and given back; inputs: that it can be traced
    with. Layers that stay in float keep their weights. Also gives what int8 costs each layer, its weights
    rounded to the nearest.
    """
    batch = options.batch(inputs)
    network = convolve_norms(network, inputs)
    if options.rebalance:
        equalise_layers(network, inputs, calibration, batch)
        equalise(network, calibration, batch)
    noise = layer_noise(network, calibration, batch, options.int8_min_sqnr)
    layers = network_layers(network)
    floats = [layer for each in noise if each.stays_float for layer in layers[each.layer]]
    kept = [weight for layer in floats for weight in layer_weights(layer)]
    round_weights(network, inputs, calibration, batch, kept)
    return network, noise
