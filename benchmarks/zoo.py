"""Which networks that people have can be converted: torchvision's, timm's families of convolutions, those of papers.

    pip install timm  # if its networks are wanted, too
    python benchmarks/zoo.py --check --out docs/benchmarks
    python benchmarks/zoo.py --simulate --only papers/ torchvision/resnet18 --out docs/benchmarks

Weights are random, images small. Each network is tried as it is, with max pooling replaced by rectifiers, and with
other activations replaced by ReLUs, too. It has a process of its own, which may take so much time and memory. Logits of
those that convert are compared from stage to stage, with --simulate up to spikes: what is converted wrongly shows
between two of them. What came of a network is kept in a folder (--work), so that an interrupted scan goes on, and the
page is about all that was kept; `zoo_spikingjelly.py` adds to it what SpikingJelly makes of the same networks.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import re
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zoo_papers import PAPERS
from zoo_report import (
    ACTIVATED,
    CONVERTED,
    ERROR,
    LIMIT,
    REFUSED,
    REPLACED,
    Entry,
    Size,
    answers,
    keep,
    machine,
    results_table,
    rows,
    write,
)

import fxsnn
from fxsnn.insight.effects import encoder_of
from fxsnn.passes import Canonicalize, ReplaceActivation

_OPTIONS: dict[str, Any] = {"target": "generic", "bits": 4}
_REPLACEMENT = "rectifiers"
"""What takes the place of max pooling where a network does not convert without."""

_SIZES = (64, 75, 96, 128, 224, 240, 256, 299)
"""The first that a network takes is the one of its images."""
_DESIGNED_FOR = 224
"""The size of images for networks that pool adaptively to maps of several rows."""

_MANY, _FEW = 4096, 8
"""Timesteps for rates, which cost nothing, and for comparing every spike."""

_SEEN, _SHOWN = 8, 4
"""Images for the statistics and thresholds, and those that are simulated."""

TIMM = """
resnet10t resnet14t resnet18 resnet18d resnet26 resnet26d resnet34 resnet50 resnet50d resnext50_32x4d wide_resnet50_2
resnetblur18 resnetaa50 legacy_seresnet18 ecaresnet26t skresnet18 res2net50_26w_4s res2next50 resnest14d resnet33ts
resnext26ts resnetv2_18 resnetv2_18d resnetv2_50 resnetv2_50d resnetv2_50x1_bit densenet121 densenet169
densenetblur121d mobilenetv1_100 mobilenetv2_035 mobilenetv2_050 mobilenetv2_100 mobilenetv2_110d mobilenetv3_small_050
mobilenetv3_small_100 mobilenetv3_large_100 tf_mobilenetv3_small_minimal_100 tf_mobilenetv3_large_minimal_100
mobilenet_edgetpu_100 mobilenetv4_conv_small_035 mobilenetv4_conv_small mobilenetv4_conv_medium efficientnet_lite0
efficientnet_lite1 tf_efficientnet_lite0 efficientnet_b0 efficientnet_es efficientnet_es_pruned tf_efficientnet_es
mnasnet_050 mnasnet_100 mnasnet_small semnasnet_050 fbnetc_100 spnasnet_100 tinynet_e mixnet_s hardcorenas_a lcnet_050
lcnetv2_small fbnetv3_b regnetx_002 regnetx_004 regnetx_006 regnetx_008 regnety_002 regnetz_005 vgg11 vgg11_bn vgg16
vgg16_bn repvgg_a0 repvgg_a1 repvgg_b0 repvgg_d2se mobileone_s0 mobileone_s1 mobileone_s4 gernet_s gernet_m ghostnet_050
ghostnet_100 ghostnetv2_100 repghostnet_050 repghostnet_100 dla34 dla46_c dla46x_c dla60 dla60x_c dla60_res2net
hrnet_w18_small hrnet_w18_small_v2 selecsls42 selecsls42b selecsls60 darknet17 darknet21 darknet53 cspresnet50
cspresnext50 cspdarknet53 cs3darknet_focus_s cs3darknet_s vovnet39a ese_vovnet19b_slim dpn48b dpn68 hgnetv2_b0
hgnet_tiny inception_v3 inception_v4 legacy_xception xception41 tresnet_m rexnet_100 nf_resnet26 fasternet_t0
starnet_s050 convnext_atto repvit_m0_9
"""
"""Small members of families of convolutions."""


Examine = Callable[[str, "Network", argparse.Namespace], Any]
"""Says something about a network of a name."""


# Networks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """One of the zoo.

    Attributes:
        build: makes it, with random weights.
        size: of its images, channels first; `None`: the smallest of `_SIZES` that it takes, in three colours.
    """

    build: Callable[[], nn.Module]
    size: Size | None = None


def networks() -> Mapping[str, Network]:
    """All that torchvision has for classification, those of `PAPERS` and, where timm is installed, of `TIMM`."""
    from torchvision import models

    found = {f"torchvision/{name}": Network(partial(_torchvision, name)) for name in models.list_models(models)}
    if find_spec("timm"):
        found |= {f"timm/{name}": Network(partial(_timm, name), _timm_size(name)) for name in TIMM.split()}
    return found | {f"papers/{name}": Network(paper.build, paper.size) for name, paper in PAPERS.items()}


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    plain = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **plain)


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def _timm_size(name: str) -> Size | None:
    """Of small images, timm's VGGs enlarge the last maps, to as many rows as those of large ones have."""
    return (3, _DESIGNED_FOR, _DESIGNED_FOR) if name.startswith("vgg") else None


