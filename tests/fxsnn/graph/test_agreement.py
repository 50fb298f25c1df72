"""A capture says what the network says, or an error says why it does not."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fxsnn
from fxsnn.errors import DataError, FxsnnWarning, ModelError
from fxsnn.layers import FixedSize
from tests.nets import Small, images, seeded
from tests.sharing import cases

EXAMPLE = images(5)


class TestAgreement:
    def test_a_hook_that_changes_values_is_named_with_its_place(self) -> None:
        model = seeded(Small)
        model.conv1.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
        with (
            pytest.warns(FxsnnWarning, match=r"has hooks \(conv1\): they run once now, on 64 example images"),
            pytest.raises(
                ModelError, match=r"conv1: it has a hook .*<lambda>, test_agreement\.py:\d+.*remove the hook"
            ),
        ):
            fxsnn.capture(model, EXAMPLE)

    def test_a_hook_that_only_looks_runs_once_and_is_left_behind(self) -> None:
        model, seen = seeded(Small), []
        model.conv2.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        with pytest.warns(FxsnnWarning, match="has hooks"):
            graph = fxsnn.capture(model, EXAMPLE)
        assert len(seen) == 1
        assert torch.equal(graph(EXAMPLE), model(EXAMPLE))
        assert len(seen) == 2

    @pytest.mark.parametrize(
        "call",
        [
            lambda model: fxsnn.capture(model, EXAMPLE),
            lambda model: fxsnn.check(model, target="generic", bits=4),
            lambda model: fxsnn.convert(model, target="generic", bits=4, calibration_data=EXAMPLE),
            lambda model: list(fxsnn.pipeline(target="generic", bits=4, calibration_data=EXAMPLE).steps(model)),
        ],
        ids=["capture", "check", "convert", "pipeline"],
    )
    def test_the_warning_of_hooks_points_to_the_users_line(self, call: Callable[[nn.Module], object]) -> None:
        model = seeded(Small)
        model.conv2.register_forward_hook(lambda module, inputs, output: None)
        with pytest.warns(FxsnnWarning, match="has hooks") as told:
            call(model)
        assert {one.filename for one in told if "has hooks" in str(one.message)} == {__file__}

    @pytest.mark.filterwarnings("ignore:the network has hooks")
    def test_check_and_conversion_ask_too(self) -> None:
        model = seeded(Small)
        model.register_forward_hook(lambda module, inputs, output: -output)
        report = fxsnn.check(model, target="generic", bits=4)
        assert "it has a hook that may change values" in str(report)
        assert not report.ok
        with pytest.raises(ModelError, match="it has a hook that may change values"):
            fxsnn.convert(model, target="generic", bits=4, calibration_data=EXAMPLE)

    def test_branches_on_types(self) -> None:
        class Branching(Small):
            def forward(self, x: Tensor) -> Any:
                if type(x) is Tensor:
                    x = 2 * x
                return super().forward(x)

        with pytest.raises(ModelError, match=r"is not the network.*Remove branches on types"):
            fxsnn.capture(seeded(Branching), EXAMPLE)

    def test_randomness(self) -> None:
        class Noisy(Small):
            def forward(self, x: Tensor) -> Any:
                return super().forward(x) + torch.rand(1)

        with pytest.raises(ModelError, match=r"gives other outputs at every call\. Remove what is random"):
            fxsnn.capture(seeded(Noisy), EXAMPLE)

    def test_layers_in_a_plain_list_that_stay_in_training_mode(self) -> None:
        class Listed(Small):
            def __init__(self) -> None:
                super().__init__()
                self.more = [nn.BatchNorm2d(3)]

            def forward(self, x: Tensor) -> Any:
                return super().forward(self.more[0](x))

        with pytest.raises(ModelError, match=r"layers in a plain list stay in training mode\. Keep them in a torch"):
            fxsnn.capture(seeded(Listed).eval(), EXAMPLE)

    def test_images_that_the_network_refuses(self) -> None:
        with pytest.raises(DataError, match="that is 7 channels"):
            fxsnn.capture(seeded(Small), torch.zeros(2, 7, 10, 10))
        with pytest.raises(DataError, match="images are a int"):
            fxsnn.capture(seeded(Small), 3)  # type: ignore[arg-type]

    def test_example_images_are_not_written_into(self) -> None:
        class Writing(Small):
            def forward(self, x: Tensor) -> Any:
                return super().forward(x.mul_(2))

        given_images = EXAMPLE.clone()
        graph = fxsnn.capture(seeded(Writing), given_images)
        assert torch.equal(given_images, EXAMPLE)
        assert torch.equal(graph(given_images), seeded(Small)(2 * EXAMPLE))


class Written(Small):
    """A network whose forward computes with sizes in some way."""

    prepare: ClassVar[Any]

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.prepare(x))


def _asserts(self: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 3
    assert x.dim() == x.ndim == 4
    return x


def _unpacks(self: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    return x.view(n, c * h, w).reshape(n, c, h, w)


def _loops(self: Any, x: Tensor) -> Tensor:
    count = 1
    for size in x.size()[1:]:
        count *= size
    return x.flatten(1).view(-1, count).unflatten(1, tuple(x.shape[1:]))


def _takes_the_length(self: Any, x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).view(len(x), *x.shape[1:])


def _makes_layers(self: Any, x: Tensor) -> Tensor:
    return nn.ReLU(inplace=True)(x) - nn.ReLU()(-x)


def _is_told_the_type(self: Any, x: Tensor) -> Tensor:
    x = x.float().to(x.device).contiguous() if x.is_floating_point() else x / 255
    return x.squeeze(0).unsqueeze(0) if x.shape[1] == 1 else x


def _writes(self: Any, x: Tensor) -> Tensor:
    y = x
    y += 1
    F.relu(y, inplace=True)
    y.sub_(1)
    return x


def _unpacks_parts(self: Any, x: Tensor) -> Tensor:
    parts = x.chunk(x.size(1), 1)
    assert len(parts) == 3
    return torch.cat([part for part in parts], dim=1)  # noqa: C416  # a loop, as people write it


WAYS = [_asserts, _unpacks, _loops, _takes_the_length, _makes_layers, _is_told_the_type, _writes, _unpacks_parts]


@cases("way", WAYS, quick=[_takes_the_length, _writes], ids=lambda way: way.__name__)
def test_forward_may_compute_with_sizes(way: Callable[[Any, Tensor], Tensor]) -> None:
    model = seeded(type("Written", (Written,), {"prepare": way}))
    graph = fxsnn.capture(model, EXAMPLE)
    for count in (1, 2, 65):
        assert torch.equal(graph(images(count)), model(images(count)))
    assert fxsnn.capture(model)(EXAMPLE).shape == (5, 5)  # a usual size is tried where none is given


def test_branches_on_the_number_of_images_are_refused() -> None:
    class Branching(Small):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x[:64] if x.shape[0] > 64 else x)

    with pytest.raises(ModelError, match=r"Branching \(test_agreement\.py:\d+\): torch\.fx cannot trace"):
        fxsnn.capture(seeded(Branching), EXAMPLE)


class TestWeightsThatAreComputed:
    """They are made permanent on the copy; the model's stay computed."""

    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    def ways(self, layer: nn.Module) -> list[Callable[[], object]]:
        return [
            lambda: parametrize.register_parametrization(layer, "weight", self.Half()),
            lambda: parametrizations.weight_norm(layer),
            lambda: parametrizations.spectral_norm(layer),
            lambda: nn.utils.spectral_norm(layer),
            lambda: prune.l1_unstructured(layer, "weight", 0.5),
        ]

    @pytest.mark.parametrize("way", range(5))
    def test_once(self, way: int, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "fxsnn.graph.own_copy")
        model = seeded(Small)
        self.ways(model.conv1)[way]()
        model(EXAMPLE)
        model.eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        graph = fxsnn.capture(model, EXAMPLE)
        assert "conv1: " in caplog.text
        assert "was made permanent on the copy" in caplog.text
        assert list(dict(graph["conv1"].named_parameters())) == ["weight", "bias"] or "weight" in dict(
            graph["conv1"].named_parameters()
        )
        assert torch.equal(graph(EXAMPLE), model(EXAMPLE))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert fxsnn.check(model, target="generic", bits=4).ok
        assert torch.equal(graph(EXAMPLE), model(EXAMPLE))  # check shares parameters, and wrote into none


