import math
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.data.base import DataError
from detectors.data.loader import (
    Batch,
    Shares,
    collate,
    epoch_order,
    train_batches,
    val_batches,
)
from detectors.structures import ImageTruth, Sample, Targets
from detectors.training import Training
from detectors.world import shard
from tests.photographs import Photograph, written


class Marked:
    """Images of random pixels; image i has id 100 + i and i % 3 objects."""

    classes: tuple[str, ...] = ("thing",)
    notes: tuple[str, ...] = ()

    def __init__(self, n: int, size: tuple[int, int] = (6, 6)) -> None:
        self.size = size
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int, /) -> Sample:
        pixels = np.random.default_rng(index).integers(0, 256, (3, *self.size), dtype=np.uint8)
        boxes = torch.tensor([[1.0, 2.0, 3.0, 5.0]]).repeat(index % 3, 1)
        targets = Targets(boxes, torch.zeros(index % 3, dtype=torch.int64))
        return Sample(100 + index, torch.from_numpy(pixels), targets, (1.0, 1.0))

    def truth(self) -> list[ImageTruth]:
        none, flags = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
        (height, width), labels = self.size, torch.zeros(0, dtype=torch.int64)
        return [
            ImageTruth(i, width, height, none, labels, flags, none[:, 0]) for i in range(self.n)
        ]


def items(batch: Batch) -> list[tuple[int, bytes, list[list[float]]]]:
    return [
        (id_, image.contiguous().numpy().tobytes(), targets.boxes.tolist())
        for id_, image, targets in zip(batch.image_ids, batch.images, batch.targets, strict=True)
    ]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32), st.integers(0, 1000))
def test_an_epoch_is_a_permutation_without_its_incomplete_batch(
    n: int, batch: int, seed: int, epoch: int
) -> None:
    if n < batch:
        with pytest.raises(DataError, match=rf"{n} .*{batch}"):
            epoch_order(n, batch, seed, epoch)
        return
    order = epoch_order(n, batch, seed, epoch)
    flat = [index for indices in order for index in indices]
    assert [len(indices) for indices in order] == [batch] * (n // batch)
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(n))
    assert order == epoch_order(n, batch, seed, epoch)


