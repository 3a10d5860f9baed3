"""Training samples: images as they are drawn for an epoch, perhaps mixed with others."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from detectors.data.base import DataError, Dataset
from detectors.data.mask_views import masks_of, segmented
from detectors.data.mixing import MIXUP_SHARE, mixup, mosaic
from detectors.data.orientation import Size
from detectors.data.rescaling import draw_view, seen, size_of, unpadded
from detectors.data.sizes import fitted_size
from detectors.data.transforms import AUGMENTATIONS, random_colours
from detectors.data.views import View, Viewable
from detectors.structures import Sample
from detectors.training import Training


class Samples:
    """Draws training samples. All random choices are those of the generator that is given.

    Args:
        dataset: the training split.
        training: resizing (`train_sides`, `crop`), `colour`, `augment`, `mosaic` and `mixup`.
        masks: whether samples have the masks of their objects; not with `mosaic` or `mixup`.

    Raises:
        DataError: the data set has no masks, or `training` mixes images.
    """

    def __init__(self, dataset: Dataset, training: Training, *, masks: bool = False) -> None:
        self._dataset, self._training = dataset, training
        self._segmented = segmented(dataset) if masks else None
        if problems := training.unfit_masks() if masks else []:
            raise DataError(problems)

    def draw(self, index: int, epoch: int, rng: np.random.Generator) -> Sample:
        """Return image `index` as it is drawn for an epoch. Raises DataError if it is damaged."""
        training = self._training
        mixes = epoch < training.mix_until * training.epochs
        sample = self._one(index, rng, mosaics=mixes)
        if mixes and training.mixup and rng.random() < training.mixup:
            other = self._one(int(rng.integers(len(self._dataset))), rng, mosaics=mixes)
            return mixup(sample, other, rng.uniform(*MIXUP_SHARE))
        return sample

    def _one(self, index: int, rng: np.random.Generator, *, mosaics: bool) -> Sample:
        if mosaics and self._training.mosaic and rng.random() < self._training.mosaic:
            return self._mosaic(index, rng)
        return self._changed(self._resized(index, rng), rng)

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self._training.colour:
            sample = random_colours(sample, self._training.colour, rng)
        return AUGMENTATIONS[self._training.augment](sample, rng)

    def _resized(self, index: int, rng: np.random.Generator) -> Sample:
        """Return an image at the size that is drawn for it, if the training draws sizes."""
        training = self._training
        if not training.train_sides:
            return self._with_masks(self._dataset[index], index)
        return self._shown(index, lambda size: draw_view(size, training, rng))

    def _mosaic(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a mosaic of an image and three random ones, as large as the image would be."""
        if self._training.train_sides:
            size = draw_view(self._size(index), self._training, rng).size
        else:
            size = size_of(self._dataset[index])
        cell = size[0] // 2, size[1] // 2

        def in_cell(original: Size) -> View:
            return View.whole(original, fitted_size(*original, cell[1], cell[0]))

        others = rng.integers(len(self._dataset), size=3).tolist()
        tiles = [self._changed(self._shown(i, in_cell), rng) for i in (index, *others)]
        return mosaic(tiles, cell)

    def _shown(self, index: int, choose: Callable[[Size], View]) -> Sample:
        """Return the view of an image that `choose` returns for its size."""
        if isinstance(self._dataset, Viewable):
            view = choose(self._size(index))
            return self._with_masks(self._dataset.view(index, view), index, view)
        sample = unpadded(self._dataset[index])
        view = choose(size_of(sample))
        return self._with_masks(seen(sample, view), index, view)

    def _with_masks(self, sample: Sample, index: int, view: View | None = None) -> Sample:
        if self._segmented is None:
            return sample
        masks = masks_of(sample, self._segmented.segmented(index), view)
        return replace(sample, targets=replace(sample.targets, masks=masks))

    def _size(self, index: int) -> Size:
        if isinstance(self._dataset, Viewable):
            width, height = self._dataset.sizes[index].tolist()
            return width, height
        return size_of(unpadded(self._dataset[index]))
