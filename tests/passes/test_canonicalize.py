"""Functions and methods become modules, one per call site, and the function stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.passes import Canonicalize
from tests.nets import CONVERTIBLE, HandWritten, OneRelu, images, seeded


class Around(nn.Module):
    """conv, then `function`, then nothing."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


def canonical(function: Callable[[Tensor], Any]) -> Graph:
    return Canonicalize()(fxsnn.capture(seeded(lambda: Around(function))), images()).after


def test_a_synchronised_batch_norm_becomes_a_plain_one() -> None:
    def build() -> nn.Module:
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 6), nn.BatchNorm1d(6)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 5))

    plain = seeded(build)
    step = Canonicalize()(fxsnn.capture(nn.SyncBatchNorm.convert_sync_batchnorm(plain)), images())
    assert step.moved == 0
    assert [type(step.after[name]) for name in ("1", "5")] == [nn.BatchNorm2d, nn.BatchNorm1d]


def test_it_knows_features_from_maps_whatever_stands_between() -> None:
    def build() -> nn.Module:
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 6), nn.Dropout(), nn.BatchNorm1d(6)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 5))

    step = Canonicalize()(fxsnn.capture(nn.SyncBatchNorm.convert_sync_batchnorm(seeded(build))), images())
    assert step.moved == 0
    assert type(step.after["5"]) is nn.BatchNorm1d


def test_contiguous_stays_where_a_view_depends_on_it() -> None:
    graph = canonical(lambda x: x.transpose(1, 2).contiguous().view(-1, 8, 50))
    assert [node.target for node in graph if node.op == "call_method"] == ["transpose", "contiguous", "view"]


@pytest.mark.parametrize("function", [F.relu, lambda x: F.avg_pool2d(x, 2)])
def test_contiguous_behind_a_layer_stays_too_where_a_view_depends_on_it(function: Callable[[Tensor], Tensor]) -> None:
    """Layers keep the order of dimensions in memory that images come in."""
    graph = canonical(lambda x: function(x).contiguous().view(-1, 2, 25))
    x = images().to(memory_format=torch.channels_last)
    assert torch.equal(graph(x), graph(x.contiguous()))


def test_contiguous_disappears() -> None:
    graph = canonical(lambda x: F.relu(x).contiguous())
    assert [node.op for node in graph] == ["placeholder", "call_module", "call_module", "output"]


