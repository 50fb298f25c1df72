"""fxsnn: an ordinary trained PyTorch CNN in, a low-bit spiking network for a chip out.

import fxsnn

report = fxsnn.check(model, target="hw_v1.0", bits=2)
snn = fxsnn.convert(model, target="hw_v1.0", bits=2, calibration_data=loader)
logits = snn(images)
"""

from fxsnn.checking import check
from fxsnn.chip import FitReport, HardwareTarget, Registers, Violation, get_target
from fxsnn.compiler import convert, pipeline
from fxsnn.data import datasets
from fxsnn.display import plots
from fxsnn.errors import (
    AccuracyWarning,
    CalibrationWarning,
    DataError,
    DistributedError,
    EngineWarning,
    FileError,
    Finding,
    FxsnnError,
    FxsnnWarning,
    GraphError,
    InterchangeWarning,
    ModelError,
    OptionError,
    PipelineError,
    PluginError,
    TargetError,
    TrainingError,
    UnknownName,
)
from fxsnn.file import Verification
from fxsnn.graph import Graph, capture
from fxsnn.insight import ErrorBudget, Sweep, error_budget, layer_activations, stage_networks, sweep
from fxsnn.interchange import from_nir, model_from_nir, nir_input, to_nir
from fxsnn.layers import SpikeAvgPool2d, SpikeConv2d, SpikeLinear, SpikeReLU, spike_avg_pooling
from fxsnn.loading import load, verify
from fxsnn.network import SpikingNetwork
from fxsnn.passes import Finetune
from fxsnn.processes import across_processes
from fxsnn.rewriting import Pass, Pipeline, Step
from fxsnn.simulation import Run
from fxsnn.streaming import Stream
from fxsnn.version import __version__

__all__ = [
    "AccuracyWarning",
    "CalibrationWarning",
    "DataError",
    "DistributedError",
    "EngineWarning",
    "ErrorBudget",
    "FileError",
    "Finding",
    "Finetune",
    "FitReport",
    "FxsnnError",
    "FxsnnWarning",
    "Graph",
    "GraphError",
    "HardwareTarget",
    "InterchangeWarning",
    "ModelError",
    "OptionError",
    "Pass",
    "Pipeline",
    "PipelineError",
    "PluginError",
    "Registers",
    "Run",
    "SpikeAvgPool2d",
    "SpikeConv2d",
    "SpikeLinear",
    "SpikeReLU",
    "SpikingNetwork",
    "Step",
    "Stream",
    "Sweep",
    "TargetError",
    "TrainingError",
    "UnknownName",
    "Verification",
    "Violation",
    "__version__",
    "across_processes",
    "capture",
    "check",
    "convert",
    "datasets",
    "error_budget",
    "from_nir",
    "get_target",
    "layer_activations",
    "load",
    "model_from_nir",
    "nir_input",
    "pipeline",
    "plots",
    "spike_avg_pooling",
    "stage_networks",
    "sweep",
    "to_nir",
    "verify",
]
