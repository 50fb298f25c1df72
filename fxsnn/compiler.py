"""The compiler: the usual passes in their order, and `convert`."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.checking import fit_of, rewrite_in_front
from fxsnn.chip import AUTOMATIC, Bits, HardwareTarget, get_target, whole_number
from fxsnn.choices import CORRECTIONS, INPUTS, corrected_parts, form_of, frames_in, keeps_poolings, named
from fxsnn.data import Remembered, example_of, sample_of
from fxsnn.engine import check_engine
from fxsnn.errors import AccuracyWarning, DataError, FxsnnWarning, ModelError, OptionError, TargetError, warn
from fxsnn.graph import capture_untried, require_agreement
from fxsnn.layers import ImageForm, require_images
from fxsnn.network import SpikingNetwork
from fxsnn.network_arguments import CODES_CHOSEN
from fxsnn.numerics import Dynamics
from fxsnn.options import is_one_of, require_flag
from fxsnn.passes import (
    CalibrateThresholds,
    CheckConvRelu,
    CheckLimits,
    CorrectLayers,
    Finetune,
    FoldBatchNorm,
    QuantizeWeights,
    SubstituteSpikes,
    TakeFrames,
    WeighPoolings,
    front_end,
)
from fxsnn.processes import sharing_errors
from fxsnn.rewriting import Pass, Pipeline, require_example
from fxsnn.storage import require_place
from fxsnn.training import PARTS
from fxsnn.version import __version__

_VERIFIED = 20
"""Steps for which the engine is compared with PyTorch: more than engines run at a time."""

_BY_PERCENTILE = ("percentile", AUTOMATIC)
"""Methods of calibration that a percentile has a say in."""
_TIMESTEPS = 16


@neutral()
def pipeline(
    *,
    target: str | HardwareTarget,
    bits: Bits,
    timesteps: int | None = None,
    reset: str = "subtraction",
    initial_membrane: float = 0.5,
    input: str = INPUTS[0],
    calibration_data: Any = None,
    calibration: str = "auto",
    percentile: float = 99.9,
    input_bits: int | None = 8,
    per_channel: bool = True,
    codebook: str = "auto",
    max_pool: str | None = None,
    average_pool: str = "auto",
    correction: str | None = "auto",
    finetune: Finetune | None = None,
    example: Tensor | None = None,
    progress: bool = False,
) -> Pipeline:
    """The passes that `convert` runs, with the same options.

    Examples:
        >>> print(pipeline(target="hw_v1.0", bits=2).until("fold-batch-norm"))
        Canonicalize()
        RecognizeActivations()
        DropIdleReLUs()
        FoldConstants()
        GatherWeights()
        RecognizeMixing()
        RecognizePoolings()
        RecognizeAffine()
        LiftDimensions()
        SeparateCalls()
        RewriteTransposed()
        RecognizeSums()
        RecognizeWiring()
        FixWindows()
        AbsorbPadding()
        MoveAffine()
        MergeLinear()
        GiveAffineNeurons(convolutions=False)
        CheckConvRelu()
        CheckLimits(bits=2)
        FoldBatchNorm()

    Raises:
        OptionError: an option has a value that is not allowed.
        PluginError: the target of a third party is broken.
    """
    chip = get_target(target)
    bits = chip.require_choice(bits)
    progress = require_flag("progress", progress)
    form = form_of(input)
    seen = example_of(calibration_data, form)
    plain = keeps_poolings(average_pool)
    steps = timesteps if form.frames is None else frames_in(timesteps, seen, calibration_data, finetune, form)
    dynamics = Dynamics(_TIMESTEPS if steps is None else steps, reset, initial_membrane)
    passes: list[Pass] = [
        *front_end(chip, max_pool),
        CheckConvRelu(),
        CheckLimits(chip, bits),
        FoldBatchNorm(),
        *(() if form.frames is None else (TakeFrames(),)),
        *(() if plain or calibration_data is None else (WeighPoolings(chip, bits),)),
        CalibrateThresholds(
            calibration_data, calibration, percentile, dynamics.timesteps, input_bits, progress, reset, initial_membrane
        ),
        QuantizeWeights(bits, per_channel, chip, chip.require_codebook(codebook)),
    ]
    if finetune is not None and not isinstance(finetune, Finetune):
        raise OptionError(f"finetune is a {type(finetune).__name__}; expected fxsnn.Finetune(data, ...), or None")
    parts, images = corrected_parts(correction, calibration_data, finetune, form)
    if parts:
        weights, biases, thresholds = (part in parts for part in PARTS)
        passes.append(CorrectLayers(images, chip, weights, biases, thresholds, **asdict(dynamics), progress=progress))
    if finetune is not None:
        finetune = replace(finetune, progress=finetune.progress or progress)
        passes.append(_completed(finetune, target=chip, **asdict(dynamics)))
    passes.append(SubstituteSpikes(chip, dynamics.timesteps, reset, initial_membrane))
    stills = seen if seen is None or form.frames is None else seen.mean(1)
    return Pipeline(tuple(passes), stills if example is None else example)


def _completed(finetune: Finetune, **options: Any) -> Finetune:
    """The pass, with those of its options set that are `None`."""
    return replace(finetune, **{name: value for name, value in options.items() if getattr(finetune, name) is None})


@neutral()
def convert(
    model: nn.Module,
    *,
    target: str | HardwareTarget,
    bits: Bits,
    timesteps: int | None = None,
    reset: str = "subtraction",
    initial_membrane: float = 0.5,
    input: str = INPUTS[0],
    calibration_data: Any = None,
    calibration: str = "auto",
    percentile: float = 99.9,
    input_bits: int | None = 8,
    per_channel: bool = True,
    codebook: str = "auto",
    max_pool: str | None = None,
    average_pool: str = "auto",
    correction: str | None = "auto",
    finetune: Finetune | None = None,
    example: Tensor | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> SpikingNetwork:
    """A trained network as a spiking network for a chip; the model is not changed.

    Args:
        model: an ordinary network of convolutions, batch norms, ReLUs, clipped or not, average pooling and fully
            connected layers.
        target: name of a target, or a `HardwareTarget`.
        bits: weight bits, 1 to 4. 1 bit needs `finetune` to be accurate, and 2 bits gain by it. "auto" gives every
            layer the widest that the target allows it; a mapping from layers to numbers, such as `{"conv1": 4}`, sets
            those and leaves the others automatic. `check` and the report show what each layer has, and why.
        timesteps: T; it can be changed afterwards. `None`: 16, or as many as images have frames.
        reset: "subtraction" or "zero".
        initial_membrane: where membranes start, as a share of the threshold: 0.5 or 0.
        input: "constant": every step reads the same image; "frames": images change over time, [N, T, C, H, W] (signals
            [N, T, C, L], vectors [N, T, F]), and each step reads a frame. The model itself takes still ones: what the
            spiking network makes of frames is near what the model makes of their mean, see `fxsnn.passes.TakeFrames`.
        calibration_data: images [N, C, H, W], signals [N, C, L] or vectors [N, F], as the network takes them, or such
            with frames; an iterable of batches, or a `DataLoader` of (images, labels). `None`: thresholds are derived
            without data, with a warning.
        calibration: how thresholds are chosen: "mse", for the rates of T steps, "percentile", or "auto", the smaller
            one of these two; or "max", see `fxsnn.passes.CalibrateThresholds`.
        percentile: for the method of that name, and "auto".
        input_bits: width of the signed integer input, or `None` for an analog input.
        per_channel: one weight step per output channel, or one per layer.
        codebook: what the levels of n-bit weights may be, of what the target has: "symmetric" ones, "full" for those of
            two's complement too, "free" for any small whole numbers. "auto": whatever the target has. Each layer gets
            those of least squared error, see `fxsnn.passes.QuantizeWeights`.
        max_pool: what takes the place of max pooling between layers: "rectifiers" keeps the function, "any" comes near
            it with fewer neurons, "average" and "stride" do not and need training, see `fxsnn.passes.ReplaceMaxPool`.
            `None`: it is refused.
        average_pool: "auto": with calibration data, and where the chip has such convolutions, average poolings between
            layers are convolutions of equal weights, whose thresholds and biases are calibrated and corrected, see
            `fxsnn.passes.WeighPoolings`. "plain": a pooling's threshold is the size of its window.
        correction: "weights", "biases", "thresholds", two of them joined by "+", or "all": suit them to low bits and
            spikes without training, from the calibration data, see `fxsnn.passes.CorrectLayers`; "both" stands for
            "biases+thresholds". "auto": "weights+biases", on the first 256 of the calibration images, if they can be
            gone through again; before fine-tuning, which starts better from there, on the first 1,000, or without them
            of the images that it trains on. `None`: nothing.
        finetune: train the n-bit weights, see `fxsnn.Finetune`.
        example: images on which rewrites are verified, as the model takes them; `None`: calibration images, or random
            ones of a size that the network accepts.
        engine: what runs the spiking network, one of `fxsnn.engine.ENGINES`; all give the same spikes. It can be
            changed afterwards.
        progress: show progress bars.

    Raises:
        ModelError: the network cannot be converted; all reasons at once.
        TargetError: it does not fit the chip; carries the report of `check`.
        OptionError: an option has a value that is not allowed.
        DataError: the data are empty or do not fit the network.
        TrainingError: fine-tuning cannot go on.
        FileError: the checkpoint of fine-tuning is of another call, or cannot be read or written.
        PluginError: the target of a third party is broken.
    """
    chip = get_target(target)
    check_engine(engine)
    once = isinstance(calibration_data, Iterator) and not is_one_of(correction, CORRECTIONS)
    form = form_of(input)
    seen = Remembered(calibration_data, form) if once else None
    passes = pipeline(
        target=chip,
        bits=bits,
        timesteps=timesteps,
        reset=reset,
        initial_membrane=initial_membrane,
        input=input,
        calibration_data=calibration_data if seen is None else seen,
        calibration=calibration,
        percentile=percentile,
        input_bits=input_bits,
        per_channel=per_channel,
        codebook=codebook,
        max_pool=max_pool,
        average_pool=average_pool,
        correction=correction,
        finetune=finetune,
        example=example,
        progress=progress,
    )
    if finetune is not None and finetune.checkpoint is not None:
        with sharing_errors():
            require_place(finetune.checkpoint, "checkpoint")
    if passes.example is not None:
        if form.frames is not None and not ImageForm().takes(passes.example.dim()):
            raise OptionError(
                f"example has shape {list(passes.example.shape)}; expected still images, as the model takes them, also "
                "of a network that is to read frames: give their mean, frames.mean(1)"
            )
        require_images(passes.example, ImageForm())
    graph = capture_untried(model, None if passes.example is None else tuple(passes.example.shape[1:]))
    if form.frames is not None and (moving := example_of(calibration_data, form)) is not None:
        require_images(moving, replace(graph.image_form, frames=0))
    report = fit_of(graph.copy(), chip, chip.require_choice(bits), passes.example, front_end(chip, max_pool))
    if not report.fits:
        raise TargetError(report.problems, report)
    if report.findings:
        raise ModelError(report.findings)
    if report.unwritable:
        told = "; ".join(map(str, report.unwritable))
        warn(f"the spiking network cannot be saved: {told}", FxsnnWarning)
    narrowest = min(row.bits for row in report.layers)
    chosen = any(isinstance(one, CorrectLayers) and one.weights and one.biases for one in passes.passes)
    if narrowest <= (1 if chosen else 2) and finetune is None:
        cheaper = "" if correction else '; correction="auto" helps in seconds, without training'
        warn(
            f"{narrowest}-bit weights without fine-tuning lose much of the accuracy; "
            f"pass finetune=fxsnn.Finetune(data), or --finetune-epochs on the command line{cheaper}",
            AccuracyWarning,
        )
    if passes.example is not None:
        require_agreement(model, graph, passes.example)
    if example is not None:
        require_example(example, graph)
    if passes.example is None:
        passes = replace(passes, example=rewrite_in_front(graph.copy(), front_end(chip, max_pool)).example_input())
        if passes.example is not None:
            with suppress(DataError):  # the size was tried on the graph alone
                require_agreement(model, graph, passes.example)
    size = None if passes.example is None else tuple(passes.example.shape[1:])
    choice = chip.require_choice(bits)
    options = {
        "target": chip.name,
        "bits": dict(choice) if isinstance(choice, Mapping) else choice,
        **asdict(_dynamics_of(passes)),
        **({} if form.frames is None else {"input": input}),
        "calibration": None if calibration_data is None else calibration,
        "percentile": float(percentile) if calibration_data is not None and calibration in _BY_PERCENTILE else None,
        "input_bits": whole_number(input_bits),
        "per_channel": bool(per_channel),
        "codebook": chip.require_codebook(codebook),
        **({} if max_pool is None else {"max_pool": max_pool}),
        **({} if average_pool == AUTOMATIC else {"average_pool": average_pool}),
        "correction": next((named(one) for one in passes.passes if isinstance(one, CorrectLayers)), None),
        "finetune": None if finetune is None else finetune.describe(),
    }
    provenance = {"versions": _versions(), "options": options, "passes": [one.describe() for one in passes.passes]}
    converted = passes.run(graph)
    if (layers := converted.module.meta.get(CODES_CHOSEN)) is not None:
        provenance[CODES_CHOSEN] = layers
    sample = sample_of(calibration_data, form) if seen is None else seen.sample
    snn = SpikingNetwork(converted, chip, engine, sample, size, provenance)
    images = passes.example if sample is None else sample
    if sample is None and images is not None and form.frames is not None:
        images = images.unsqueeze(1)
    if images is not None:
        _verify_engine(snn, images[:2].to(snn.device))
    return snn


def _dynamics_of(passes: Pipeline) -> Dynamics:
    """What the spiking network will have."""
    last = passes.passes[-1]
    assert isinstance(last, SubstituteSpikes)
    return last.dynamics()


def _verify_engine(snn: SpikingNetwork, images: Tensor) -> None:
    """See `SpikingNetwork.verify_engine`; for so many steps that memory does not grow with T."""
    own, snn.timesteps = snn.timesteps, min(snn.timesteps, _VERIFIED)
    try:
        with suppress(OptionError):  # an engine that was asked for and cannot run here says so when it is called
            snn.verify_engine(snn.graph.image_form.lasting(images))
    finally:
        snn.timesteps = own


def _versions() -> dict[str, str]:
    """What made a network."""
    return {"fxsnn": __version__, "torch": torch.__version__, "python": platform.python_version()}