def test_contiguous_images_are_images() -> None:
    class Contiguous(Around):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.contiguous())

    step = Canonicalize()(fxsnn.capture(seeded(lambda: Contiguous(F.relu))), images())
    assert [node.op for node in step.after] == ["placeholder", "call_module", "call_module", "output"]
    assert step.moved == 0


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_function_is_kept_in_double_precision(name: str) -> None:
    step = Canonicalize()(fxsnn.capture(seeded(CONVERTIBLE[name])), images())
    assert step.moved is not None
    assert step.moved < 1e-14


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (F.relu, "ReLU()"),
        (torch.relu, "ReLU()"),
        (lambda x: F.relu(x, inplace=True), "ReLU()"),
        (lambda x: x.relu(), "ReLU()"),
        (lambda x: x.relu_(), "ReLU()"),
        (lambda x: F.relu_(x), "ReLU()"),
        (lambda x: F.relu(input=x), "ReLU()"),
        (lambda x: F.avg_pool2d(x, 2), "AvgPool2d(kernel_size=2, stride=2, padding=0)"),
        (
            lambda x: F.avg_pool2d(x, kernel_size=3, stride=1, padding=1),
            "AvgPool2d(kernel_size=3, stride=1, padding=1)",
        ),
        (lambda x: fxsnn.spike_avg_pooling(x, 2, 1), "AvgPool2d(kernel_size=2, stride=1, padding=0)"),
        (lambda x: F.adaptive_avg_pool2d(x, 1), "AdaptiveAvgPool2d(output_size=1)"),
        (lambda x: torch.flatten(x, 1), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.flatten(1), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.flatten(start_dim=1), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.flatten(1, 3), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.view(x.size(0), -1), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.view(x.shape[0], -1), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.view(x.size()[0], -1), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.view((x.size(0), x.size(1) * x.size(2) * x.size(3))), "Flatten(start_dim=1, end_dim=-1)"),
        (lambda x: x.reshape(-1, 400), "Flatten(start_dim=1, end_dim=-1)"),
        pytest.param(
            lambda x: torch.reshape(x, (x.size(0), -1)),
            "Flatten(start_dim=1, end_dim=-1)",
            marks=pytest.mark.skipif(torch.__version__ < "2.7", reason="torch.fx of 2.6 cannot trace it"),
        ),
        (lambda x: F.softmax(x, dim=1), "Softmax(dim=1)"),
        (lambda x: torch.softmax(x, 1), "Softmax(dim=1)"),
        (lambda x: x.softmax(1), "Softmax(dim=1)"),
        (lambda x: F.log_softmax(x, dim=1), "LogSoftmax(dim=1)"),
        (lambda x: x.log_softmax(dim=1), "LogSoftmax(dim=1)"),
    ],
)
def test_functional_forms_become_modules(function: Callable[[Tensor], Tensor], expected: str) -> None:
    graph = canonical(function)
    last = graph.output().all_input_nodes[0]
    module = graph[last]
    assert f"{type(module).__name__}({module.extra_repr()})" == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.5, False),
        lambda x: F.dropout2d(x, training=False),
        nn.Dropout(0.5),
        nn.Dropout2d(),
        nn.Identity(),
    ],
)
def test_dropout_and_identity_disappear(function: Callable[[Tensor], Tensor]) -> None:
    assert [node.op for node in canonical(function)] == ["placeholder", "call_module", "output"]


def test_dropout_that_acts_in_evaluation_too_is_left_for_the_check() -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(lambda: Around(F.dropout)))).after
    assert any(node.target is F.dropout for node in graph)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(2, 2, -1),
        lambda x: torch.flatten(x),
        lambda x: x.view(-1),
        lambda x: x.flatten(1, 2),
        lambda x: torch.flatten(x, 1, -2),
        lambda x: x.flatten(2),
        lambda x: x.view(-1, x.size(1)),
        lambda x: torch.reshape(x, (-1, x.size(2) * x.size(3))),
        lambda x: x.view(x.size(1), -1),
        lambda x: x.view(x.shape[1], -1),
        lambda x: x.view(x.size()[1], -1),
    ],
)
def test_a_view_that_is_no_flatten_is_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    assert not canonical(function).nodes(nn.Flatten)


@pytest.mark.parametrize("dimensions", [(1, 2), (2, -1), (0, 1)])
def test_a_module_that_flattens_a_part_keeps_what_it_flattens(dimensions: tuple[int, int]) -> None:
    graph = canonical(nn.Flatten(*dimensions))
    (node,) = graph.nodes(nn.Flatten)
    flatten: Any = graph[node]
    assert (flatten.start_dim, flatten.end_dim) == dimensions


def test_one_relu_used_twice_becomes_two() -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(OneRelu))).after
    first, second = graph.nodes(nn.ReLU)
    assert graph[first] is not graph[second]
    assert graph.name(first) == "relu"
    assert not graph.shared()


@pytest.mark.parametrize("calls", [2, 3])
@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(), nn.AvgPool2d(1), nn.AdaptiveAvgPool2d(10), nn.Flatten(), nn.Flatten(3), nn.Softmax(1),
        nn.LogSoftmax(1),
    ],
    ids=repr,
)  # fmt: skip
def test_a_module_called_several_times_becomes_as_many_and_the_first_keeps_its_name(
    module: nn.Module, calls: int
) -> None:
    class Repeated(Around):
        def forward(self, x: Tensor) -> Any:
            x = self.conv(x)
            for _ in range(calls):
                x = self.function(x)
            return x

    graph = Canonicalize()(fxsnn.capture(seeded(lambda: Repeated(module))), images()).after
    nodes = graph.nodes(type(module))
    assert len({id(graph[node]) for node in nodes}) == len(nodes) == calls
    assert graph.name(nodes[0]) == "function"