def image_size(model: nn.Module) -> Size:
    """The smallest square images in three colours that a network takes, of those that were tried."""
    pools = [one.output_size for one in model.modules() if isinstance(one, nn.AdaptiveAvgPool2d)]
    if any(size not in (1, (1, 1)) for size in pools):
        return (3, _DESIGNED_FOR, _DESIGNED_FOR)
    for side in _SIZES:
        with torch.no_grad(), suppress(Exception):
            model(torch.zeros(1, 3, side, side))
            return (3, side, side)
    raise ValueError(f"takes no images of {', '.join(map(str, _SIZES))} rows")


def random_images(count: int, size: Size) -> Tensor:
    """[N, C, H, W]: coarse patterns and fine noise, so that images differ in more than the latter."""
    coarse = nn.functional.interpolate(torch.randn(count, size[0], 4, 4), size=size[1:], mode="bilinear")
    return coarse + torch.randn(count, 1, 1, 1) / 2 + torch.randn(count, *size) / 4


@torch.no_grad()
def fill(model: nn.Module, images: Tensor) -> None:
    """Give batch norms scales and shifts, none of them zero, and the statistics of these images.

    Where there are none, weights are such that deep layers still tell images apart.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for layer in () if norms else model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean of all that is seen
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
    model(images)
    model.eval()


# One network ----------------------------------------------------------------------------------------------------------


def examined(name: str, network: Network, options: argparse.Namespace) -> Entry:
    """What comes of a network; no error leaves here."""
    start, size = time.process_time(), None
    try:
        torch.manual_seed(0)
        model = network.build().eval()
        size = network.size or image_size(model)
        found = verdict(model, size)
        agreement = None if found.model is None or options.check else converted(found, size, options)
    except MemoryError as error:
        return Entry(name, size, LIMIT, (f"memory: {error}",), time.process_time() - start)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__} in {Path(place.filename).name}, {place.name}: {error}".splitlines()[0]
        limit = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        print(f"{name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return Entry(name, size, LIMIT if limit else ERROR, (told,), time.process_time() - start)
    return Entry(name, size, found.result, found.reasons, time.process_time() - start, found.layers, agreement)


@dataclass(frozen=True)
class Verdict:
    """Whether a network can be converted.

    Attributes:
        result: one of `RESULTS`.
        reasons: the kinds of reasons if not.
        layers: how many layers with weights spike if so.
        model: what can be converted, activations replaced or not; `None`: nothing.
        max_pool: what takes the place of max pooling.
    """

    result: str
    reasons: tuple[str, ...] = ()
    layers: int = 0
    model: nn.Module | None = None
    max_pool: str | None = None


def verdict(model: nn.Module, size: Size) -> Verdict:
    """Whether a network can be converted, and what is replaced for that: max pooling, and if need be activations."""
    example = torch.randn(2, *size)
    report = fxsnn.check(model, **_OPTIONS, example=example)
    result, pool = CONVERTED, None
    if any("MaxPool" in finding.problem for finding in report.problems):
        result, pool = REPLACED, _REPLACEMENT
        report = fxsnn.check(model, **_OPTIONS, example=example, max_pool=pool)
    if any("ReplaceActivation" in finding.remedy for finding in report.problems):
        result, model = ACTIVATED, with_rectifiers(model, example)
        report = fxsnn.check(model, **_OPTIONS, example=example, max_pool=pool)
    if report.ok:
        return Verdict(result, (), len(report.layers), model, pool)
    return Verdict(REFUSED, tuple(dict.fromkeys(kind(finding.problem) for finding in report.problems)))


def with_rectifiers(model: nn.Module, example: Tensor) -> nn.Module:
    """The network with ReLUs in the place of their relatives, as it would be trained again."""
    graph = Canonicalize()(fxsnn.capture(model, example)).after
    return ReplaceActivation()(graph).after.module.eval()


def kind(problem: str) -> str:
    """A problem without names of layers and numbers."""
    general = re.sub(r"; it is read by .*|, in front of .*", "", problem)
    general = re.sub(r"\b\w+(\.\w+)+\b|\b[a-z]\w*_\d+\b", "…", general)
    return re.sub(r"\b\d+\b", "n", general)


def converted(found: Verdict, size: Size, options: argparse.Namespace) -> dict[str, float]:
    """Convert a network, and simulate it if that is asked for: correlations of logits."""
    model, images = found.model, random_images(_SEEN, size)
    assert model is not None
    fill(model, images)
    given: dict[str, Any] = {
        "calibration_data": images,
        "calibration": "max",
        "correction": None,
        "max_pool": found.max_pool,
    }
    run: dict[str, Any] = {"timesteps": _MANY, "engine": options.engine}
    snn = fxsnn.convert(model, **_OPTIONS, **given, example=images[:2], **run)
    shown, own = images[:_SHOWN], copy.deepcopy(model).double()
    with torch.no_grad():
        stages = fxsnn.stage_networks(model, snn)
        clipped = stages["clipping"].run(shown.double())
        agreement = {
            "rewritten": correlation(own(shown.double()), stages["ann"].run(shown.double())),
            "clipped": correlation(own(as_read(snn, shown)), clipped),
        }
        del own
        if not options.simulate:
            return agreement
        quantised, rates = (stages[one].run(shown.double()) for one in ("rounding", "timesteps"))
        agreement |= {"weights": correlation(clipped, quantised), "rates": correlation(quantised, rates)}
        del stages
        snn.timesteps = _FEW
        agreement["spikes"] = correlation(fxsnn.stage_networks(model, snn)["timing"].run(shown.double()), snn(shown))
        if multiplications(model, size) * _SHOWN * options.timesteps <= options.most * 1e9:
            snn.timesteps = options.timesteps
            agreement["late"] = correlation(quantised, snn(shown))
    return agreement


def as_read(snn: fxsnn.SpikingNetwork, images: Tensor) -> Tensor:
    """Images as the spiking network reads them, rounded, in double precision."""
    encode = encoder_of(snn)
    rounded = encode(images).double() * encode.unit
    if encode.affine is None:
        return rounded
    scale, shift = (part.view(-1, 1, 1) for part in (encode.affine.scale, encode.affine.shift))
    return (rounded - shift) / scale


def multiplications(model: nn.Module, size: Size) -> float:
    """Multiplications of layers with weights for one image."""
    counts: list[int] = []

    def count(layer: Any, _: Any, out: Tensor) -> None:
        counts.append(out.numel() * layer.weight[0].numel())

    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = [one.register_forward_hook(count) for one in layers]
    with torch.no_grad():
        model(torch.zeros(1, *size))
    for hook in hooks:
        hook.remove()
    return float(sum(counts))


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, of all logits, each class without its mean over the images: what tells images apart."""
    pair = torch.stack([(one - one.mean(0)).flatten().double(), (other - other.mean(0)).flatten().double()])
    return float(torch.corrcoef(pair)[0, 1])


