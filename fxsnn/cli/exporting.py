"""`fxsnn nir` and `fxsnn onnx`: a network file for other programs."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch

from fxsnn.cli.answer import Answer
from fxsnn.cli.inputs import network_in
from fxsnn.errors import OptionError, importing
from fxsnn.interchange import to_nir
from fxsnn.network import SpikingNetwork
from fxsnn.storage import require_place, write_whole


def nir_command(options: argparse.Namespace) -> Answer:
    """Write a network file as a graph of NIR, for simulators; see docs/NIR.md for what each makes of it."""
    require_place(options.output, "--output")
    graph = to_nir(network_in(options), differences=options.differences)
    import nir  # `to_nir` has seen that it is there

    with tempfile.TemporaryDirectory() as folder:  # its writer wants a path
        place = Path(folder) / "net.nir"
        nir.write(place, graph)
        content = place.read_bytes()
    return _written(options, content, "it reads the integers of fxsnn.nir_input(snn, images) at every step")


def onnx_command(options: argparse.Namespace) -> Answer:
    """Write a network file as an ONNX program: images to logits, all timesteps in it."""
    require_place(options.output, "--output")
    snn = network_in(options)
    if options.timesteps is not None:
        snn.timesteps = options.timesteps
    content = _onnx_of(snn, options.batch_size)
    size = list(snn.graph.image_form.with_time(snn.image_size or ()))
    return _written(options, content, f"it reads {options.batch_size} x {size} images at a time")


def _onnx_of(snn: SpikingNetwork, count: int) -> bytes:
    """The network as ONNX, for `count` images at a time.

    Raises:
        OptionError: the packages are not there, or the network does not know how large an image is.
    """
    with importing("onnxscript", "ONNX", OptionError, "'fxsnn[onnx]'"):
        import onnxscript  # noqa: F401  # PyTorch's exporter needs it
    if snn.image_size is None:
        raise OptionError("the network does not know how large an image is; convert it with --data")
    images = torch.zeros(count, *snn.graph.image_form.with_time(snn.image_size), device=snn.device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(snn.graph.module, (images,), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


def _written(options: argparse.Namespace, content: bytes, note: str) -> Answer:
    path = write_whole(options.output, content)
    data = {"file": str(options.file), "output": str(path), "bytes": len(content)}
    return Answer(f"written: {path} ({len(content):,} bytes); {note}", data)