class Scaled(nn.Conv2d):
    """Another default, the same computation."""

    def __init__(self, here: int, there: int) -> None:
        super().__init__(here, there, 3, padding=1, bias=False)


class Doubled(nn.Conv2d):
    """Another computation."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Alone(Small):
    """Does something else with a single image, where torch.fx sees the number of another batch."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return 2 * y if len(x) == 1 else y


class Never(Alone):
    """Fails with a single image."""

    def forward(self, x: Tensor) -> Any:
        if len(x) == 1:
            raise RuntimeError("several, please")
        return Small.forward(self, x)


class Pairs(Small):
    """Reads two images of each batch."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[[0, 1]]


def test_a_branch_on_a_single_image_is_found() -> None:
    with pytest.raises(ModelError, match=r"where there is one image: its outputs are up to .* off.*Remove branches"):
        fxsnn.capture(seeded(Alone), images())
    assert fxsnn.capture(seeded(Never), images()) is not None


def test_a_network_for_several_images_is_converted(convert: Any) -> None:
    assert fxsnn.check(seeded(Pairs), target="generic", bits=4).ok
    assert len(convert(seeded(Pairs), calibration_data=images())(images())) == 2


def test_a_layer_is_what_it_inherits() -> None:
    graph = fxsnn.capture(nn.Sequential(Scaled(3, 4), nn.ReLU()).eval(), EXAMPLE)
    assert graph.is_a(graph.nodes()[1], nn.Conv2d)
    model = nn.Sequential(Doubled(3, 4, 3), nn.ReLU()).eval()
    graph = fxsnn.capture(model, EXAMPLE)
    assert not graph.nodes(nn.Conv2d)
    assert torch.equal(graph(EXAMPLE), model(EXAMPLE))


def test_an_activation_that_forward_keeps_does_not_hinder_the_copy() -> None:
    class Keeping(Small):
        def forward(self, x: Tensor) -> Any:
            self.last = super().forward(x)
            return self.last

    model = seeded(Keeping)
    model(EXAMPLE)
    assert torch.equal(fxsnn.capture(model, EXAMPLE)(EXAMPLE), model(EXAMPLE))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_inner_wrappers_are_opened(wrap: Callable[[nn.Module], nn.Module]) -> None:
    body, head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Linear(4, 2)
    model = nn.Sequential(wrap(body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    graph = fxsnn.capture(model, EXAMPLE)
    assert "0.0" in graph
    assert torch.allclose(graph(EXAMPLE), head(body(EXAMPLE).mean((2, 3))))


ODD: list[Callable[[Any, Any], Any]] = [
    lambda self, x: x,
    lambda self, x: x * 2 if isinstance(x, Tensor) else x,
    lambda self, x: x + (1 if hasattr(x, "numpy") and type(x) is Tensor else 0),
    lambda self, x: x[: len(x)],
    lambda self, x: x.view(x.shape),
    lambda self, x: x + torch.zeros(x.shape[1:]),
    lambda self, x: x + torch.zeros(len(x), 1, 1, 1),
    lambda self, x: x.permute(0, 1, 3, 2).transpose(2, 3),
    lambda self, x: x / x.shape[0] * x.size(0),
    lambda self, x: torch.stack([x, x]).mean(0),
]


@pytest.mark.parametrize("examples", [15, pytest.param(40, marks=pytest.mark.slow)])
def test_the_capture_agrees_or_an_error_says_why(examples: int) -> None:
    numbers = st.lists(st.integers(0, len(ODD) - 1), max_size=3)
    settings(max_examples=examples)(given(numbers, st.booleans(), st.booleans())(agrees_or_says_why))()


def agrees_or_says_why(ways: list[int], hook: bool, wrap: bool) -> None:
    def prepare(self: Any, x: Tensor) -> Tensor:
        for way in ways:
            x = ODD[way](self, x)
        return x

    model: nn.Module = seeded(type("Written", (Written,), {"prepare": prepare}))
    if hook:
        model.register_forward_hook(lambda module, inputs, output: output + 1)
    model = nn.Sequential(nn.DataParallel(model)) if wrap else model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FxsnnWarning)
            graph = fxsnn.capture(model.eval(), EXAMPLE)
    except ModelError as error:
        assert "not the network" in str(error) or "cannot trace" in str(error) or "hook" in str(error)  # noqa: PT017
        return
    for count in (1, 4, 67):
        assert torch.allclose(graph(images(count)), model(images(count)), rtol=1e-4, atol=1e-5)


# Hooks and memory, wherever they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_hooks_of_wrappers_are_those_of_what_is_in_them(wrap: Callable[[nn.Module], Any], inner: bool) -> None:
    model: Any = seeded(Small)
    if inner:
        model.conv1 = wrap(model.conv1)
        model.conv1.register_forward_hook(lambda module, inputs, output: output * 3)
    else:
        model = wrap(model)
        model.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
    with (
        pytest.warns(FxsnnWarning, match="has hooks"),
        pytest.raises(ModelError, match=r"it has a hook that may change values .*test_agreement\.py:\d+"),
    ):
        fxsnn.capture(model, EXAMPLE)


def test_hooks_of_every_module_are_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        with pytest.raises(ModelError, match=r"every module: it has a hook .*Remove it"):
            fxsnn.capture(seeded(Small), EXAMPLE)
    finally:
        handle.remove()
    fxsnn.capture(seeded(Small), EXAMPLE)


def test_a_network_that_remembers_its_calls_is_refused() -> None:
    class EverySecond(Small):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return super().forward(x) * (-1) ** self.calls

    with pytest.raises(ModelError, match=r"(when it is called again|gives other outputs at every call)"):
        fxsnn.capture(seeded(EverySecond), EXAMPLE)


# What goes in and comes out -------------------------------------------------------------------------------------------


class TwoInputs(Small):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]  # that is the point
        return super().forward(x + y)


class ByName(Small):
    def forward(self, *, x: Tensor) -> Any:  # type: ignore[override]  # that is the point
        return super().forward(x)


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor | None = None


class Outputs(OrderedDict[str, Tensor]):
    """What Hugging Face's networks return is of this kind."""


