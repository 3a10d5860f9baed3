"""Batches of images for one of several workers.

The images of a global batch and their augmentation don't depend on the number of workers. Only the
padding of training images of different sizes, and thereby the statistics of group norm, depends on
which of them are in the batch of one worker. `TrainLoader` (in `processes`) loads these batches in
other processes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from detectors.data.base import DataError, Dataset
from detectors.data.mask_views import coarse
from detectors.data.samples import Samples
from detectors.data.sizes import PAD, rounded_up
from detectors.data.views import Viewable
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
    masks: tuple[Tensor, ...] = ()
    """[G, h, w] bool of each image: masks of its objects, one of COARSE x COARSE pixels. Empty:
    samples have no masks."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send only `images` as a tensor to another process: a tensor needs a file descriptor."""
        rows = [(t.boxes.numpy(), t.labels.numpy(), t.extent) for t in self.targets]
        masks = [each.numpy() for each in self.masks]
        return _received, (self.images, rows, self.image_ids, self.scales, masks)

    def pin_memory(self) -> "Batch":
        """Return the batch with images from which a GPU can copy. DataLoader calls this."""
        return replace(self, images=self.images.pin_memory())


def _received(
    images: Tensor,
    rows: Sequence[tuple[Any, Any, tuple[float, float] | None]],
    image_ids: tuple[int, ...],
    scales: tuple[tuple[float, float], ...],
    masks: Sequence[Any],
) -> Batch:
    """Return the batch that was sent as `Batch.__reduce__` says."""
    targets = (Targets(torch.tensor(b), torch.tensor(n), extent) for b, n, extent in rows)
    return Batch(images, tuple(targets), image_ids, scales, tuple(map(torch.tensor, masks)))


def epoch_order(
    n: int, batch: int, seed: int, epoch: int, portrait: Sequence[bool] = ()
) -> list[list[int]]:
    """Return the global batches of one epoch: a permutation of n images, without the remainder.

    Args:
        n: number of images.
        batch: images per batch.
        seed: together with the epoch, determines the permutation.
        epoch: number of the epoch.
        portrait: of each image, whether it is higher than wide: a batch then has images of one kind
            only, except for the last one, which has the remainders of both. Empty: no groups.

    Raises:
        DataError: there are fewer images than one batch.
    """
    if n < batch:
        raise DataError(
            [f"{n} training images can't fill a batch of {batch}: lower training.batch"]
        )
    order = np.random.default_rng([seed, epoch]).permutation(n)
    if len(portrait):
        return _grouped(order.tolist(), batch, portrait)
    return [order[start : start + batch].tolist() for start in range(0, n - batch + 1, batch)]


def _grouped(order: Sequence[int], batch: int, portrait: Sequence[bool]) -> list[list[int]]:
    """Cut an order into batches of one kind; each comes when its last image does."""
    waiting: tuple[list[int], list[int]] = [], []
    batches = []
    for index in order:
        group = waiting[bool(portrait[index])]
        group.append(index)
        if len(group) == batch:
            batches.append([*group])
            group.clear()
    rest = [*waiting[0], *waiting[1]]
    return batches + ([rest[:batch]] if len(rest) >= batch else [])


