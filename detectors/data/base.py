"""The base classes of data sets: options that load a split, and a sequence of samples."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self, runtime_checkable

from detectors.data.preparation import Preparation
from detectors.options import Options
from detectors.structures import ImageTruth, Sample

Split = Literal["train", "val"]


class DataError(ValueError):
    """Data can't be used. `problems` has one line per problem: where, what and the remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[Self], tuple[list[str]]]:
        """Keep `problems` when the error is pickled, to be raised in another process."""
        return type(self), (self.problems,)


class Dataset(Protocol):
    """A finite sequence of samples. Index i is the same sample in every process."""

    classes: tuple[str, ...]
    """Names of the classes, in label order."""
    notes: tuple[str, ...]
    """What was left out while loading, one line per kind, with numbers and names; often empty."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample:
        """Return sample `index` in [0, len), without augmentation."""
        ...

    def truth(self) -> list[ImageTruth]:
        """Return the ground truth of all samples, in index order, in pixels of the originals."""
        ...


NO_MASKS = "choose data with masks (shapes, coco, lvis)"
"""What to do if objects of a data set have no masks."""


@runtime_checkable
class Segmented(Dataset, Protocol):
    """A data set whose objects have masks. They are read when they are first needed."""

    def segmented(self, index: int, /) -> ImageTruth:
        """Return `truth()[index]` with masks. Raises DataError if they can't be used."""
        ...

    def mask_problems(self) -> list[str]:
        """Return why masks of objects can't be used, one line each."""
        ...


@dataclass(frozen=True)
class Expected:
    """What is known about a training split without reading it."""

    images: int
    """Number of images; 0: unknown."""
    classes: int
    """Number of classes."""
    height: int
    """Height of the input of a detector, in pixels."""
    width: int
    """Width of the input of a detector, in pixels."""


@dataclass(frozen=True)
class Listed:
    """What the annotations of a split say, before an image is opened."""

    images: int
    """Number of images."""
    classes: int
    """Number of classes."""
    problems: tuple[str, ...] = ()
    """Why `DataOptions.load` will refuse the split, one line each: where, what and the remedy."""
    most: int = 0
    """Largest number of objects, crowd regions included, that an image may have; 0: unknown."""


class DataOptions(Options):
    """Options of one kind of data set; a subclass has `name: Literal[...]`, its key in DATASETS."""

    segmented: ClassVar[bool] = False
    """Whether `load` returns data sets that are `Segmented`."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The name shown in tables."""

    def source(self, split: Split) -> str:
        """Return the name of a split for messages: the path of its annotations, if it has any."""
        return f"{self.label} ({split})"

    @abstractmethod
    def expected(self) -> Expected:
        """Return what is known about the training split without reading it."""

    def loaders(self, cores: int, *, gpu: bool) -> int:
        """Return the number of processes that load images for one rank; 0: the rank does so itself.

        That is right for images that are drawn once and kept, because other processes would draw
        them again.

        Args:
            cores: number of cores of the rank.
            gpu: whether it trains on a GPU.
        """
        del cores, gpu
        return 0

    def preparation(self) -> Preparation:
        """Return how a picture becomes the input of a detector that is trained on this data."""
        expected = self.expected()
        return Preparation(height=expected.height, width=expected.width)

    def known(self) -> Expected:
        """Return `expected` with the numbers of the annotations, if these can be read."""
        expected = self.expected()
        try:
            listed = self.listed("train")
        except DataError:
            return expected
        return replace(expected, images=listed.images, classes=listed.classes)

    @abstractmethod
    def listed(self, split: Split) -> Listed:
        """Return what the annotations say. Raises DataError if they can't be read."""

    @abstractmethod
    def load(self, split: Split) -> Dataset:
        """Load one split. Raises DataError with every problem that the options don't skip."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hex digest of the content of the data; it is part of a trial's id."""
