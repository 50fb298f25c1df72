"""What users have as data: tensors, pairs, loaders, lists of batches; the same images come out of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.data import (
    accepted,
    batches_of,
    held_out,
    image_batches,
    images_and_labels,
    labelled_batches,
    length_of,
)
from fxsnn.errors import DataError, OptionError
from fxsnn.layers import ImageForm
from tests.nets import images

X, Y = images(300), torch.arange(300) % 7
FORM = ImageForm(3, 4)

WITH_LABELS: dict[str, Any] = {
    "a pair of tensors": (X, Y),
    "a loader": DataLoader(TensorDataset(X, Y), 64),
    "a list of batches": [(X[:10], Y[:10]), [X[10:], Y[10:]]],
    "batches with more in them": [(X, Y, "names")],
    "a batch without images among others": [(X, Y), (X[:0], Y[:0])],
    "a mapping of tensors": {"pixel_values": X, "labels": Y},
    "a list of mappings": [{"image": X[:10], "label": Y[:10]}, {"image": X[10:], "label": Y[10:], "id": 7}],
}
WITHOUT: dict[str, Any] = {
    "a tensor": X,
    "a list of batches": list(X.split(70)),
    "a generator": (part for part in X.split(99)),
    "batches of images alone": [(X,)],
    "mappings without labels": [{"image": part} for part in X.split(70)],
}


@pytest.mark.parametrize("name", WITH_LABELS)
def test_images_and_labels_come_in_order_and_together(name: str) -> None:
    read = list(labelled_batches(WITH_LABELS[name], FORM, what="data"))
    assert torch.equal(torch.cat([one for one, _ in read]), X)
    assert torch.equal(torch.cat([labels for _, labels in read if labels is not None]), Y)


@pytest.mark.parametrize("name", WITHOUT)
def test_images_alone_have_no_labels(name: str) -> None:
    read = list(labelled_batches(WITHOUT[name], FORM, what="data"))
    assert torch.equal(torch.cat([one for one, _ in read]), X)
    assert all(labels is None for _, labels in read)


def test_tensors_come_a_few_images_at_a_time() -> None:
    assert [len(part) for part in image_batches(X, FORM)] == [256, 44]
    assert [len(part) for part in image_batches((X, Y), FORM)] == [256, 44]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "calibration data is a int; expected images"),
        ([], "calibration data is empty"),
        (X[:0], "calibration data is empty"),
        ([Y], "images"),
        (images(2, channels=1), "channel"),
    ],
)
def test_what_holds_no_images_for_the_network_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(image_batches(data, FORM))


def test_an_error_that_is_not_about_the_shape_is_not_blamed_on_it() -> None:
    message = r"the network does not accept images of shape \[300, 3, 12, 12\]: too large"
    with pytest.raises(DataError, match=message), accepted(X):
        raise RuntimeError("too large\nand more")
    with pytest.raises(RuntimeError, match="a bug"), accepted(X, size=(3, 12, 12)):
        raise RuntimeError("a bug")
    with pytest.raises(NotImplementedError), accepted(X):
        raise NotImplementedError


def test_training_shuffles_tensors_and_takes_batches_as_they_are() -> None:
    torch.manual_seed(0)
    loaded = list(batches_of((X, Y), 128))
    assert [len(labels) for _, labels in loaded] == [128, 128, 44]
    labels = torch.cat([labels for _, labels in loaded])
    assert not torch.equal(labels, Y)
    assert torch.equal(labels.sort()[0], Y.sort()[0])
    assert torch.equal(torch.cat([labels for _, labels in batches_of((X, Y), shuffle=False)]), Y)
    batches = [(X, Y)]
    assert batches_of(batches) is batches
    (only,) = batches_of(X, 300, labels=False, shuffle=False)
    assert torch.equal(only[0], X)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:4]), "there are 300 images and 4 labels"),
        ((X[:0], Y[:0]), "fine-tuning data is empty"),
        ([], "fine-tuning data is empty"),
        (X, "fine-tuning data is a Tensor; expected a pair"),
        (None, "fine-tuning data is a NoneType"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        batches_of(data)


def test_two_batches_of_images_are_no_images_with_labels() -> None:
    batches = (X[:16], X[16:40])
    assert batches_of(batches, labels=False) is batches
    with pytest.raises(OptionError, match="data that come in batches cannot be split"):
        held_out(batches, 0.5, 0, labels=False)


def test_beside_vectors_a_tensor_of_other_width_are_labels() -> None:
    vectors, column = torch.randn(30, 5), torch.randn(30, 1)
    (read,) = labelled_batches((vectors, column), ImageForm(5, 2), what="data")
    assert torch.equal(read[0], vectors)
    assert read[1] is not None
    assert torch.equal(read[1], column)
    assert [len(part) for part in image_batches((vectors[:20], vectors[20:]), ImageForm(5, 2))] == [20, 10]
    assert [len(part) for part in image_batches((vectors[:, :, None], vectors), ImageForm(5, 3))] == [30]
    batches = (vectors[:20], vectors[20:])
    assert batches_of(batches, labels=False) is batches


def test_how_many_batches_there_are_is_known_of_what_has_a_length() -> None:
    assert length_of([X, X]) == 2
    assert length_of(part for part in X) is None


@pytest.mark.parametrize("labels", [True, False])
def test_a_share_is_held_out_at_random_and_nothing_is_lost(*, labels: bool) -> None:
    data: Any = (X, Y) if labels else X
    kept, out = held_out(data, 0.25, seed=0, labels=labels)
    parts = [(part[0] if labels else part) for part in (kept, out)]
    assert [len(part) for part in parts] == [225, 75]
    assert torch.equal(torch.cat(parts).flatten(1).sum(1).sort()[0], X.flatten(1).sum(1).sort()[0])
    again, other = (held_out(data, 0.25, seed=seed, labels=labels)[1] for seed in (0, 1))
    first, second = (part[0] if labels else part for part in (again, other))
    assert torch.equal(first, parts[1])
    assert not torch.equal(second, parts[1])


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_one_image_at_least_is_on_either_side(share: float) -> None:
    kept, out = held_out((X[:5], Y[:5]), share, seed=0)
    assert min(len(kept[0]), len(out[0])) == 1


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(OptionError, match=r"validation is 1\.5; allowed are shares between 0 and 1"):
        held_out((X, Y), 1.5, 0)
    with pytest.raises(OptionError, match="data that come in batches cannot be split"):
        held_out([(X, Y)], 0.5, 0)
    with pytest.raises(DataError, match="one of at least two"):
        held_out((X[:1], Y[:1]), 0.5, 0)


def test_a_batch_for_training_has_labels_where_these_are_wanted() -> None:
    given, labels = images_and_labels((X, Y.int()), FORM, labels=True)
    assert given is X
    assert labels is not None
    assert labels.dtype == torch.int64
    assert images_and_labels((X, "anything"), FORM, labels=False) == (X, None)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, r"must be \(images, labels\)"),
        ((X,), r"must be \(images, labels\)"),
        ((X, Y * 1j), r"labels are torch.complex64 \[300\]; expected a tensor of integers \[300\], or of floats"),
        ((X, Y[:2]), r"labels are torch.int64 \[2\]; expected a tensor of integers \[300\]"),
        ((X, "labels"), "labels are a str"),
    ],
)
def test_what_is_no_batch_for_training_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        images_and_labels(batch, FORM, labels=True)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16, torch.float32])
def test_labels_are_numbers_and_integers_of_one_type_for_every_reader(dtype: torch.dtype) -> None:
    """What they mean is for the outputs to tell."""
    given, wanted = (X, Y.to(dtype)), torch.int64 if dtype is torch.uint16 else dtype
    read = [labels for _, labels in labelled_batches(given, FORM, what="data") if labels is not None]
    assert {labels.dtype for labels in (*read, images_and_labels(given, FORM, labels=True)[1])} == {wanted}


def test_labels_of_a_loss_of_ones_own_may_be_of_any_structure() -> None:
    labels = {"class": Y, "place": (Y.float(), torch.stack([Y, Y], 1))}
    (batch,) = batches_of((X, labels), 300, shuffle=False)
    given, read = images_and_labels(batch, FORM, labels=True, any_labels=True)
    assert torch.equal(given, X)
    assert torch.equal(read["place"][1], labels["place"][1])  # type: ignore[index]
    kept, out = held_out((X, labels), 0.1, seed=0)
    assert [len(part[1]["place"][0]) for part in (kept, out)] == [270, 30]
    assert images_and_labels((X, Y, "names"), FORM, labels=True, any_labels=True)[1] == (Y, "names")
    with pytest.raises(DataError, match="there are 300 images and 4 labels"):
        batches_of((X, (Y, Y[:4])))


def test_what_comes_with_images_may_be_nothing_or_more_than_labels() -> None:
    assert [labels for _, labels in labelled_batches((X, None), FORM, what="data")] == [None, None]
    names = ["image"] * len(X)
    assert [len(labels) for _, labels in labelled_batches((X, Y, names), FORM, what="data") if labels is not None] == [
        256,
        44,
    ]
    assert [len(part) for part in image_batches((X, np.zeros(300)), FORM)] == [256, 44]  # nobody reads these labels
    with pytest.raises(DataError, match="data: a int comes with the images; expected a tensor of labels"):
        list(labelled_batches((X, 3), FORM, what="data"))


class DataModule:
    """As Lightning has them."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(X, Y), 64)


def test_parts_of_other_names_are_refused_with_those_that_are_known() -> None:
    for data in ({"x": X, "y": Y}, [{"x": X, "y": Y}]):
        with pytest.raises(
            DataError, match="a batch has the parts 'x', 'y'; images are looked for under 'pixel_values'"
        ):
            list(image_batches(data, FORM))


def test_of_a_data_module_its_loader_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"a DataModule; .* give its train_dataloader\(\)"):
        list(image_batches(DataModule(), FORM))
    with pytest.raises(DataError, match=r"a DataModule; .* give its train_dataloader\(\)"):
        batches_of(DataModule())


def test_mappings_are_trained_on_and_held_out_as_pairs_are() -> None:
    named = {"image": X, "label": Y}
    (kept, out), (images_kept, images_out) = held_out(named, 0.25, seed=1), held_out((X, Y), 0.25, seed=1)
    assert all(torch.equal(one, other) for one, other in zip((*kept, *out), (*images_kept, *images_out), strict=True))
    (batch,) = batches_of(named, batch_size=300, shuffle=False)
    assert torch.equal(batch[0], X)
    assert torch.equal(batch[1], Y)
