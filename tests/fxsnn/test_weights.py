"""Weights are read safely, and a file that does not fit changes nothing."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxsnn.errors import FileError
from fxsnn.weights import load_weights
from tests.nets import Small, seeded


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"net": {f"module.{name}": value for name, value in weights.items()}},
        lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
        lambda weights: {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 3},
        lambda weights: {"state_dict": {f"model._orig_mod.{name}": value for name, value in weights.items()}},
        lambda weights: {f"module.{name.replace('.', '._orig_mod.')}": value for name, value in weights.items()},
        lambda weights: {"epoch": 3, "model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
        lambda weights: {"model": {"state_dict": {f"module._orig_mod.{name}": weights[name] for name in weights}}},
        lambda weights: {name.replace(".", ".module."): value for name, value in weights.items()},
        lambda weights: {  # of Lightning
            "epoch": 3,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {f"net.module.{name.replace('.', '._orig_mod.')}": weights[name] for name in weights},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
            "hyper_parameters": {"width": 8},
        },
    ],
)
def test_weights_are_found_in_the_usual_forms(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def unchanged(path: Path, message: str) -> None:
    model = seeded(Small)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FileError, match=message):
        load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    unchanged(tmp_path / "none.pt", r"none\.pt: there is no such file")


def test_names_that_are_the_networks_own_are_no_prefix(tmp_path: Path) -> None:
    """A network with a part that is called `module`, or `model`."""
    source, model = (nn.ModuleDict({"module": seeded(Small, seed)}) for seed in (1, 2))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.state_dict()["module.fc.bias"], source.state_dict()["module.fc.bias"])


def test_a_prefix_that_is_not_all_that_differs_is_named_and_the_rest_is_short(tmp_path: Path) -> None:
    weights = {f"model.{name}": value for name, value in seeded(Small).state_dict().items()}
    others = {f"criterion.{number}": torch.zeros(1) for number in range(56)}
    torch.save({"state_dict": {**weights, **others}}, tmp_path / "w.ckpt")
    unchanged(
        tmp_path / "w.ckpt",
        r"w\.ckpt does not match Small once 'model\.' is taken off its names:\n"
        r"  criterion\.0 has no such prefix\n.*1 has.*\n.*2 has.*\n  and 53 more have none$",
    )


def test_one_weight_under_two_names_is_refused(tmp_path: Path) -> None:
    weights = {f"model.{name}": value for name, value in seeded(Small).state_dict().items()}
    torch.save({**weights, "fc.bias": torch.zeros(5)}, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"once 'model\.' is taken off its names:\n  fc\.bias has no such prefix$")


def test_a_name_that_ends_alike_makes_no_prefix(tmp_path: Path) -> None:
    others = {f"layer{number}.weight": torch.zeros(1) for number in range(9)}
    torch.save({**others, "head.fc.bias": torch.zeros(5)}, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"does not match Small:\n  conv1\.weight is missing\n")


def test_wrappers_in_the_network_or_in_the_file_come_off(tmp_path: Path) -> None:
    """Names may differ by what wraps parts of the network, on either side, and by what its own parts are called."""
    one, other = seeded(Small, 1), seeded(Small, 2)
    other.hidden = nn.DataParallel(other.hidden)
    source, wrapped = nn.ModuleDict({"module": one}), nn.ModuleDict({"module": other})
    for written, read in ((source, wrapped), (wrapped, source)):
        torch.save(written.state_dict(), tmp_path / "w.pt")
        load_weights(read, tmp_path / "w.pt")
        for value, expected in zip(read.parameters(), written.parameters(), strict=True):
            assert torch.equal(value, expected)
        torch.save(seeded(Small, 3).state_dict(), tmp_path / "w.pt")
        load_weights(read, tmp_path / "w.pt")
        assert torch.equal(next(read.parameters()), next(seeded(Small, 3).parameters()))


def test_names_that_only_a_wrapper_tells_apart_stay_as_they_are(tmp_path: Path) -> None:
    weights = seeded(Small).state_dict()
    torch.save({**weights, "module.fc.bias": torch.zeros(5)}, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"does not match Small:\n  module\.fc\.bias is not in the network$")


def test_a_wrapper_that_holds_itself_is_no_state_dict(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", "no state dict of tensors")


@pytest.mark.parametrize("save", [torch.save, lambda model, path: torch.save({"model": model}, path)])
def test_a_whole_pickled_model_is_called_what_it_is(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    save(seeded(Small), tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"holds a whole pickled model \(tests\.nets\.Small\)(.|\n)*save\(model\.state_dict")
    save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"holds a whole pickled model \(a torch\.nn\.Module\)")


def follow_advice(model: nn.Module, path: Path) -> None:
    """Run the last two lines of the message, and load what they write."""
    with pytest.raises(FileError) as refused:
        load_weights(model, path)
    advice = [line.strip() for line in str(refused.value).splitlines()[-2:]]
    before = path.read_bytes()
    exec("\n".join(advice), {"torch": torch})
    assert path.read_bytes() == before
    load_weights(model, path.with_name("w_weights.pt"))


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile])
def test_the_two_lines_make_a_state_dict_of_a_whole_model(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    torch.save(wrap(source), tmp_path / "w.pt")
    follow_advice(model, tmp_path / "w.pt")
    assert torch.equal(model.fc.bias, source.fc.bias)


def test_a_checkpoint_with_other_objects_is_told_how_to_be_rid_of_them(tmp_path: Path) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    torch.save({"state_dict": source.state_dict(), "hyper_parameters": Namespace(width=8)}, tmp_path / "w.ckpt")
    unchanged(tmp_path / "w.ckpt", r"it holds other objects than tensors \(argparse\.Namespace\)")
    follow_advice(model, tmp_path / "w.ckpt")
    assert torch.equal(model.fc.bias, source.fc.bias)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    torch.save(seeded(Small).state_dict(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[: int(len(content) * share)])
    unchanged(tmp_path / "w.pt", "cannot be read as a state dict")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Attack()))
    unchanged(tmp_path / "w.pt", "cannot be read as a state dict")
    torch.save({"weight": Attack()}, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", "cannot be read as a state dict")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", "no state dict of tensors")


def test_everything_that_does_not_match_is_listed(tmp_path: Path) -> None:
    weights = dict(nn.Module.state_dict(seeded(Small)))
    weights["fc.weight"] = torch.zeros(3, 16)
    weights["extra"] = weights.pop("conv1.weight")
    torch.save(weights, tmp_path / "w.pt")
    unchanged(
        tmp_path / "w.pt",
        r"(?s)conv1\.weight is missing.*extra is not in .*fc\.weight has shape \[3, 16\], .* wants \[5, 16\]",
    )


def test_a_name_that_is_too_long_for_weights_is_told(tmp_path: Path) -> None:
    unchanged(tmp_path / ("x" * 300), "cannot be read: File name too long")
