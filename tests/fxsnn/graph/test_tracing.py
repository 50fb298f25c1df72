"""A model is captured without being changed, or it is said why it cannot be."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import ModelError
from fxsnn.graph import capture_sharing
from tests.clipped import Own
from tests.nets import Functional, Small, images, seeded


class TestTheUsersModel:
    """Whatever happens to it, it stays as it was."""

    def test_training_mode_weights_and_device_stay(self) -> None:
        model = seeded(Small).train()
        before = copy.deepcopy(model.state_dict())
        fxsnn.capture(model)
        assert model.training
        assert all(module.training for module in model.modules())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_hooks_stay_and_do_not_fire(self) -> None:
        fired: list[str] = []
        model = seeded(Small)
        handle = model.conv1.register_forward_hook(lambda *_: fired.append("hook"))
        graph = fxsnn.capture(model)
        graph(images())
        assert fired == []
        model(images())
        assert fired == ["hook"]
        assert handle.id in model.conv1._forward_hooks

    def test_no_tensor_is_shared_with_the_graph(self) -> None:
        model = seeded(Small)
        ours = {t.data_ptr() for t in fxsnn.capture(model).module.parameters()}
        assert ours.isdisjoint(t.data_ptr() for t in model.parameters())

    def test_a_graph_to_look_at_has_the_very_parameters_and_buffers_of_its_own(self) -> None:
        class Counting(Small):
            calls: Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, x: Tensor) -> Tensor:
                self.calls.add_(1)
                return super().forward(x)

        model = seeded(Counting)
        graph = capture_sharing(model)
        assert graph["conv1"].weight is model.conv1.weight
        assert float(model.calls) == 0

    def test_gradients_and_random_numbers_stay(self) -> None:
        model = seeded(Small)
        model(images()).sum().backward()
        before, state = model.conv1.weight.grad, torch.get_rng_state()
        fxsnn.capture(model)
        assert model.conv1.weight.grad is before
        assert torch.equal(torch.get_rng_state(), state)


@contextmanager
def beside(run: Callable[[], object]) -> Iterator[list[str]]:
    """While another thread calls `run` over and over; what it raised."""
    failures: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.0005):
            try:
                run()
            except Exception as error:
                failures.append(repr(error))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()


class TestThreads:
    """torch.fx patches `nn.Module` while it traces."""

    def in_six(self, work: Callable[[int], object], times: int) -> list[object]:
        """Results of calls from six threads, beside another that runs a model; PyTorch is then as it was."""
        model, x = nn.Sequential(nn.Linear(4, 4), Scaled()), torch.ones(2, 4)
        expected, patched, state = model(x), (nn.Module.__call__, nn.Module.__getattr__), torch.get_rng_state()

        def run() -> None:
            if not torch.equal(model(x), expected):
                raise AssertionError("another result")

        with beside(run) as failures, ThreadPoolExecutor(6) as pool:
            found = list(pool.map(work, range(times)))
        assert failures == []
        assert (nn.Module.__call__, nn.Module.__getattr__) == patched
        assert torch.equal(torch.get_rng_state(), state)
        return found

    def test_capture_beside_each_other_and_beside_a_plain_model(self) -> None:
        model = seeded(Small)
        texts = self.in_six(lambda _: fxsnn.capture(model).text(), 30)
        assert set(texts) == {fxsnn.capture(model).text()}

    def test_convert_beside_each_other_as_they_do_alone(self) -> None:
        """A shuffled loader draws from the generator of the process."""
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)
        model, data = seeded(lambda: nn.Sequential(*layers)), TensorDataset(images(12))

        def converted(bits: int) -> list[list[float]]:
            loader = DataLoader(data, 4, shuffle=True)
            snn = fxsnn.convert(model, target="generic", bits=bits, calibration_data=loader, correction="biases")
            return [tensor.flatten().tolist() for tensor in snn.state_dict().values()]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
            alone = converted(2)
            assert self.in_six(lambda _: converted(2), 6) == [alone] * 6

    def test_unpickle_which_traces_too(self) -> None:
        """While it does, a class of torch.fx has the code of one program: two must not take each other's."""
        graphs = [fxsnn.capture(seeded(build)) for build in (Small, Functional)]
        contents, texts = [pickle.dumps(graph) for graph in graphs], [graph.text() for graph in graphs]
        assert self.in_six(lambda number: pickle.loads(contents[number % 2]).text(), 60) == texts * 30