# All of them ----------------------------------------------------------------------------------------------------------


def _in_process(examine: Examine, name: str, options: argparse.Namespace, answer: Connection) -> None:
    for kind_of_limit, most in ((resource.RLIMIT_DATA, options.memory * 2**30), (resource.RLIMIT_CPU, options.seconds)):
        resource.setrlimit(kind_of_limit, (int(most), int(most)))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answer.send(examine(name, networks()[name], options))


def bounded(name: str, examine: Examine, options: argparse.Namespace) -> Any:
    """What a function says of a network, in a process of its own that ends when its processor time or memory is over;
    `None` if it did.
    """
    context = multiprocessing.get_context("forkserver")
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(examine, name, options, answer), daemon=True)
    process.start()
    answer.close()
    try:
        said = answers.recv()
    except EOFError:
        said = None
    process.join()
    return said


def parser_of(description: str) -> argparse.ArgumentParser:
    """Options that say which networks, and what they may take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="such as torchvision/resnet18; a / at the end: all")
    parser.add_argument("--seconds", type=float, default=180, help="of the processor, for one network")
    parser.add_argument("--memory", type=float, default=10, help="GiB for one network")
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time")
    parser.add_argument("--again", action="store_true", help="those, too, of which there is a row already")
    parser.add_argument("--work", type=Path, default=Path("out/zoo/rows"), help="what is finished is kept here")
    return parser


def chosen(parser: argparse.ArgumentParser, only: Sequence[str] | None) -> list[str]:
    """The names of the networks that are wanted, in order."""
    known = list(networks())
    wanted = only or known
    names = [
        name for name in known if any(name == one or (one.endswith("/") and name.startswith(one)) for one in wanted)
    ]
    if not names:
        parser.error(f"--only {' '.join(wanted)}: there is no such network among {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine, print, write."""
    parser = parser_of(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="do not convert what can be converted")
    parser.add_argument("--simulate", action="store_true", help="run what was converted")
    parser.add_argument("--timesteps", type=int, default=256, help="of the simulation")
    parser.add_argument("--engine", default="auto", help="of the simulation")
    parser.add_argument("--most", type=float, default=400, help="simulate up to so many 10^9 additions")
    parser.add_argument("--out", type=Path, default=Path("out/zoo"))
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    names, kept = chosen(parser, options.only), rows(options.work)

    def is_left(name: str) -> bool:
        wanted = set() if options.check else {"clipped", *(("spikes",) if options.simulate else ())}
        unseen = name not in kept or (kept[name].converts and not wanted <= set(kept[name].agreement or ()))
        return options.again or unseen

    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "torchvision", "fxsnn"])
    left = [name for name in names if is_left(name)]

    def examine(name: str) -> None:
        said = bounded(name, examined, options)
        ended = f"ended within {options.seconds:g} seconds, by time or memory"
        entry = Entry(name, None, LIMIT, (ended,)) if said is None else said
        if name in kept and entry.agreement is not None:  # of an earlier simulation
            entry = replace(entry, agreement={**(kept[name].agreement or {}), **entry.agreement})
        keep(options.work, entry)
        print(results_table([entry]).splitlines()[-1], flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(examine, left))
    kept = rows(options.work)
    listed = dict.fromkeys([*networks(), *kept])  # timm may not be there any more
    entries = [kept[name] for name in listed if name in kept]
    where = machine(given) | {"networks": f"{len(entries)} of {len(listed)} that it lists"}
    write(options.out, where, entries, answers(options.work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
