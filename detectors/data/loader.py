"""Batches for one worker of many; which images and how augmented doesn't depend on their number.

Image decoding and augmentation happen in the calling process. Only the padding of training images
of different sizes, and with it what group norm makes of them, depends on which of them share a
worker's batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detectors.data.base import DataError, Dataset
from detectors.data.rescaling import pad, padded, rescaled, unpadded
from detectors.data.sizes import rounded_up
from detectors.data.transforms import AUGMENTATIONS
from detectors.structures import Sample, Targets
from detectors.training import Training


@dataclass(frozen=True)
class Batch:
    """Images padded to one size: images [B, 3, H, W] uint8, and for each its objects, its id and
    its scale (x, y) from original pixels to these.
    """

    images: Tensor
    targets: tuple[Targets, ...]
    image_ids: tuple[int, ...]
    scales: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.image_ids)


def epoch_order(n: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The global batches of one epoch: a permutation of n images without its incomplete rest.

    Raises DataError when there are fewer images than one batch.
    """
    if n < batch:
        raise DataError(
            [f"{n} training images can't fill a batch of {batch}: lower training.batch"]
        )
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [order[start : start + batch].tolist() for start in range(0, n - batch + 1, batch)]


def shard(batch_indices: Sequence[int], rank: int, size: int) -> list[int]:
    """What `rank` of `size` workers takes of a global batch; shares differ by at most one."""
    return list(batch_indices[rank::size])


@dataclass(frozen=True)
class Batches:
    """One worker's share of every global batch of an epoch; each is made when its turn comes."""

    shares: tuple[tuple[int, ...], ...]
    """The indices of the images of each batch."""
    prepare: Callable[[int], Sample]

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[Batch]:
        return self.after(0)

    def after(self, done: int) -> Iterator[Batch]:
        """All but the first `done` batches, which are not even loaded."""
        return (collate([self.prepare(i) for i in share]) for share in self.shares[done:])


def train_batches(
    dataset: Dataset, training: Training, seed: int, epoch: int, rank: int, size: int
) -> Batches:
    """One worker's share of every global batch of an epoch, resized by `training.train_sides` and
    `crop`, then augmented by `augment`.

    Raises DataError, before the first batch, when a batch can't be filled or shared out.
    """
    if training.batch < size:
        raise DataError(
            [f"a batch of {training.batch} is too small for {size} workers: raise training.batch"]
        )
    order = epoch_order(len(dataset), training.batch, seed, epoch)
    shares = tuple(tuple(shard(indices, rank, size)) for indices in order)
    prepare = _preparation(dataset, training)
    return Batches(shares, lambda i: prepare(i, np.random.default_rng([seed, epoch, i])))


def _preparation(
    dataset: Dataset, training: Training
) -> Callable[[int, np.random.Generator], Sample]:
    """What makes a training image of an index and a generator."""
    augment = AUGMENTATIONS[training.augment]
    if not training.train_sides:
        return lambda index, rng: augment(dataset[index], rng)
    sizes = [(truth.width, truth.height) for truth in dataset.truth()]

    def prepare(index: int, rng: np.random.Generator) -> Sample:
        sample = unpadded(dataset[index], sizes[index])
        return padded(augment(rescaled(sample, training, rng), rng))

    return prepare


def val_batches(
    dataset: Dataset, batch: int, rank: int, size: int
) -> Iterator[tuple[list[int], Batch]]:
    """One worker's images in batches of at most `batch`, each with its indices.

    Over all ranks every index occurs exactly once; a rank may get nothing. Only images of one size
    share a batch, so that what a detector sees of an image doesn't depend on its neighbours.
    """
    waiting: dict[torch.Size, list[tuple[int, Sample]]] = {}
    for index in range(rank, len(dataset), size):
        sample = dataset[index]
        alike = waiting.setdefault(sample.image.shape, [])
        alike.append((index, sample))
        if len(alike) == batch:
            yield _indexed(waiting.pop(sample.image.shape))
    for alike in waiting.values():
        yield _indexed(alike)


def _indexed(samples: Sequence[tuple[int, Sample]]) -> tuple[list[int], Batch]:
    return [index for index, _ in samples], collate([sample for _, sample in samples])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples (at least one).

    Where their sizes differ, each is padded at the right and bottom to the largest height and width
    among them, rounded up to multiples of 32; points there are ordinary negatives.
    """
    images = [sample.image for sample in samples]
    if len({image.shape for image in images}) > 1:
        height = rounded_up(max(image.shape[1] for image in images))
        width = rounded_up(max(image.shape[2] for image in images))
        images = [pad(image, height, width) for image in images]
    return Batch(
        torch.stack(images),
        tuple(sample.targets for sample in samples),
        tuple(sample.image_id for sample in samples),
        tuple(sample.scale for sample in samples),
    )
