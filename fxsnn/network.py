"""The spiking network that users get: images in, logits out, nothing kept between calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxsnn.ambient import is_recorded, neutral
from fxsnn.chip import HardwareTarget, get_target
from fxsnn.data import accepted, image_batches, own_image_batches
from fxsnn.engine import check_engine, without_engine
from fxsnn.engine.circuit import Broken, Unsupported, circuit_of, watched
from fxsnn.errors import AccuracyWarning, EngineWarning, Finding, ModelError, OptionError, warn
from fxsnn.file import described
from fxsnn.graph import Graph, require_graph
from fxsnn.layers import Decode, Encode, Spiking, check_images, require_images, unlike_calibration
from fxsnn.network_arguments import CODES_CHOSEN, as_provenance, require_image_size, require_spikes
from fxsnn.numerics import Dynamics
from fxsnn.options import require_flag
from fxsnn.processes import sharing_errors
from fxsnn.readout import parts_of
from fxsnn.report import Activity, Meter, Report, report_of
from fxsnn.saving import golden_images, save_network
from fxsnn.simulation import FRAMES_AT_ONCE, Compiled, Run, compiled, logits_after_each_step, logits_of, simulated
from fxsnn.storage import require_place
from fxsnn.streaming import Stream

_Result = TypeVar("_Result")


class SpikingNetwork(nn.Module):
    """A converted network.

    It has no state between calls: membranes live inside one forward pass. Any evaluation loop takes it as it is, and
    the layers of the tail are found under the names they have in the user's network. A state dict has the integers and
    all that belongs to them; T, reset and start of the membranes are settings.

    Args:
        graph: the last graph of a pipeline; its tensors are copied.
        target: the chip it was compiled for, or its name.
        engine: what runs it, one of `fxsnn.engine.ENGINES`; all give the same spikes.
        sample: a few images; the report says what the network does on them.
        image_size: channels, height and width of an image, channels and length of a signal, or features of a vector,
            where there is no sample to tell.
        provenance: where the network comes from, plain data; it is kept in files.

    Raises:
        OptionError: there is no such engine or target; another option has a value that is not allowed.
        DataError: `sample` are no images for the network.
        ModelError: the graph does not spike, or a layer of the user's network has the name of an attribute of this
            class.
    """

    @neutral()
    def __init__(
        self,
        graph: Graph,
        target: str | HardwareTarget,
        engine: str = "auto",
        sample: Tensor | None = None,
        image_size: tuple[int, ...] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_engine(engine)
        own = require_graph(graph).detached()
        require_spikes(own)
        if sample is not None:
            check_images(sample, own.image_form)
        told = as_provenance(provenance)
        if clashes := name_clashes(own):
            raise ModelError(clashes)
        # The modules stand under their own names; the program that calls them is no module of this one.
        object.__setattr__(self, "_graph", own.compiled())
        targets = [str(node.target) for node in own if node.op in ("call_module", "get_attr")]
        for name in dict.fromkeys(target.partition(".")[0] for target in targets):
            if name in own.module._modules:  # all else are tensors of the program itself
                self.add_module(name, own.module.get_submodule(name))
        for name, buffer in own.module.named_buffers(recurse=False, remove_duplicate=False):
            self.register_buffer(name, buffer)
        for name, parameter in own.module.named_parameters(recurse=False, remove_duplicate=False):
            self.register_parameter(name, parameter)
        # Private names of Python (two underscores), which no layer has: what a layer is called is the user's choice.
        self.__target = get_target(target)
        decode: Any = own[own.nodes(Decode)[0]]
        self.__dynamics: Dynamics = decode.dynamics  # layers may have a reset of their own
        self.__engine_name = engine
        self.__sample = sample
        size = require_image_size(image_size, own.image_form)
        self.__image_size = size if sample is None else own.image_form.size_of(sample)
        self.__provenance = told
        self.__compiled: Compiled | None = None
        self.__range_told = False
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """Logits, or whatever the user's network returns, as it returns it for so many images.

        Layers run on a few images at a time, and the tail on all of them.

        Args:
            images: [N, C, H, W] of a floating type, or signals [N, C, L] or vectors [N, F] where the user's network
                takes such, prepared as for it; of a network of frames [N, T, C, H, W] and so on. What lies outside the
                signed range of the integer input is clipped to it; where that is much, or they are next to nothing in
                it, a warning says so once.

        Raises:
            DataError: these cannot be images for the network.
            OptionError: the engine that was asked for cannot run here.
        """
        if is_recorded():
            return self.graph.run(images)
        with self._running(images):
            self._tell_range(images)
            logits = self._by_engine(images, Compiled.logits)
            return logits_of(self.graph, images, self.timesteps) if logits is None else logits

    def early_readout(self, images: Tensor) -> Any:
        """Logits after every step, [T, N, classes]: row t is what a run of t + 1 steps gives.

        Accuracy against T costs one run, in memory for a few images at a time. The tail reads the activations of
        several images and steps at once, so this is for tails that treat each image by itself.

        Args:
            images: as for a call.

        Returns:
            A tensor [T, N, ...], or such tensors in the structure in which the user's network returns them; also where
            it drops the dimension of a single image.

        Raises:
            DataError: these cannot be images for the network, or what it returns cannot be told apart by image.
            OptionError: the engine that was asked for cannot run here.
        """
        with torch.no_grad(), self._running(images):
            self._tell_range(images)
            logits = self._by_engine(images, Compiled.logits_after_each_step)
            return logits_after_each_step(self.graph, images, self.timesteps) if logits is None else logits

    def simulate(self, images: Tensor, *, membranes: bool = False) -> Run:
        """Run and look inside.

        Args:
            images: as for a call.
            membranes: keep every membrane at every step (much memory, and the engine is PyTorch).

        Returns:
            Logits after each step, spikes and membrane ranges of every layer.

        Raises:
            DataError: these cannot be images for the network, or what it returns cannot be told apart by image.
            OptionError: the engine that was asked for cannot run here.
        """
        membranes = require_flag("membranes", membranes)
        return self._simulated(images, membranes=membranes)

    def _simulated(self, images: Tensor, *, membranes: bool = False, readout: bool = True) -> Run:
        with torch.no_grad(), self._running(images):
            self._tell_range(images)
            run = None if membranes else self._by_engine(images, partial(Compiled.simulated, readout=readout))
            if run is not None:
                return run
            return simulated(self.graph, images, self.timesteps, membranes=membranes, readout=readout)

    def count_spikes(self, images: Tensor) -> dict[str, Tensor]:
        """How often each neuron of each layer spikes, int32 [N, C, ...]; as `simulate`, in less time and memory.

        Args:
            images: as for a call.

        Raises:
            DataError: these cannot be images for the network.
            OptionError: the engine that was asked for cannot run here.
        """
        with torch.no_grad(), self._running(images):
            self._tell_range(images)
            counted = self._by_engine(images, Compiled.spike_counts)
            if counted is None:
                simulate = partial(simulated, self.graph, timesteps=self.timesteps, readout=False)
                runs = [simulate(images=part).spike_counts for part in self._parts(images)]
                counted = {name: torch.cat([counts[name].int() for counts in runs]) for name in runs[0]}
            return counted

    @neutral()
    def stream(
        self,
        sources: int | None = None,
        *,
        window: int | None = None,
        decay: float | None = None,
        record: bool = False,
    ) -> Stream:
        """Feed frames one by one; membranes stay between them, in the stream.

            with snn.stream() as stream:
                for frame in source:
                    logits = stream(frame)

        The spikes are those of one run over all frames, of any number. A network that was not converted for frames
        takes them, too: it reads another image at each step.

        Args:
            sources: how many frames come together, [sources, C, H, W]; `None`: a single one, [C, H, W].
            window: logits are those of the spikes of so many last frames; `None`: of all since the start.
            decay: a frame counts so many times as much as the one behind it, above 0 and below 1; `None`: as much.
            record: keep the spikes of all layers at the last step, as `stream.spikes`.

        Raises:
            OptionError: an option has a value that is not allowed, the engine that was asked for cannot run here step
                by step, or layers were put into the network that cannot.
        """
        try:
            return Stream(self.graph, self.engine, sources, window, decay, record=record)
        except Unsupported as reason:
            raise OptionError(f"the network cannot be run step by step: {reason}") from reason

    def verify_engine(self, images: Tensor) -> bool:
        """Whether the engine makes the very spikes that PyTorch makes, the reference; `convert` asks on two images.

        Where it does not, PyTorch runs the network from now on: `engine` is "torch" then, and a warning says so.

        Args:
            images: as for a call; few are enough. They are run one by one, and all spikes of one are kept.

        Raises:
            DataError: these cannot be images for the network.
            OptionError: the engine that was asked for cannot run here.
        """
        require_images(images, self.graph.image_form)
        wrong: dict[str, None] = {}
        for image in images.split(1):  # PyTorch keeps all steps of a layer
            with torch.no_grad(), self._running(image):
                wrong |= dict.fromkeys(self._by_engine(image, Compiled.wrong_layers) or ())
        if wrong:
            warn(
                f"engine={self.engine!r} does not make the spikes of PyTorch here ({', '.join(wrong)}): PyTorch runs "
                "this network from now on. Please report it, with the network and the processor",
                EngineWarning,
            )
            self.engine = "torch"
        return not wrong

    @contextmanager
    def _running(self, images: Tensor) -> Iterator[None]:
        """Around a run: what cannot be images is refused, and PyTorch's state reaches nothing but gradients."""
        require_images(images, self.graph.image_form)
        with neutral(gradients=False), accepted(images, size=self.image_size):
            yield

    def _tell_range(self, images: Tensor) -> None:
        """Warn of images in another range than those of calibration, once."""
        encode = None if self.__range_told else next((one for one in self.modules() if isinstance(one, Encode)), None)
        if encode is None or encode.bits is None:
            return
        stills = encode.form.stills(images)
        if (trouble := unlike_calibration(stills, encode.unit, encode.bits, encode.affine)) is not None:
            self.__range_told = True
            warn(trouble, AccuracyWarning)

    @property
    def graph(self) -> Graph:
        """The program."""
        graph: Graph = self.__dict__["_graph"]
        return graph

    @property
    def target(self) -> HardwareTarget:
        """The chip the network was compiled for."""
        return self.__target

    @property
    def dynamics(self) -> Dynamics:
        """T, reset and start of the membranes."""
        return self.__dynamics

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and where images have to be."""
        return next(self.buffers()).device

    @property
    def image_size(self) -> tuple[int, ...] | None:
        """Channels, height and width of the images it was converted with, or of a size found that it accepts; channels
        and length of signals, features of vectors.

        `None` where none was found, or where it was not made by `convert`.
        """
        return self.__image_size

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the network comes from: versions, options and passes of its conversion; a copy.

        It can be set, to a mapping of plain data, which files keep. Something else: OptionError.
        """
        return copy.deepcopy(self.__provenance)

    @provenance.setter
    def provenance(self, provenance: Mapping[str, Any] | None) -> None:
        self.__provenance = as_provenance(provenance)

    @property
    def timesteps(self) -> int:
        """T, the number of steps of a run; it can be set at any time. No number from 1 on: OptionError."""
        return self.__dynamics.timesteps

    @timesteps.setter
    def timesteps(self, timesteps: int) -> None:
        self._run_with(replace(self.__dynamics, timesteps=timesteps))

    @property
    def reset(self) -> str:
        """What a spike does to its membrane: "subtraction" of the threshold, or "zero". Anything else: OptionError."""
        return self.__dynamics.reset

    @reset.setter
    def reset(self, reset: str) -> None:
        self._run_with(replace(self.__dynamics, reset=reset))

    @property
    def initial_membrane(self) -> float:
        """Where membranes start, as a share of the threshold: 0.5 or 0. Anything else: OptionError."""
        return self.__dynamics.initial_membrane

    @initial_membrane.setter
    def initial_membrane(self, share: float) -> None:
        self._run_with(replace(self.__dynamics, initial_membrane=share))

    @property
    def engine(self) -> str:
        """What runs the network, one of `fxsnn.engine.ENGINES`; all give the same spikes. It can be set."""
        return self.__engine_name

    @engine.setter
    def engine(self, name: str) -> None:
        self.__engine_name = check_engine(name)
        self.__compiled = None

    @property
    def report(self) -> Report:
        """What the layers take of the chip; what they do on a few of the calibration images, if there were any."""
        if self.__sample is None:
            return self._report_of()
        sample = self.graph.image_form.lasting(self.__sample)
        with accepted(sample, what="sample images"):  # nobody has run them yet
            return self.profile(sample)

    @neutral()
    def profile(self, images: Any) -> Report:
        """The report, with what the network does on these images: rates, membranes, synaptic operations, cores.

        Args:
            images: a tensor, or an iterable of batches, such as a `DataLoader`; they are run a few at a time.

        Raises:
            DataError: these cannot be images for the network.
            OptionError: the engine that was asked for cannot run here.
        """
        meter = Meter(self.graph, self.timesteps)
        batches = own_image_batches(images, self.graph.image_form, what="data")
        with sharing_errors():
            for part, run in self._runs(batches, readout=False):
                if meter.images == 0:
                    self(part[:2].to(self.device))  # the tail must take images of this size, too
                meter.add(part, run.spikes, run.membrane_range)
        meter.join_others()
        return self._report_of(meter.result())

    def runs(self, images: Any) -> Iterator[tuple[Tensor, Run]]:
        """Simulate a few images at a time, so that memory is bounded: the images and what their run showed.

        Args:
            images: as for `profile`.

        Raises:
            DataError: these cannot be images for the network, or what it returns cannot be told apart by image.
            OptionError: the engine that was asked for cannot run here.
        """
        return self._runs(image_batches(images, self.graph.image_form, what="data"), readout=True)

    def _runs(self, batches: Iterable[Tensor], *, readout: bool) -> Iterator[tuple[Tensor, Run]]:
        for batch in batches:
            for part in self._parts(batch):
                yield part, self._simulated(part.to(self.device), readout=readout)

    def _parts(self, images: Any) -> Sequence[Tensor]:
        """So many images at a time as PyTorch simulates best."""
        check_images(images, self.graph.image_form)
        return parts_of(images, FRAMES_AT_ONCE // self.timesteps)

    def _report_of(self, activity: Activity | None = None) -> Report:
        chosen = self.__provenance.get(CODES_CHOSEN)
        names = [str(name) for name in chosen] if isinstance(chosen, list | tuple) else None
        return report_of(self.graph, self.__target, self.__dynamics, activity, names)

    @neutral()
    def save(self, path: str | Path, *, golden: int | Tensor = 2) -> Path:
        """Write the network to one file, atomically and without pickle; `fxsnn.load` reads it, `docs/FILE.md` describes
        it.

        It is a safetensors file: weight codes at their real width, thresholds, leaks, steps and the tail as arrays,
        the structure as JSON. Golden vectors are images with the spikes of every layer and the logits they must give.

        Args:
            path: the file; the usual suffix is `.fxsnn`.
            golden: on how many images golden vectors are made: the first calibration images, of which a network keeps
                32 at most, or noise if there were none; or these images themselves. 0: none.

        Raises:
            FileError: the file cannot be written, or something in the tail has no name in the format.
            DataError: these cannot be images for the network.
            OptionError: `golden` is neither a number nor images, or `path` is no path.
        """
        require_place(path)
        images = golden_images(golden, self.graph.image_form, self.__sample, self.__image_size)
        size = self.__image_size if images is None else self.graph.image_form.size_of(images)
        document, arrays = described(self.graph, self.__target, self.__dynamics, size, self.__provenance)
        return save_network(path, document, arrays, None if images is None else images.to(self.device), self._reference)

    def _reference(self, images: Tensor) -> Run:
        """A run in PyTorch, whatever the engine: golden vectors are to find its faults, too."""
        with torch.no_grad(), self._running(images):
            return simulated(self.graph, images, self.timesteps)

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings are settings, whatever they are set to: PyTorch would take modules and parameters for itself."""
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast the program too: layers may have been put into it."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        self.graph.module._apply(fn, recurse)
        self._share_tensors()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._share_tensors()

    def _share_tensors(self) -> None:
        """Let the program have the tensors that the tail holds without a module: PyTorch has put others in place here.

        The engine's copy of the tail has the former ones, too: it is made anew.
        """
        program = self.graph.module
        for name in program._buffers.keys() & self._buffers.keys():
            program._buffers[name] = self._buffers[name]
        for name in program._parameters.keys() & self._parameters.keys():
            program._parameters[name] = self._parameters[name]
        self.__compiled = None

    def _by_engine(self, images: Tensor, run: Callable[[Compiled, Tensor], _Result]) -> _Result | None:
        """What the engine gives that is to run these images; `None` where PyTorch has to run them."""
        if is_recorded() or type(images) is not Tensor or len(images) == 0:
            return None
        found = self.__compiled
        if found is None or not found.is_of(self.graph):
            try:
                circuit = circuit_of(self.graph)
            except Unsupported as reason:
                if self.__engine_name not in ("auto", "torch"):
                    without_engine(self.__engine_name, reason)
                return None
            self.__compiled = found = compiled(self.graph, circuit, self.__engine_name)
        if found.engine is None or watched(found.circuit):
            return None
        try:
            return run(found, images)
        except Broken as reason:
            without_engine(self.__engine_name, reason)
            self.__compiled = replace(found, engine=None)
            return None

    def __getstate__(self) -> dict[str, Any]:
        """Copies compile their engine anew."""
        return {**self.__dict__, "_SpikingNetwork__compiled": None}

    def _run_with(self, dynamics: Dynamics) -> None:
        for _, layer in self._spiking_layers():
            layer.run_with(dynamics)
        for module in self.modules():
            if isinstance(module, Encode | Decode):
                module.run_with(dynamics)
        self.__dynamics = dynamics

    def _spiking_layers(self) -> list[tuple[str, Spiking]]:
        return [(name, module) for name, module in self.named_modules() if isinstance(module, Spiking)]

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` asks for before it reads code.

        Raises:
            OptionError: always; the code of engines is none that TorchScript can read.
        """
        raise OptionError(
            "torch.jit.script cannot read the code of a SpikingNetwork; torch.jit.trace(snn, images) makes a program "
            "of TorchScript with the very logits, for any number of images"
        )

    def extra_repr(self) -> str:
        """Shown by `print`."""
        return f"target={self.__target.name}, timesteps={self.timesteps}, reset={self.reset!r}, engine={self.engine!r}"


def require_spiking(snn: object) -> None:
    """Refuse what is no spiking network.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(snn, SpikingNetwork):
        raise OptionError(f"snn is a {type(snn).__name__}; expected a SpikingNetwork, which fxsnn.convert gives")


def name_clashes(graph: Graph) -> list[Finding]:
    """Findings for layers, and for tensors of the network's own, whose names are attributes of `SpikingNetwork`."""
    module = graph.module
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    kinds = {name: "layer" for name, _ in module.named_children()} | {name: "tensor" for name, _ in tensors}
    return [
        Finding(
            name,
            f"a {kind} cannot be named {name!r}: SpikingNetwork has an attribute of that name",
            f"Rename the {kind}",
        )
        for name, kind in kinds.items()
        if hasattr(SpikingNetwork, name) or name.startswith("_SpikingNetwork__")
    ]
