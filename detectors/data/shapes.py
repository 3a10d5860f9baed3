"""A procedural data set of coloured shapes, crowded enough that label assignments differ.

Ellipses, rectangles, triangles and crosses at any angle, plain, striped or checked, partly hidden
behind each other, over a smooth background with distractor lines. How much the hue tells about the
class is an option. Every image is a pure function of the options and its index.
"""

import hashlib
import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from detectors.data.base import DataError, Dataset, Expected, Listed, Split
from detectors.data.shapes_draw import render
from detectors.data.shapes_layout import NAMES, layout
from detectors.data.shapes_options import ShapesOptions
from detectors.rle import Rles, encode
from detectors.structures import ImageTruth, Sample, Targets

GENERATOR_VERSION = 1
"""Part of the fingerprint. It is increased when the same options give other pixels or boxes."""


class Shapes(ShapesOptions):
    """Square images of 2 to 6 simple shapes, drawn on the fly; nothing to download."""

    @property
    def label(self) -> str:
        """See `DataOptions.label`."""
        return "shapes"

    def expected(self) -> Expected:
        """See `DataOptions.expected`."""
        return Expected(self.train_images, self.classes, self.size, self.size)

    def listed(self, split: Split) -> Listed:
        """See `DataOptions.listed`."""
        images = self.train_images if split == "train" else self.val_images
        problems = _without_objects(self, split, images)
        return Listed(images, self.classes, problems, self.max_objects)

    def load(self, split: Split) -> Dataset:
        """Return the split; calls with equal options return the same object.

        Raises:
            DataError: no image has an object.
        """
        if problems := self.listed(split).problems:
            raise DataError(list(problems))
        return _load(self, split)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the options and the generator's version, in hex."""
        meaning = {"options": self.model_dump(mode="json"), "generator": GENERATOR_VERSION}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


class ShapesDataset:
    """One split. Images are drawn when they are first used, and cached. `image_id` is the index."""

    def __init__(self, options: Shapes, split: Split) -> None:
        self.classes = NAMES[: options.classes]
        self.notes: tuple[str, ...] = ()
        self._options = options
        self._seed = _seed(options, split)
        self._rles: dict[int, Rles] = {}
        self._samples: list[Sample | None]
        self._samples = [None] * (options.train_images if split == "train" else options.val_images)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int, /) -> Sample:
        """Return sample `index`. Raises IndexError outside of [0, len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        sample = self._samples[index] or draw(self._options, self._seed, index)
        self._samples[index] = sample
        return sample

    def masks(self, index: int, /) -> Tensor:
        """Return which pixels of image `index` show each of its objects: [G, H, W] bool."""
        things = layout(self._options, np.random.default_rng([self._seed, index]))
        size = self._options.size
        masks = np.zeros((len(things), size, size), dtype=np.bool_)
        for number, thing in enumerate(things):  # back to front
            masks[:number, thing.mask] = False
            masks[number] = thing.mask
        return torch.from_numpy(masks)

    def segmented(self, index: int, /) -> ImageTruth:
        """Return the ground truth of an image with `masks(index)`, which are cached."""
        if index not in self._rles:
            self._rles[index] = encode(self.masks(index))
        return replace(_truth(self[index]), masks=self._rles[index])

    def mask_problems(self) -> list[str]:
        """Return nothing: all objects have masks."""
        return []

    def truth(self) -> list[ImageTruth]:
        """Return the ground truth in index order; `area` is that of the box. Draws all images."""
        return [_truth(self[index]) for index in range(len(self))]


def draw(options: Shapes, seed: int, index: int) -> Sample:
    """Draw image `index` of the stream `seed`; it depends on nothing else."""
    rng = np.random.default_rng([seed, index])
    things = layout(options, rng)
    image = torch.from_numpy(render(options, things, rng))
    boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([thing.label for thing in things], dtype=torch.int64)
    return Sample(index, image, Targets(boxes, labels), (1.0, 1.0))


def _seed(options: Shapes, split: Split) -> int:
    return options.seed + (split == "val")


@lru_cache(maxsize=8)
def _without_objects(options: Shapes, split: Split, images: int) -> tuple[str, ...]:
    """Return a problem if no image of the split has an object. Places only the first ones."""
    seed = _seed(options, split)
    placed = (layout(options, np.random.default_rng([seed, index])) for index in range(images))
    if options.max_objects and any(placed):
        return ()
    return (
        f"data: no object in split {split} (images: {images}); raise data.max_objects or "
        f"data.{split}_images",
    )


def _truth(sample: Sample) -> ImageTruth:
    boxes, labels = sample.targets.boxes, sample.targets.labels
    height, width = sample.image.shape[1:]
    sides = boxes[:, 2:] - boxes[:, :2]
    crowd = torch.zeros(len(boxes), dtype=torch.bool)
    return ImageTruth(sample.image_id, width, height, boxes, labels, crowd, sides.prod(dim=1))


@lru_cache(maxsize=8)
def _load(options: Shapes, split: Split) -> ShapesDataset:
    return ShapesDataset(options, split)
