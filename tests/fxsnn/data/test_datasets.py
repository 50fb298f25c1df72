"""Data sets by name, the embedded digits, and the user's own by one decorator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fxsnn import datasets
from fxsnn.errors import DataError, OptionError, UnknownName


def test_the_embedded_digits_need_no_file() -> None:
    train, test = datasets.load(datasets.EMBEDDED, "/nowhere")
    images, labels = next(iter(DataLoader(train, batch_size=2000)))
    assert images.shape == (2000, 1, 28, 28)
    assert len(test) == 1000  # type: ignore[arg-type]
    assert set(labels.tolist()) == set(range(10))
    assert abs(float(images.mean())) < 0.1
    assert float(images.std()) == pytest.approx(1, abs=0.1)


def test_training_and_test_digits_do_not_overlap() -> None:
    train, test = (
        {image.numpy().tobytes() for image, _ in half}  # type: ignore[attr-defined]
        for half in datasets.load(datasets.EMBEDDED)
    )
    assert train.isdisjoint(test)


def test_the_usual_ones_are_known() -> None:
    assert {"digits", "MNIST", "FashionMNIST", "CIFAR10"} <= set(datasets.names())


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10"])
def test_missing_files_are_an_error_that_names_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"data set '{name}' could not be read from '{tmp_path}'"):
        datasets.load(name, tmp_path)


def test_another_normalisation_is_taken_instead_of_the_usual_one() -> None:
    usual, other = datasets.load("digits").test[0][0], datasets.load("digits", mean=[0.5], std=[0.25]).test[0][0]
    torch.testing.assert_close((usual * 0.3081 + 0.1307 - 0.5) / 0.25, other)


def test_one_half_of_a_normalisation_leaves_the_other_as_it_is() -> None:
    assert datasets.normalisation_of("CIFAR10", std=[1, 1, 1]) == ((0.4914, 0.4822, 0.4465), (1, 1, 1))
    assert str(datasets.normalisation_of("FashionMNIST")) == "mean 0.286, deviation 0.353"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("digits", {"mean": [0.1, 0.2]}, "mean is 0.1, 0.2; digits takes 1 number$"),
        ("CIFAR10", {"std": [1, 1, 0]}, "std is 1, 1, 0; CIFAR10 takes 3 numbers above 0"),
        ("digits", {"mean": [float("nan")]}, "mean is nan"),
        ("mine.npz", {"mean": [0.5]}, "images of mine.npz come as they are: normalise them there"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        datasets.load(name, **given)


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(UnknownName, match=r"unknown data set 'SVHN'; known: digits, MNIST, .*register"):
        datasets.load("SVHN")


def test_mnist_is_read_from_its_files_and_normalised_as_the_embedded_digits(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    for half, count in (("train", 2), ("t10k", 2)):
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{half}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], dtype=">i4").tobytes() + b"\x03\x07")
    train, test = datasets.load("MNIST", tmp_path)
    image, label = train[1]
    expected = (torch.from_numpy(pixels[784:].reshape(28, 28).copy()).float() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(image[0], expected)
    assert (label, len(test)) == (7, 2)  # type: ignore[arg-type]


class TestTheUsersOwn:
    @pytest.fixture(autouse=True)
    def _own_registry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets, "_registered", dict(datasets._registered))

    def test_takes_one_decorator(self, tmp_path: Path) -> None:
        @datasets.register("noise")
        def noise(data_dir: Path) -> datasets.Splits:
            assert data_dir == tmp_path
            data = TensorDataset(torch.zeros(3, 1, 4, 4), torch.zeros(3))
            return datasets.Splits(data, data)

        assert "noise" in datasets.names()
        assert len(datasets.load("noise", str(tmp_path)).train) == 3  # type: ignore[arg-type]

    def test_cannot_take_a_name_that_is_taken(self) -> None:
        with pytest.raises(OptionError, match=r"data set 'MNIST' is already registered by fxsnn\.data\.datasets"):
            datasets.register("MNIST")(lambda _: datasets.load("digits"))


class TestArraysInAFile:
    def test_two_halves_or_one_for_both(self, tmp_path: Path) -> None:
        x, y = np.ones((6, 1, 4, 4), np.float64), np.arange(6)
        np.savez(tmp_path / "two.npz", train_images=x, train_labels=y, test_images=x[:2], test_labels=y[:2])
        np.savez(tmp_path / "one.npz", images=x, labels=y)
        splits = datasets.load(str(tmp_path / "two.npz"))
        assert (len(splits.train), len(splits.test)) == (6, 2)  # type: ignore[arg-type]
        image, label = splits.train[3]
        assert (image.dtype, image.shape, int(label)) == (torch.float32, (1, 4, 4), 3)
        one = datasets.load(str(tmp_path / "one.npz"))
        assert one.train is one.test

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({}, "has no arrays; it needs train_images"),
            ({"images": np.ones((2, 1, 4, 4))}, "has images; it needs"),
            ({"images": np.ones(2), "labels": np.arange(2)}, r"images are float64 \[2\] .*\[N, C, L\] or \[N, F\]"),
            ({"images": np.ones((2, 1, 4, 4), np.uint8), "labels": np.arange(2)}, "images are uint8 .*normalised"),
            ({"images": np.ones((2, 1, 4, 4)), "labels": np.arange(3)}, r"labels int64 \[3\]"),
        ],
    )
    def test_what_is_wrong_with_them_is_said(self, arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(DataError, match=message):
            datasets.load(str(tmp_path / "x.npz"))

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", images=np.array([{}], dtype=object))
        with pytest.raises(DataError, match="cannot be read as arrays"):
            datasets.load(str(tmp_path / "x.npz"))


class TestTheTrainedNetwork:
    def test_it_classifies_the_digits_that_ship_with_it(self) -> None:
        images, labels = datasets.load("digits").test[:]
        with torch.no_grad():
            right = datasets.digit_net()(images).argmax(1) == labels
        assert int(right.sum()) >= 995

    def test_each_call_gives_one_of_its_own_in_evaluation_mode(self) -> None:
        first, second = datasets.digit_net(), datasets.digit_net()
        assert not any(module.training for module in first.modules())
        assert not {id(one) for one in first.parameters()} & {id(one) for one in second.parameters()}
