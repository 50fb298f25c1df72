"""Weights are read safely, and a file that does not fit changes nothing."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import nn

from fxsnn.errors import FileError, FxsnnWarning
from fxsnn.weights import load_weights
from tests.nets import Small, images, seeded


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
        lambda weights: {"n_averaged": torch.tensor(3), **{f"module.{name}": weights[name] for name in weights}},
        lambda weights: {"ema": {"module": weights}, "best": 0.5},
        lambda weights: {"module": weights, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        lambda weights: [weights, {"lr": 0.1}],
        lambda weights: {**weights, "epoch": 3},
        lambda weights: {"state_dict": weights, "same": {f"net.{name}": value for name, value in weights.items()}},
        lambda weights: {"of another network": {"a.weight": torch.zeros(2)}, "anything": weights},
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
    assert_same(model, source)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def under(prefix: str, seed: int) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in seeded(Small, seed).state_dict().items()}


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


def test_tensors_without_the_prefix_are_left_out_and_said(tmp_path: Path) -> None:
    """Those of losses and metrics, in checkpoints of Lightning."""
    source, model = seeded(Small, 1), seeded(Small, 2)
    weights = {f"model.{name}": value for name, value in source.state_dict().items()}
    others = {f"criterion.{number}": torch.zeros(1) for number in range(56)}
    torch.save({"state_dict": {**weights, **others}}, tmp_path / "w.ckpt")
    with pytest.warns(
        FxsnnWarning, match=r"begin with 'model\.': criterion\.0, criterion\.1, criterion\.2, and 53 more$"
    ):
        load_weights(model, tmp_path / "w.ckpt")
    assert_same(model, source)


def test_a_prefix_is_named_where_names_differ_by_more(tmp_path: Path) -> None:
    weights = {f"model.{name}": value for name, value in seeded(Small).state_dict().items()}
    weights["model.extra"] = weights.pop("model.fc.bias")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "w.ckpt")
    unchanged(
        tmp_path / "w.ckpt",
        r"w\.ckpt does not match Small once 'model\.' is taken off its names:\n"
        r"  fc\.bias is missing\n  extra is not in the network\n"
        r"  these are the names in checkpoint\['state_dict'\]; the file has the keys 'state_dict', 'epoch'$",
    )


def test_old_files_have_no_count_of_batches(tmp_path: Path) -> None:
    """As PyTorch takes them, without the warning that a strict comparison of names would be."""
    source, model = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)) for _ in range(2))
    weights = {f"net.{name}": value for name, value in source.state_dict().items() if "num_batches" not in name}
    torch.save(weights, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, source)


def test_averages_of_batch_norm_are_no_such_count(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    weights = {name: value for name, value in model.state_dict().items() if "running" not in name}
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(FileError, match=r"Sequential:\n  1\.running_mean is missing\n  1\.running_var is missing$"):
        load_weights(model, tmp_path / "w.pt")


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
    follow(str(refused.value), model, path)


def follow(message: str, model: nn.Module, path: Path) -> None:
    advice = [line.strip() for line in message.splitlines()[-2:]]
    before = path.read_bytes()
    exec("\n".join(advice), {"torch": torch, "numpy": numpy, "safetensors": safetensors})
    assert path.read_bytes() == before
    load_weights(model, path.with_name("w_weights.pt"))


@pytest.mark.parametrize(
    "wrap", [lambda model: model, nn.DataParallel, torch.compile, lambda model: {"epoch": 3, "best": model}]
)
def test_the_two_lines_make_a_state_dict_of_a_whole_model(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    torch.save(wrap(source), tmp_path / "w.pt")
    follow_advice(model, tmp_path / "w.pt")
    assert torch.equal(model.fc.bias, source.fc.bias)


class Options(dict[str, Any]):
    """As those who write `options.width` make them."""


@pytest.mark.parametrize("new", [True, False], ids=["new form", "form before PyTorch 1.6"])
@pytest.mark.parametrize(
    "beside",
    [
        Namespace(width=8),
        Options(width=8),
        Path("a/b"),
        numpy.float64(0.5),
        {"best": numpy.float32(0.5), "options": Options(width=numpy.int64(8))},
    ],
    ids=lambda beside: type(beside).__name__,
)
def test_objects_beside_the_weights_are_not_read(tmp_path: Path, beside: object, new: bool) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    content = {"args": beside, "model_state_dict": source.state_dict()}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    before = set(torch.serialization.get_safe_globals())
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, source)
    assert set(torch.serialization.get_safe_globals()) == before


def test_nor_is_a_layer_there_but_in_the_old_form_it_is_in_the_way(tmp_path: Path) -> None:
    """That form writes a layer's own code into the file, which PyTorch's reader of tensors does not skip."""
    source, model = seeded(Small, 1), seeded(Small, 2)
    content = {"state_dict": source.state_dict(), "loss": nn.CrossEntropyLoss()}
    torch.save(content, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert_same(model, source)
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    unchanged(tmp_path / "w.pt", r"holds a whole pickled model \(a torch\.nn\.Module\)")


@pytest.mark.parametrize("new", [True, False], ids=["new form", "form before PyTorch 1.6"])
@pytest.mark.parametrize("key", ["model_state_dict", "weights of the best epoch"])
def test_objects_that_stand_in_the_way_are_named_with_lines_that_are_rid_of_them(
    tmp_path: Path, key: str, new: bool
) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    content = {"sizes": {"model": 3}, "last": deque([1, 2]), key: source.state_dict(), "one": {"x": torch.zeros(1)}}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    unchanged(tmp_path / "w.pt", r"it holds other objects than tensors \(collections\.deque\)")
    follow_advice(model, tmp_path / "w.pt")
    assert_same(model, source)


def test_where_the_key_of_the_weights_cannot_be_told_the_message_says_so(tmp_path: Path) -> None:
    torch.save(deque([seeded(Small).state_dict()]), tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"only, with the key in place of 'state_dict' under which they are:\n")


def test_arrays_of_numpy_are_refused_with_lines_that_make_tensors_of_them(tmp_path: Path) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    content = {f"module.{name}": value.numpy() for name, value in source.state_dict().items()}
    torch.save({"epoch": 3, "nets": [content]}, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", "it holds arrays of numpy")
    follow_advice(model, tmp_path / "w.pt")
    assert_same(model, source)


def test_an_archive_of_numpy_is_called_one(tmp_path: Path) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    numpy.savez(tmp_path / "w.npz", **{name: value.numpy() for name, value in source.state_dict().items()})
    unchanged(tmp_path / "w.npz", "it is an archive of numpy")
    follow_advice(model, tmp_path / "w.npz")
    assert_same(model, source)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "ignore:.*deprecated:FutureWarning")
def test_a_program_of_torchscript_is_called_one(tmp_path: Path) -> None:
    source, model = seeded(Small, 1), seeded(Small, 2)
    torch.jit.save(torch.jit.trace(source, images(1)), tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", "it is a program of TorchScript")
    follow_advice(model, tmp_path / "w.pt")
    assert_same(model, source)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n", "pointer of git-lfs.*git lfs pull"),
        ("\n<!DOCTYPE html><html>Sign in</html>", "it is a web page.*Download the file itself"),
    ],
)
def test_what_stands_where_a_file_was_not_fetched_is_told(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    unchanged(tmp_path / name, message)


class TestSeveralStateDicts:
    """A file may have the weights of a training, their average, those of a teacher."""

    def test_the_usual_place_is_taken_and_the_others_are_named(self, tmp_path: Path) -> None:
        model = seeded(Small, 3)
        torch.save({"ema": {"module": under("", 2)}, "model": under("module.", 1)}, tmp_path / "w.pt")
        with pytest.warns(FxsnnWarning, match=r"those in checkpoint\['model'\] are taken, not those in ") as told:
            load_weights(model, tmp_path / "w.pt")
        assert_same(model, seeded(Small, 1))
        follow(str(told[0].message), model, tmp_path / "w.pt")
        assert_same(model, seeded(Small, 2))

    def test_of_several_usual_places_the_first_is_taken(self, tmp_path: Path) -> None:
        model = seeded(Small, 3)
        torch.save({"net": under("", 2), "state_dict": under("", 1)}, tmp_path / "w.pt")
        with pytest.warns(FxsnnWarning, match=r"those in checkpoint\['state_dict'\] are taken"):
            load_weights(model, tmp_path / "w.pt")
        assert_same(model, seeded(Small, 1))

    def test_where_none_is_usual_one_is_asked_to_choose(self, tmp_path: Path) -> None:
        model = seeded(Small, 3)
        torch.save({"a": under("", 1), "b": under("x.", 2), "args": Namespace()}, tmp_path / "w.pt")
        places = r"in 2 places: checkpoint\['a'\], checkpoint\['b'\] under 'x\.'\. "
        unchanged(tmp_path / "w.pt", places + r"Write .* here the first, where you trust the file:")
        follow_advice(model, tmp_path / "w.pt")
        assert_same(model, seeded(Small, 1))

    @pytest.mark.parametrize("wrapper", ["", "module."])
    @pytest.mark.parametrize(("name", "save"), [("w.pt", torch.save), ("w.safetensors", save_file)])
    def test_so_one_is_with_two_prefixes(
        self, tmp_path: Path, wrapper: str, name: str, save: Callable[[Any, Path], None]
    ) -> None:
        model = seeded(Small, 3)
        save({**under(f"student.{wrapper}", 1), **under(f"teacher.{wrapper}", 2)}, tmp_path / name)
        unchanged(tmp_path / name, r"in 2 places: checkpoint under 'student\.', checkpoint under 'teacher\.'\. ")
        follow_advice(model, tmp_path / name)
        assert_same(model, seeded(Small, 1))

    def test_of_another_type_they_are_others(self, tmp_path: Path) -> None:
        halves = {name: value.half() for name, value in under("", 1).items()}
        torch.save({"a": under("", 1), "b": halves}, tmp_path / "w.pt")
        unchanged(tmp_path / "w.pt", r"in 2 places: ")


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
    for new in (True, False):
        torch.save({"weight": Attack()}, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        unchanged(tmp_path / "w.pt", "cannot be read as a state dict")
        torch.save({"fc.bias": Attack(), **under("", 1)}, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        load_weights(seeded(Small), tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", "no state dict of tensors")


def test_its_keys_are_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3, 7: None, "log": [1.0]}, tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"holds a dict, no state dict of tensors; its keys are 'epoch', 7, 'log'\. Write one")
    torch.save(dict.fromkeys(range(9)), tmp_path / "w.pt")
    unchanged(tmp_path / "w.pt", r"its keys are 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\. Write one")


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
