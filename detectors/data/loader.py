"""Batches of images for one of several workers.

The images of a global batch and their augmentation don't depend on the number of workers. Only the
padding of training images of different sizes, and thereby the statistics of group norm, depends on
which of them are in the batch of one worker. Images are decoded and augmented in the calling
process.
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
from detectors.world import shard


@dataclass(frozen=True)
class Batch:
    """B images, padded to the same size."""

    images: Tensor
    """[B, 3, H, W] uint8."""
    targets: tuple[Targets, ...]
    """Objects of each image."""
    image_ids: tuple[int, ...]
    scales: tuple[tuple[float, float], ...]
    """(x, y) factors of each image from pixels of the original to pixels of `images`."""

    def __len__(self) -> int:
        return len(self.image_ids)


def epoch_order(n: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the global batches of one epoch: a permutation of n images, without the remainder.

    Raises:
        DataError: there are fewer images than one batch.
    """
    if n < batch:
        raise DataError(
            [f"{n} training images can't fill a batch of {batch}: lower training.batch"]
        )
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [order[start : start + batch].tolist() for start in range(0, n - batch + 1, batch)]


@dataclass(frozen=True)
class Batches:
    """The batches of one worker in an epoch. Each is created when it is needed."""

    shares: tuple[tuple[int, ...], ...]
    """Indices of the images of each batch."""
    prepare: Callable[[int], Sample]
    """Returns the augmented sample of an index."""

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[Batch]:
        return self.after(0)

    def after(self, done: int) -> Iterator[Batch]:
        """Return the batches after the first `done`, whose images are not loaded."""
        return (collate([self.prepare(i) for i in share]) for share in self.shares[done:])


def train_batches(
    dataset: Dataset, training: Training, seed: int, epoch: int, rank: int, size: int
) -> Batches:
    """Return the batches of one worker for an epoch, resized, cropped and augmented.

    Args:
        dataset: the training split.
        training: size of the global batch, resizing (`train_sides`, `crop`) and `augment`.
        seed: together with the epoch, determines the order and the augmentation.
        epoch: number of the epoch, from 0.
        rank: the worker.
        size: number of workers.

    Raises:
        DataError: there are fewer images than one batch, or fewer in a batch than workers.
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
    """Return a function that creates a training sample from an index and a generator."""
    augment = AUGMENTATIONS[training.augment]
    if not training.train_sides:
        return lambda index, rng: augment(dataset[index], rng)

    def prepare(index: int, rng: np.random.Generator) -> Sample:
        sample = unpadded(dataset[index])
        return padded(augment(rescaled(sample, training, rng), rng))

    return prepare


def val_batches(
    dataset: Dataset, batch: int, rank: int, size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of at most `batch` images of one worker, each with its indices.

    Over all ranks, every index occurs exactly once; a rank may get none. A batch has images of one
    size only, so that the input of an image doesn't depend on the others.
    """
    pending: dict[torch.Size, list[tuple[int, Sample]]] = {}
    for index in range(rank, len(dataset), size):
        sample = dataset[index]
        same_size = pending.setdefault(sample.image.shape, [])
        same_size.append((index, sample))
        if len(same_size) == batch:
            yield _indexed(pending.pop(sample.image.shape))
    for same_size in pending.values():
        yield _indexed(same_size)


def _indexed(samples: Sequence[tuple[int, Sample]]) -> tuple[list[int], Batch]:
    return [index for index, _ in samples], collate([sample for _, sample in samples])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples (at least one).

    If their sizes differ, all are padded at the right and bottom to the largest height and width
    among them, rounded up to multiples of 32. Points in the padding are negatives like others.
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