class Shares:
    """The batches of one worker over all epochs, by number: a data set as DataLoader expects it.

    Batch b of epoch e has the number `e * steps + b`. It depends on nothing but that number, the
    arguments and the images.

    Args:
        dataset: the training split.
        training: size of the global batch, and how images are resized, changed and mixed.
        seed: together with the epoch, determines the order and the augmentation.
        rank: the worker.
        size: number of workers.
        masks: whether batches have the masks of objects.

    Raises:
        DataError: there are fewer images than one batch, or fewer in a batch than workers, or the
            data set has no masks.
    """

    def __init__(
        self,
        dataset: Dataset,
        training: Training,
        seed: int,
        rank: int,
        size: int,
        *,
        masks: bool = False,
    ) -> None:
        if training.batch < size:
            raise DataError(
                [
                    f"a batch of {training.batch} is too small for {size} workers: raise "
                    "training.batch"
                ]
            )
        self.dataset, self.training, self.seed = dataset, training, seed
        self.rank, self.size = rank, size
        self._samples = Samples(dataset, training, masks=masks)
        self.portrait = _portrait(dataset) if training.group_by_aspect else ()
        self._order = (0, self._batches(0))
        self.steps = len(self._order[1])

    def __len__(self) -> int:
        return self.steps * self.training.epochs

    def __getitem__(self, number: int) -> Batch:
        """Load batch `number`. Raises DataError if an image is damaged."""
        epoch, step = divmod(number, self.steps)
        if self._order[0] != epoch:
            self._order = (epoch, self._batches(epoch))
        share = shard(self._order[1][step], self.rank, self.size)
        samples = [self._samples.draw(i, epoch, self._generator(epoch, i)) for i in share]
        return collate(samples, rounded=bool(self.training.train_sides))

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch. Raises DataError if an image is damaged."""
        return (self[number] for number in range(epoch * self.steps, (epoch + 1) * self.steps))

    def _batches(self, epoch: int) -> list[list[int]]:
        n, batch = len(self.dataset), self.training.batch
        return epoch_order(n, batch, self.seed, epoch, self.portrait)

    def _generator(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, index])


def _portrait(dataset: Dataset) -> list[bool]:
    """Return of each image whether it is higher than wide."""
    if isinstance(dataset, Viewable):
        return [bool(higher) for higher in dataset.sizes[:, 1] > dataset.sizes[:, 0]]
    return [truth.height > truth.width for truth in dataset.truth()]


def train_batches(
    dataset: Dataset, training: Training, seed: int, epoch: int, rank: int, size: int
) -> Iterator[Batch]:
    """Return the batches of one worker for an epoch, loaded in the calling process.

    See `Shares` for the arguments and errors; an error of the arguments is raised at once.
    """
    return Shares(dataset, training, seed, rank, size).epoch(epoch)


def val_batches(
    dataset: Dataset, batch: int, rank: int, size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of at most `batch` images of one worker, each with its indices.

    Over all ranks, every index occurs exactly once; a rank may get none. See `by_size`.
    """
    return by_size(((index, dataset[index]) for index in range(rank, len(dataset), size)), batch)


def by_size(samples: Iterable[tuple[int, Sample]], batch: int) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of at most `batch` samples, each with their indices.

    A batch has images of one size only, so that the input of an image doesn't depend on the others.
    """
    pending: dict[torch.Size, list[tuple[int, Sample]]] = {}
    for index, sample in samples:
        same_size = pending.setdefault(sample.image.shape, [])
        same_size.append((index, sample))
        if len(same_size) == batch:
            yield _indexed(pending.pop(sample.image.shape))
    for same_size in pending.values():
        yield _indexed(same_size)


def _indexed(samples: Sequence[tuple[int, Sample]]) -> tuple[list[int], Batch]:
    return [index for index, _ in samples], collate([sample for _, sample in samples])


def collate(samples: Sequence[Sample], *, rounded: bool = False) -> Batch:
    """Stack samples (at least one).

    If their sizes differ, or with `rounded`, all are padded at the right and bottom to the largest
    height and width among them, rounded up to multiples of 32. Points in the padding are negatives
    like others.
    """
    shapes = {sample.image.shape[1:] for sample in samples}
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    if rounded or len(shapes) > 1:
        height, width = rounded_up(height), rounded_up(width)
    images = _blank(len(samples), height, width, like=samples[0].image)
    for image, sample in zip(images, samples, strict=True):
        high, wide = sample.image.shape[1:]
        image[:, :high, :wide] = sample.image
        image[:, :, wide:] = PAD
        image[:, high:, :wide] = PAD
    targets = tuple(sample.targets for sample in samples)
    masks = [each.masks for each in targets if each.masks is not None]
    return Batch(
        images,
        tuple(replace(each, masks=None) for each in targets) if masks else targets,
        tuple(sample.image_id for sample in samples),
        tuple(sample.scale for sample in samples),
        tuple(map(coarse, masks)),
    )


def _blank(n: int, height: int, width: int, like: Tensor) -> Tensor:
    """Return uninitialised images [n, 3, height, width] in the order of memory of one of them.

    In a process that loads for another one, they are created in shared memory.
    """
    last = like.stride(0) == 1  # channels last, as Pillow has them
    shape = (n, height, width, 3) if last else (n, 3, height, width)
    images = torch.empty(0 if get_worker_info() else shape, dtype=torch.uint8)
    if get_worker_info():
        storage = torch.UntypedStorage._new_shared(n * height * width * 3)  # type: ignore[no-untyped-call]
        images = images.set_(storage).view(shape)
    return images.permute(0, 3, 1, 2) if last else images
