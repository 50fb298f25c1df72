"""What SpikingJelly's converter makes of the networks of `zoo.py`: whole, with analog layers left, or an error.

    pip install spikingjelly timm  # in an environment of its own, if need be
    python benchmarks/zoo_spikingjelly.py
    python benchmarks/zoo.py --check --out docs/benchmarks  # a second time writes the page

Calls and options are those of its examples: the largest activation is the threshold. Images, batch norms and limits are
those of `zoo.py`.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, fx, nn
from zoo import (
    Network,
    bounded,
    chosen,
    correlation,
    fill,
    image_size,
    multiplications,
    parser_of,
    random_images,
)
from zoo_report import LIMIT, PARTLY, RAISES, WHOLE, Answer, answers, keep

from fxsnn.graph import looks_like_activation, pools_maxima, what_is_called

_TIMESTEPS = 64
_SEEN, _SHOWN = 8, 4
"""Images for the thresholds, and those that are simulated; as in `zoo.py`."""
_NORMS = ("layernorm", "layer_norm", "groupnorm", "group_norm", "instancenorm", "softmax", "attention")


def answer(name: str, network: Network, options: argparse.Namespace) -> Answer:
    """What comes of a network; no error leaves here."""
    from spikingjelly.activation_based import ann2snn

    torch.manual_seed(0)
    model = network.build().eval()
    size = network.size or image_size(model)
    images = random_images(_SEEN, size)
    fill(model, images)
    try:
        recipe = ann2snn.RateCodingRecipe(dataloader=[images], mode="Max")
        snn = ann2snn.Converter(recipe=recipe, device="cpu").convert(copy.deepcopy(model))
        left = tuple(dict.fromkeys(analog(snn)))
        if left:
            return Answer(name, PARTLY, left)
        small = multiplications(model, size) * _SHOWN * _TIMESTEPS <= options.most * 1e9
        return Answer(name, WHOLE, (), agreement(model, snn, images[:_SHOWN]) if small else None)
    except MemoryError:
        return Answer(name, LIMIT)
    except Exception as error:
        told = re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}".splitlines()[0])
        return Answer(name, RAISES, (told[:200],))


def analog(snn: fx.GraphModule) -> Iterator[str]:
    """Kinds of activations, maxima, normalisations and products that do not spike."""
    for node in snn.graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        name = what_is_called(snn, node)
        lowered = name.lower()
        several = len(node.all_input_nodes) > 1 and lowered in ("mul", "imul", "matmul", "bmm", "truediv", "einsum")
        if pools_maxima(lowered) or looks_like_activation(lowered) or any(one in lowered for one in _NORMS) or several:
            yield name


@torch.no_grad()
def agreement(model: nn.Module, snn: nn.Module, images: Tensor) -> float:
    """Correlation of the logits of all timesteps together with those of the network."""
    from spikingjelly.activation_based import functional

    functional.reset_net(snn)
    total: Any = sum(snn(images) for _ in range(_TIMESTEPS))
    return correlation(model(images), total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, print, keep."""
    parser = parser_of(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--most", type=float, default=100, help="simulate up to so many 10^9 multiplications")
    options = parser.parse_args(arguments)
    kept = answers(options.work)
    left = [name for name in chosen(parser, options.only) if options.again or name not in kept]
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "torchvision", "fxsnn"])
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, said in zip(left, pool.map(partial(bounded, examine=answer, options=options), left), strict=True):
            found = Answer(name, LIMIT) if said is None else said
            keep(options.work / "spikingjelly", replace(found, version=version("spikingjelly")))
            print(found.name, found.result, found.agreement, *found.told, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
