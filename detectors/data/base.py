"""What a data set is: options that can be loaded, and a sequence of samples with their truth."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from detectors.options import Options
from detectors.structures import ImageTruth, Sample

Split = Literal["train", "val"]


class DataError(ValueError):
    """Data that can't be used as it is; `problems` holds one line each (what, where, remedy)."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[Self], tuple[list[str]]]:
        """The problems travel, when it is pickled on its way from another process."""
        return type(self), (self.problems,)


class Dataset(Protocol):
    """A finite sequence of samples; index i is the same sample in every process."""

    classes: tuple[str, ...]
    """Names of the classes, in label order."""
    notes: tuple[str, ...]
    """One line for each kind of thing left out while loading (counted and named); often empty."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample:
        """Sample `index` in [0, len); without augmentation."""
        ...

    def truth(self) -> list[ImageTruth]:
        """Ground truth of all samples, in index order, in original pixels."""
        ...


@dataclass(frozen=True)
class Expected:
    """Training data as a plan sees it, without reading it: images (0: unknown), classes, and the
    height and width in pixels of what a detector sees.
    """

    images: int
    classes: int
    height: int
    width: int


class DataOptions(Options):
    """Options of one kind of data set; a subclass has `name: Literal[...]`, its key in DATASETS."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What tables call this data set."""

    @abstractmethod
    def expected(self) -> Expected:
        """What the training split will be like."""

    @abstractmethod
    def load(self, split: Split) -> Dataset:
        """Open one split. Raises DataError naming every problem, unless the options say skip."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hex digest of what the data *is* (content, not place); part of every trial's id."""
