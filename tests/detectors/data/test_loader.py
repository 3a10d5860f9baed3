from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.data.base import DataError
from detectors.data.loader import Batch, collate, epoch_order, shard, train_batches, val_batches
from detectors.structures import ImageTruth, Sample, Targets
from detectors.training import Training


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
        raise NotImplementedError


def items(batch: Batch) -> list[tuple[int, bytes, list[list[float]]]]:
    return [
        (id_, image.contiguous().numpy().tobytes(), targets.boxes.tolist())
        for id_, image, targets in zip(batch.image_ids, batch.images, batch.targets, strict=True)
    ]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32), st.integers(0, 1000))
def test_an_epoch_is_a_permutation_without_its_rest(
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


def test_without_augmentation_images_are_as_they_are() -> None:
    data = Marked(10)
    for batch in train_batches(data, Training(batch=4, augment="none"), 0, 0, 0, 1):
        for id_, pixels, boxes in items(batch):
            sample = data[id_ - 100]
            assert pixels == sample.image.numpy().tobytes()
            assert boxes == sample.targets.boxes.tolist()


def test_augmentation_changes_from_epoch_to_epoch() -> None:
    data, training = Marked(12), Training(batch=12)
    seen = [
        {item[:2] for item in items(next(train_batches(data, training, 0, epoch, 0, 1)))}
        for epoch in range(6)
    ]
    assert len(set.union(*seen)) > 12 * 3
    again = {item[:2] for item in items(next(train_batches(data, training, 0, 4, 0, 1)))}
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


def test_images_of_two_sizes_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="one size"):
        collate([Marked(1, (4, 4))[0], Marked(1, (4, 5))[0]])
