"""fxsnn: an ordinary trained PyTorch CNN in, a low-bit spiking network for a chip out.

import fxsnn

report = fxsnn.check(model, target="hw_v1.0", bits=2)
snn = fxsnn.convert(model, target="hw_v1.0", bits=2, calibration_data=loader)
logits = snn(images)
"""

from fxsnn import datasets
from fxsnn.budget import ErrorBudget, error_budget
from fxsnn.compiler import check, convert, pipeline
from fxsnn.effects import layer_activations, stage_networks
from fxsnn.errors import (
    AccuracyWarning,
    CalibrationWarning,
    DataError,
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
from fxsnn.golden import Verification
from fxsnn.graph import Graph
from fxsnn.interchange import from_nir, nir_input, to_nir
from fxsnn.layers import SpikeAvgPool2d, SpikeConv2d, SpikeLinear, SpikeReLU, spike_avg_pooling
from fxsnn.loading import load, verify
from fxsnn.network import SpikingNetwork
from fxsnn.nir_model import model_from_nir
from fxsnn.passes import Finetune
from fxsnn.plugins import get_target
from fxsnn.simulation import Run
from fxsnn.stages import Pass, Pipeline, Step
from fxsnn.sweeps import Sweep, sweep
from fxsnn.target import FitReport, HardwareTarget, Registers, Violation
from fxsnn.tracing import capture
from fxsnn.version import __version__

__all__ = [
    "AccuracyWarning",
    "CalibrationWarning",
    "DataError",
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
    "Sweep",
    "TargetError",
    "TrainingError",
    "UnknownName",
    "Verification",
    "Violation",
    "__version__",
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
    "spike_avg_pooling",
    "stage_networks",
    "sweep",
    "to_nir",
    "verify",
]