class Scaled(nn.Module):
    """Has a parameter of its own, which torch.fx would take for its business."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TestWhatCannotBeCaptured:
    """One finding with the place in the user's code and the remedy."""

    def test_branches_on_values(self) -> None:
        class Branching(Small):
            def forward(self, x: Tensor) -> Any:
                if x.sum() > 0:
                    return super().forward(x)
                return x

        with pytest.raises(ModelError, match=r"Branching \(test_tracing\.py:\d+\): torch\.fx cannot trace .*branches"):
            fxsnn.capture(Branching())

    def test_something_else_than_a_module(self) -> None:
        with pytest.raises(ModelError, match=r"it is of type function, not a torch\.nn\.Module"):
            fxsnn.capture(lambda x: x)  # type: ignore[arg-type]

    def test_a_class_instead_of_the_network_that_it_makes(self) -> None:
        with pytest.raises(ModelError, match=r"it is of type type, not a torch\.nn\.Module\. Call it: Small\(\)"):
            fxsnn.capture(Small)  # type: ignore[arg-type]

    def test_lazy_layers_without_weights(self) -> None:
        with pytest.raises(ModelError, match="lazy and has no weights yet"):
            fxsnn.capture(nn.Sequential(nn.LazyConv2d(3, 3), nn.ReLU()))


def test_inputs_with_a_default_are_left_out() -> None:
    class Optional(Small):
        def forward(
            self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0, *, double: bool = False, word: str = "no"
        ) -> Any:
            logits = super().forward(x if mask is None else x * mask) * scale
            return 2 * logits if double else logits

    model = seeded(Optional)
    assert [node.name for node in fxsnn.capture(model) if node.op == "placeholder"] == ["x"]
    assert torch.equal(fxsnn.capture(model)(images()), model(images()))


def test_a_wrapper_is_taken_off() -> None:
    model = seeded(Small)
    assert "conv1" in fxsnn.capture(nn.DataParallel(model))


def test_names_of_what_a_call_gives_are_not_taken() -> None:
    """`values` of `torch.max`, where sizes are known, too."""

    class Largest(Small):
        def forward(self, x: Tensor) -> Any:
            largest = torch.max(super().forward(x), 1)
            return largest.values + largest.indices

    model, given = seeded(Largest), images()
    assert torch.equal(fxsnn.capture(model, given)(given), model(given))


# What writes into parts, and what is compiled ------------------------------------------------------------------------


def assigned(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0
    return y


def partly_assigned(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y


def compiled_clamp() -> Any:
    @torch.jit.script
    def clamp(x):  # type: ignore[no-untyped-def]
        return torch.clamp(x, 0.0, 2.0)

    return lambda m, x: clamp(x)


def around(function: Any) -> nn.Module:
    body = nn.Conv2d(3, 4, 3), Own(function), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    return seeded(lambda: nn.Sequential(*body))


def test_numbers_that_are_assigned_where_a_mask_says_so_are_filled_in() -> None:
    model, x = around(assigned), images(3)
    graph = fxsnn.capture(model, x)
    assert "masked_fill_" in str([node.target for node in graph])
    torch.testing.assert_close(graph(x), model(x))
    assert fxsnn.check(model, target="generic", bits=4, example=x).ok


def test_other_parts_that_are_assigned_say_what_to_use() -> None:
    with pytest.raises(ModelError, match=r"Use torch.where, masked_fill or torch.clamp"):
        fxsnn.capture(around(partly_assigned), images(3))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_function_in_torchscript_says_so() -> None:
    with pytest.raises(ModelError, match=r"Remove @torch.jit.script"):
        fxsnn.capture(around(compiled_clamp()), images(3))


def test_a_layer_with_a_forward_of_its_own_is_what_that_computes() -> None:
    """Put into the instance, as tools that patch networks do."""

    def doubled(self: nn.Conv2d, x: Tensor) -> Tensor:
        return 2 * nn.functional.conv2d(x, self.weight, self.bias)

    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)))
    model[0].forward = MethodType(doubled, model[0])
    graph = fxsnn.capture(model, images(12))
    torch.testing.assert_close(graph(images(12)), model(images(12)))
    assert fxsnn.check(model, target="generic", bits=4, example=images(12)).ok