def test_epochs_and_seeds_differ() -> None:
    orders = [str(epoch_order(50, 5, seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_shares_make_up_the_batch(indices: list[int], size: int) -> None:
    shares = [shard(indices, rank, size) for rank in range(size)]
    assert Counter(i for share in shares for i in share) == Counter(indices)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("shape", [(6, 6), (6, 9)])
def test_workers_together_see_what_one_sees(size: int, shape: tuple[int, int]) -> None:
    data, training = Marked(23, shape), Training(batch=5)
    alone = list(train_batches(data, training, 3, 2, 0, 1))
    workers = [list(train_batches(data, training, 3, 2, rank, size)) for rank in range(size)]
    assert len(alone) == 4
    for step, batch in enumerate(alone):
        together = [item for worker in workers for item in items(worker[step])]
        assert sorted(together) == sorted(items(batch))


def test_without_augmentation_images_do_not_change() -> None:
    data = Marked(10)
    for batch in train_batches(data, Training(batch=4, augment="none"), 0, 0, 0, 1):
        for id_, pixels, boxes in items(batch):
            sample = data[id_ - 100]
            assert pixels == sample.image.numpy().tobytes()
            assert boxes == sample.targets.boxes.tolist()


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(0, 2**32),
    st.integers(0, 50),
)
def test_batches_of_one_kind_are_as_many_as_others(
    portrait: list[bool], batch: int, seed: int, epoch: int
) -> None:
    n = len(portrait)
    if n < batch:
        return
    order = epoch_order(n, batch, seed, epoch, portrait)
    flat = [index for indices in order for index in indices]
    assert [len(indices) for indices in order] == [batch] * (n // batch)
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(n))
    mixed = [i for i, held in enumerate(order) if len({portrait[k] for k in held}) == 2]
    assert mixed in ([], [len(order) - 1])
    assert order == epoch_order(n, batch, seed, epoch, portrait)


def test_equal_kinds_change_no_order() -> None:
    assert epoch_order(50, 7, 3, 2, [False] * 50) == epoch_order(50, 7, 3, 2)


def test_images_are_grouped_by_the_size_of_the_original(tmp_path: Path) -> None:
    wide, high = (
        [Photograph(f"{kind}{i}", size, (("cat", (1, 1, 9, 9)),)) for i in range(5)]
        for kind, size in (("w", (40, 30)), ("h", (30, 40)))
    )
    data = written("coco", tmp_path, {"train": [*wide, *high], "val": wide[:1]}).load("train")
    training = Training(batch=2, train_sides=(32,), augment="hflip", group_by_aspect=True, epochs=9)
    for epoch in range(3):
        *whole, last = train_batches(data, training, 0, epoch, 0, 1)
        assert len(whole) == 4
        for batch in whole:
            assert sorted(batch.images.shape[2:]) == [32, 64]
        assert last.images.shape[2:] == (64, 64), "the remainders"
    with_shapes = Shares(Marked(8), training, 0, 0, 1)
    assert with_shapes.portrait == [False] * 8


def test_a_batch_is_sent_with_one_tensor() -> None:
    batch = collate([replace(Marked(9)[i], scale=(1.0, 2.0)) for i in (0, 1, 2)])
    assert [type(part) for part in batch.__reduce__()[1]] == [
        torch.Tensor,
        list,
        tuple,
        tuple,
        list,
    ]
    copy = pickle.loads(pickle.dumps(batch))
    assert items(copy) == items(batch)
    assert copy.scales == batch.scales
    for one, other in zip(copy.targets, batch.targets, strict=True):
        assert one.boxes.shape == other.boxes.shape
        assert (one.boxes.dtype, one.labels.dtype) == (torch.float32, torch.int64)
        assert (one.labels.tolist(), one.extent) == (other.labels.tolist(), other.extent)


def test_augmentation_changes_from_epoch_to_epoch() -> None:
    data, training = Marked(12), Training(batch=12)
    seen = [
        {item[:2] for item in items(next(iter(train_batches(data, training, 0, epoch, 0, 1))))}
        for epoch in range(6)
    ]
    assert len(set.union(*seen)) > 12 * 3
    again = {item[:2] for item in items(next(iter(train_batches(data, training, 0, 4, 0, 1))))}
    assert again == seen[4]


def test_too_few_images_or_too_many_workers_are_refused_at_once() -> None:
    with pytest.raises(DataError, match=r"^0 training images can't fill a batch of 8"):
        train_batches(Marked(0), Training(batch=8), 0, 0, 0, 1)
    with pytest.raises(DataError, match=r"batch of 2 .* 3 workers"):
        train_batches(Marked(9), Training(batch=2), 0, 0, 0, 3)


@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 5))
def test_validation_covers_each_image_once(n: int, batch: int, size: int) -> None:
    data = Marked(n)
    seen = []
    for rank in range(size):
        for indices, images in val_batches(data, batch, rank, size):
            assert 1 <= len(indices) == len(images) <= batch
            assert images.image_ids == tuple(100 + i for i in indices)
            assert torch.equal(images.images[0], data[indices[0]].image)
            seen += indices
    assert sorted(seen) == list(range(n))


def test_collate_stacks_and_keeps_empty_images() -> None:
    batch = collate([Marked(9)[i] for i in (3, 1, 2)])
    assert batch.images.shape == (3, 3, 6, 6)
    assert batch.images.dtype == torch.uint8
    assert [len(t) for t in batch.targets] == [0, 1, 2]
    assert batch.scales == ((1.0, 1.0),) * 3
    assert batch.targets[0].boxes.shape == (0, 4)


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=5))
def test_collate_pads_images_of_different_sizes(sizes: list[tuple[int, int]]) -> None:
    samples = [Marked(9, size)[i] for i, size in enumerate(sizes)]
    batch = collate(samples)
    height, width = batch.images.shape[2:]
    if len(set(sizes)) == 1:
        assert (height, width) == sizes[0]
    else:
        assert height == math.ceil(max(size[0] for size in sizes) / 32) * 32
        assert width == math.ceil(max(size[1] for size in sizes) / 32) * 32
    for image, sample, targets in zip(batch.images, samples, batch.targets, strict=True):
        high, wide = sample.image.shape[1:]
        expected = np.full((3, height, width), 114, dtype=np.uint8)
        expected[:, :high, :wide] = sample.image.numpy()
        assert image.dtype == torch.uint8
        assert np.array_equal(image.numpy(), expected)
        assert targets is sample.targets


# Many sizes --------------------------------------------------------------------------------------


