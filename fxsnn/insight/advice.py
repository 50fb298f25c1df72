"""What would help a layer, by the effect that changes it most."""

from __future__ import annotations

from typing import Any

import torch

from fxsnn.chip import AUTOMATIC
from fxsnn.layers import SpikeAdd, SpikeAnyPool2d, Synapses, geometry_of
from fxsnn.network import SpikingNetwork


def advice_on(layer: str, cause: str, snn: SpikingNetwork) -> str:
    """What would help a layer whose largest effect is `cause`, one of `EFFECTS`."""
    if cause == "clipping":
        return "Raise its threshold: a higher percentile, or calibration='max', on more images"
    module: Any = snn.graph[layer]
    if cause == "weights" and isinstance(module, SpikeAdd):
        return (
            "Its bias was moved, for what the weights of its inputs have lost: look at these, and give them more bits; "
            "it does no harm where the stages keep the accuracy"
        )
    if cause == "weights":
        geometry = geometry_of(module)
        widest = snn.target.bits_of(layer, AUTOMATIC, geometry.kernel_size, geometry.fan_in_channels)
        remedies = [f"give it more bits (the target allows {widest})"] if widest > module.bits else []
        given = snn.provenance.get("options", {})
        if given.get("finetune"):
            more = f"; {remedies[0]}, or fine-tune longer" if remedies else "; fine-tune longer"
            return f"Fine-tuning has moved them, which does no harm where the stages keep the accuracy{more} if not"
        if not given.get("correction"):
            remedies.append("correct the layers (correction='auto', no labels needed)")
        remedies.append("fine-tune (finetune=fxsnn.Finetune(data))")
        return f"Its {module.bits}-bit weights say too little: {', or '.join(remedies)}"
    if cause == "rounding" and (counts := _whole_numbers(snn, layer)):
        return (
            "Its inputs share one grain, in which spikes that are added as they are count whole numbers of "
            f"{min(counts):,}..{max(counts):,}: fine-tune, which has them in the loop "
            "(finetune=fxsnn.Finetune(data)), or use a target with wider codebook entries"
        )
    if cause == "rounding":
        return (
            "Its integers are coarse: fine-tune, which has them in the loop (finetune=fxsnn.Finetune(data)), train it "
            "with a smaller bias if the leak fills its register, or use a target with wider registers"
        )
    if isinstance(module, SpikeAnyPool2d):
        return (
            "It spikes with any neuron of its window, more often than the one that spikes most: fine-tune, which has "
            "that in the loop (finetune=fxsnn.Finetune(data)), or convert with max_pool='rectifiers'"
        )
    start = ["start membranes at half a threshold (initial_membrane=0.5)"] if snn.initial_membrane == 0 else []
    reset = ["reset by subtraction"] if snn.reset == "zero" else []
    spiking = ", spiking_epochs=2" if cause == "timing" else ""
    remedies = [*start, *reset, f"use a larger T than {snn.timesteps}", "fine-tune for this T"]
    why = "Spikes come too unevenly" if cause == "timing" else f"Rates are too coarse at T={snn.timesteps}"
    return f"{why}: {', or '.join(remedies)} (finetune=fxsnn.Finetune(data{spiking}))"


def _whole_numbers(snn: SpikingNetwork, layer: str) -> list[int]:
    """What spikes count that a sum adds as they are; empty of other layers."""
    module: Any = snn.graph[layer]
    if not isinstance(module, SpikeAdd):
        return []
    (node,) = snn.graph.calls(layer)
    as_they_are = [not snn.graph.is_a(read, Synapses) for read in node.all_input_nodes]
    counts: list[int] = module.weights[torch.tensor(as_they_are)].abs().flatten().tolist()
    return counts