class InADataclass(Small):
    def forward(self, x: Tensor) -> Any:
        return {"answer": Answer(super().forward(x))}


class InAClass(Small):
    def forward(self, x: Tensor) -> Any:
        return Outputs(logits=super().forward(x))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (TwoInputs, r"its forward reads 2 inputs \(x, y\)"),
        (ByName, "it cannot be called with one tensor of images"),
        (InAClass, "it returns Outputs, whose tensors cannot be told. Return a tensor, or tuples"),
    ],
)
def test_inputs_and_outputs_of_other_kinds_are_refused_in_words(kind: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        fxsnn.capture(seeded(kind), EXAMPLE)


@pytest.mark.filterwarnings("ignore:the spiking network cannot be saved")
def test_dataclasses_come_back(convert: Any) -> None:
    model = seeded(InADataclass)
    graph = fxsnn.capture(model, EXAMPLE)
    assert torch.equal(graph(EXAMPLE)["answer"].logits, model(EXAMPLE)["answer"].logits)
    found = convert(model, target="generic", bits=4, calibration_data=EXAMPLE)(EXAMPLE)["answer"]
    assert type(found) is Answer
    assert found.logits.shape == (5, 5)
    assert found.hidden is None


def test_dataclasses_with_other_values_are_not_the_same() -> None:
    class Counts(Small):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return Answer(super().forward(x), torch.tensor(self.calls))

    with pytest.raises(
        ModelError, match=r"gives something else when it is called again|gives other outputs|is not the"
    ):
        fxsnn.capture(seeded(Counts), EXAMPLE)


def test_an_ordered_dict_comes_back_as_a_dict(convert: Any) -> None:
    """As the networks of torchvision that segment return it."""

    class Segments(Small):
        def forward(self, x: Tensor) -> Any:
            return OrderedDict(out=super().forward(x), sizes=x.shape[1:])

    snn = convert(seeded(Segments), target="generic", bits=4, calibration_data=EXAMPLE)
    found = snn(EXAMPLE)
    assert type(found) is dict
    assert found["out"].shape == (5, 5)
    assert tuple(found["sizes"]) == (3, 12, 12)


# Sizes ----------------------------------------------------------------------------------------------------------------


def test_images_that_are_taken_in_pieces_are_refused() -> None:
    """A program would have as many pieces as there were when it was traced."""

    class InPieces(Small):
        def forward(self, x: Tensor) -> Any:
            return torch.cat([super(InPieces, self).forward(x[i : i + 32]) for i in range(0, len(x), 32)])

    with pytest.raises(ModelError, match=r"it does something else where there are more images.*Write forward without"):
        fxsnn.capture(seeded(InPieces), EXAMPLE)


class Sized(Small):
    """Its output depends on the size of its images, told as a number."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return -y if x.shape[-1] > 12 else y / x.shape[-2]


def test_what_computes_with_a_size_takes_images_of_that_size_only(convert: Any) -> None:
    model = seeded(Sized)
    graph = fxsnn.capture(model, EXAMPLE)
    assert torch.equal(graph(EXAMPLE), model(EXAMPLE))
    snn = convert(model, target="generic", bits=4, calibration_data=EXAMPLE)
    for captured in (graph, snn):
        with pytest.raises(DataError, match=r"expected \[N, 3, 12, 12\].*: what the network does follows"):
            captured(images(2, size=16))


def test_what_only_looks_at_a_size_takes_others() -> None:
    class Looks(Small):
        def forward(self, x: Tensor) -> Any:
            _count, channels, height, width = x.shape
            assert channels == 3
            assert height > 4
            assert width > 4
            return super().forward(x)

    model = seeded(Looks)
    graph = fxsnn.capture(model, EXAMPLE)
    assert not graph.nodes(FixedSize)