class Photographs(Marked):
    """Images of several sizes, fitted into 48 x 64 at half their size and padded."""

    ORIGINALS = ((96, 128), (96, 80), (60, 128), (40, 128))  # height, width

    def __getitem__(self, index: int, /) -> Sample:
        height, width = (side // 2 for side in self.ORIGINALS[index % 4])
        image = torch.full((3, 48, 64), 114, dtype=torch.uint8)
        image[:, :height, :width] = Marked(self.n, (height, width))[index].image
        targets = replace(Marked(self.n)[index].targets, extent=(width, height))
        return Sample(100 + index, image, targets, (0.5, 0.5))


MANY = Training(batch=4, train_sides=(48, 72, 100), train_max_side=120, augment="hflip")


def shown(batch: Batch, data: Photographs) -> dict[int, tuple[bytes, list[list[float]]]]:
    """Of each image: its pixels without padding (by its scale), and its boxes."""
    found = {}
    for id_, image, targets, (x, y) in zip(
        batch.image_ids, batch.images, batch.targets, batch.scales, strict=True
    ):
        height, width = data.ORIGINALS[(id_ - 100) % 4]
        high, wide = round(height * y), round(width * x)
        assert (image[:, high:] == 114).all()
        assert (image[:, :, wide:] == 114).all()
        found[id_] = (image[:, :high, :wide].contiguous().numpy().tobytes(), targets.boxes.tolist())
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_workers_together_see_what_one_sees_at_many_sizes(size: int) -> None:
    data = Photographs(13)
    alone = list(train_batches(data, MANY, 3, 2, 0, 1))
    workers = [list(train_batches(data, MANY, 3, 2, rank, size)) for rank in range(size)]
    assert len(alone) == 3
    for step, batch in enumerate(alone):
        together = {k: v for worker in workers for k, v in shown(worker[step], data).items()}
        assert together == shown(batch, data)


def test_a_training_image_has_the_drawn_side_and_keeps_its_aspect_ratio() -> None:
    data, sides = Photographs(8), set()
    for epoch in range(8):
        for batch in train_batches(data, MANY, 0, epoch, 0, 1):
            assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
            for id_, (x, y) in zip(batch.image_ids, batch.scales, strict=True):
                height, width = data.ORIGINALS[(id_ - 100) % 4]
                high, wide = height * y, width * x
                assert max(high, wide) <= 120 + 1e-6
                if max(high, wide) < 119:
                    sides.add(round(min(high, wide)))
                assert high / wide == pytest.approx(height / width, rel=0.03)
    assert sides <= {48, 72, 100, 90, 56}
    assert {48, 72} <= sides


def test_one_image_alone_is_padded_to_multiples_of_32() -> None:
    training = Training(batch=1, train_sides=(50,), augment="none")
    for batch in train_batches(Photographs(4), training, 0, 0, 0, 1):
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0


class Black(Photographs):
    """The same with black images on the grey of the padding."""

    def __getitem__(self, index: int, /) -> Sample:
        sample = super().__getitem__(index)
        height, width = (side // 2 for side in self.ORIGINALS[index % 4])
        sample.image[:, :height, :width] = 0
        return sample


def test_cropped_images_come_without_the_padding_of_the_data_set() -> None:
    training = Training(batch=1, train_sides=(64,), crop=True)
    sizes = set()
    for epoch in range(10):
        for batch in train_batches(Black(4), training, 0, epoch, 0, 1):
            image = batch.images[0, 0]
            black = image == 0
            height, width = int(black[:, 0].sum()), int(black[0].sum())
            assert min(height, width) == 64
            assert black[:height, :width].all()
            assert int(black.sum()) == height * width
            assert (image[~black] == 114).all()
            assert max(image.shape[0] - height, image.shape[1] - width) < 32
            sizes.add((height, width))
    assert len(sizes) > 12


class Bare(Photographs):
    """The same without padding."""

    def __getitem__(self, index: int, /) -> Sample:
        sample = super().__getitem__(index)
        height, width = (side // 2 for side in self.ORIGINALS[index % 4])
        return replace(sample, image=sample.image[:, :height, :width])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_validation_batches_hold_images_of_one_size(batch: int, size: int) -> None:
    """No image is padded because of another one, for any number of workers."""
    data, seen = Bare(9), list[int]()
    for rank in range(size):
        for indices, images in val_batches(data, batch, rank, size):
            assert len(indices) <= batch
            for image, index in zip(images.images, indices, strict=True):
                assert torch.equal(image, data[index].image)
            seen += indices
    assert sorted(seen) == list(range(9))