def test_layers_written_by_hand_become_their_namesakes() -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(HandWritten)), images()).after
    kinds = [type(graph[node]) for node in graph if node.op == "call_module"]
    assert kinds == [
        nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear
    ]  # fmt: skip


GOLDEN = """\
name          calls                                                                   reads
------------  ----------------------------------------------------------------------  ------------
x             placeholder
conv1         Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))         x
relu          ReLU()                                                                  conv1
avg_pool2d    AvgPool2d(kernel_size=2, stride=2, padding=0)                           relu
conv2         Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1))                         avg_pool2d
relu_         ReLU()                                                                  conv2
view          Flatten(start_dim=1, end_dim=-1)                                        relu_
hidden        Linear(in_features=128, out_features=16, bias=True)                     view
relu_1        ReLU()                                                                  hidden
fc            Linear(in_features=16, out_features=5, bias=True)                       relu_1
log_softmax   LogSoftmax(dim=1)                                                       fc"""


def test_the_text_of_a_canonical_graph() -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(CONVERTIBLE["functional"]))).after
    cells = [line.split() for line in graph.text(hashes=False).splitlines()]
    assert [row[:-1] if row[-1] == "tensors" else row for row in cells][2:] == [
        line.split() for line in GOLDEN.splitlines()
    ][2:]


@pytest.mark.parametrize("call", [lambda x: torch.softmax(x, 1, torch.float64), lambda x: x.softmax(1, torch.float64)])
def test_a_softmax_that_changes_the_type_goes_on_doing_so(call: Callable[[Tensor], Tensor]) -> None:
    assert canonical(call)(images()).dtype == torch.float64


def test_a_flatten_up_to_the_last_dimension_of_a_map_joins_all() -> None:
    graph = Canonicalize()(fxsnn.capture(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(1, 3)))).after
    assert repr(graph["2"]) == "Flatten(start_dim=1, end_dim=-1)"


class Randomised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.rrelu(x, 0.1, 0.3, self.training)


@pytest.mark.parametrize("layer", [lambda: nn.RReLU(0.1, 0.3), Randomised])
def test_a_randomised_slope_is_its_mean_in_evaluation_mode(layer: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), layer(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    x = torch.randn(2, 1, 10, 10)
    step = Canonicalize()(fxsnn.capture(net.eval(), x), x)
    (leaky,) = (step.after[node] for node in step.after.nodes(nn.LeakyReLU))
    assert leaky.negative_slope == pytest.approx(0.2)
    assert step.moved is not None
    assert step.moved < 1e-12


WRITTEN: dict[str, Callable[[Tensor], Any]] = {
    "a slice": lambda y: y[:, :2].relu_(),
    "a chunk": lambda y: y.chunk(2, 1)[0].mul_(2),
    "a view": lambda y: F.relu(y.flatten(2), inplace=True),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_writes_into_a_part_that_others_read_is_refused_with_its_line(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 5)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            WRITTEN[name](y)
            return self.fc(F.relu(y).flatten(1))

    with pytest.raises(fxsnn.ModelError, match=r"test_canonicalize\.py:\d+\): it writes into a part of a tensor"):
        fxsnn.convert(Net().eval(), target="generic", bits=4, calibration_data=torch.rand(4, 3, 8, 8))


def test_what_writes_into_a_view_that_alone_is_read_is_taken(convert: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(F.relu(self.conv(x).flatten(1), inplace=True))

    x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Net().eval()
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert torch.corrcoef(torch.stack([snn(x).flatten(), model(x).flatten()]))[0, 1] > 0.98
