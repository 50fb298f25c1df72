"""The fast ways to run a spiking network, and the choice between them. Whatever the engine, the spikes are the same.

numba    CPUs with AVX2, AVX-512 or NEON: convolutions by table lookup, one pass over time
triton   CUDA: float16 convolutions, one pass over time
torch    everywhere: the layers as they stand in the graph, which is the reference
"""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

from fxsnn.engine.circuit import Broken, Circuit, Engine, Unsupported, relying_on
from fxsnn.engine.stepping import PlainStepper, Stepper, one_step_of
from fxsnn.errors import EngineWarning, OptionError, warn
from fxsnn.options import is_one_of, shown

if TYPE_CHECKING:
    from fxsnn.engine.instructions import InstructionSet

ENGINES = (
    "auto",
    "numba",
    "numba-amx",
    "numba-avx512bw",
    "numba-avx512vbmi",
    "numba-avx2",
    "numba-neon",
    "triton",
    "torch",
)
"""Those of numba with an instruction set behind it use this one; without, the fastest that the processor has."""

_log = logging.getLogger(__name__)


def check_engine(name: object) -> str:
    """The name of an engine.

    Raises:
        OptionError: there is none of that name.
    """
    if not is_one_of(name, ENGINES):
        raise OptionError(f"engine is {shown(name)}; allowed are {', '.join(map(repr, ENGINES))}")
    return str(name)


def engine_for(name: str, circuit: Circuit) -> Engine | None:
    """The engine of that name for a network, or the fastest one for `"auto"`; `None` means PyTorch itself.

    Raises:
        OptionError: the engine was asked for by name, and cannot run here.
    """
    wanted = {"cpu": "numba", "cuda": "triton"}.get(circuit.device.type, "torch") if name == "auto" else name
    if wanted == "torch":
        return None
    try:
        if wanted == "triton":
            return _triton(circuit)
        instructions = _instructions(circuit, wanted)
        from fxsnn.engine.cpu import NumbaEngine

        return NumbaEngine(circuit, instructions)
    except Unsupported as reason:
        without_engine(name, reason)
        return None


def stepper_for(name: str, circuit: Circuit) -> Stepper:
    """What runs a network step by step, with the engine of that name, or the fastest one there is for that.

    Args:
        name: one of `ENGINES`.
        circuit: of the network.

    Raises:
        OptionError: the engine was asked for by name, and cannot run here step by step.
    """
    single = one_step_of(circuit)
    wanted = {"cpu": "numba"}.get(circuit.device.type, "torch") if name == "auto" else name
    try:
        if wanted == "triton":
            raise Unsupported("it runs all steps together")
        if wanted != "torch":
            instructions = _instructions(circuit, wanted)
            from fxsnn.engine.cpu_stepping import NumbaStepper

            return NumbaStepper(single, instructions)
    except Unsupported as reason:
        without_engine(name, reason)
    return PlainStepper(single)


def without_engine(name: str, reason: Unsupported) -> None:
    """Say why PyTorch runs a network.

    Args:
        name: the engine that was asked for.
        reason: why it cannot run, or what failed while it did.

    Raises:
        OptionError: it was asked for by name.
    """
    if name != "auto":
        raise OptionError(f"engine={name!r} cannot run this network here: {reason}. Use engine='auto'") from reason
    if isinstance(reason, Broken):
        warn(f"{reason}: PyTorch runs the network, slower and no different", EngineWarning)
    else:
        _log.info("running in PyTorch: %s", reason)


def _instructions(circuit: Circuit, name: str) -> InstructionSet:
    """The instruction set that the CPU engine of that name uses.

    Raises:
        Unsupported: it cannot run here, or not where the circuit is.
    """
    if circuit.device.type != "cpu":
        raise Unsupported(f"it runs on the CPU, the network is on {circuit.device}")
    with relying_on("numba"):
        if importlib.util.find_spec("numba") is None:
            raise Unsupported("numba is not installed")
        from fxsnn.engine.cpu import chosen

    return chosen(name.partition("-")[2])


def _triton(circuit: Circuit) -> Engine:
    with relying_on("triton"):
        if importlib.util.find_spec("triton") is None:
            raise Unsupported("triton is not installed")
        from fxsnn.engine.cuda import TritonEngine, obstacle

    if reason := obstacle(circuit.device):
        raise Unsupported(reason)
    return TritonEngine(circuit)
