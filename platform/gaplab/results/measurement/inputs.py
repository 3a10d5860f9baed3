"""The input of a measurement: detections that are matched to annotations, and where they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detectors.data.annotations import Annotations, json_of, read_annotations
from detectors.data.base import DataError, Split
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from gaplab.errors import UserError
from gaplab.identity import canonical, digest
from gaplab.records import MeasurementRecord
from gaplab.storage.detections import Detections, ReadOptions, open_detections
from gaplab.storage.detections.memory import check_annotations

_DIGITS = 12
"""Number of hex digits of an id and of a digest of annotations."""
_PLACES = frozenset({"annotations", "labels", "labelTxt", "ann"})
"""Names of folders of annotation files, which do not name a data set."""


@dataclass(frozen=True)
class InputOptions:
    """How an input is read.

    Attributes:
        read: how detections are read.
        split: split of the annotations, where they have several.
        images: folder of the pictures, for sizes that the annotations lack.
        dataset: label of the data set; empty: the name of its folder.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    split: Split = "val"
    images: Path | None = None
    dataset: str = ""


@dataclass(frozen=True)
class Input:
    """Detections that are matched to annotations.

    Attributes:
        detections: the detections.
        annotations: the annotations.
        dataset: label of the data set.
        source: where both are and how they are read, as plain JSON; empty for arrays.
    """

    detections: Detections
    annotations: Annotations
    dataset: str
    source: dict[str, Any]

    @property
    def truth(self) -> str:
        """Digest of the annotations: 12 hex digits."""
        return self.annotations.truth.digest()[:_DIGITS]

    def truth_for(self, protocols: Iterable[Protocol]) -> GroundTruth:
        """Return the objects, with masks if a protocol needs them. Raises UserError."""
        if not any(each.masks for each in protocols):
            return self.annotations.truth
        try:
            return self.annotations.masked_truth()
        except DataError as error:
            raise UserError(*error.problems) from None

    @property
    def id(self) -> str:
        """Digest of detections and annotations, without masks of the latter: 12 hex digits."""
        return digest(canonical([self.detections.digest, self.annotations.truth.digest()]), _DIGITS)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, matched and recognised, one line each."""
        found = (f"{self.detections.where}: {line}" for line in self.detections.findings.lines())
        return (*self.annotations.notes, *self.detections.notes, *found)


def open_inputs(
    detections: Sequence[Path], annotations: Path, options: InputOptions | None = None
) -> list[Input]:
    """Read annotations, and detections of the same images.

    Raises:
        UserError: with the problems of all files.
    """
    options = options or InputOptions()
    if _begins(annotations) == "[" and any(_begins(path) == "{" for path in detections):
        raise UserError(
            f"{annotations}: holds detections; name the detections first, then the annotations"
        )
    truth = read_truth(annotations, options)
    found, problems = list[Input](), list[str]()
    for path in detections:
        try:
            given = input_of(path, truth, options)
        except UserError as error:
            problems += error.problems
            continue
        source, label = _source(path, annotations, options), _label(annotations, options)
        found.append(replace(given, dataset=label, source=source))
    if problems:
        raise UserError(*problems)
    return found


def input_of(path: Path, truth: Annotations, options: InputOptions) -> Input:
    """Read detections of annotated images. Raises UserError."""
    opened = open_detections(path, truth, options.read)
    return Input(opened, truth, options.dataset or "data", {})


def read_truth(path: Path, options: InputOptions) -> Annotations:
    """Read annotations. Raises UserError."""
    for file in json_of(path):
        check_annotations(file, in_folder=path.is_dir())
    try:
        return read_annotations(path, options.split, options.images, options.read.on_bad)
    except DataError as error:
        raise UserError(*error.problems) from None


def _begins(path: Path) -> str:
    """Return the first character of a JSON file; empty for another file or a folder."""
    if path.suffix != ".json" or not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1].decode("latin-1")


def _source(path: Path, annotations: Path, options: InputOptions) -> dict[str, Any]:
    read = options.read
    return {
        "detections": str(path.absolute()),
        "annotations": str(annotations.absolute()),
        "split": options.split,
        "images": str(options.images.absolute()) if options.images else "",
        "boxes": read.boxes or "",
        "categories": read.categories,
        "on_bad": read.on_bad,
        "masks": read.masks,
    }


def reopen(record: MeasurementRecord) -> Input:
    """Open the input of a stored measurement again.

    Raises:
        UserError: it was in memory, its files can't be read, or they have changed.
    """
    source = record.source
    if not source:
        raise UserError(
            f"measurement {record.id} ({record.name}): was measured from arrays, not files; "
            "measure the detections again"
        )
    options = InputOptions(
        ReadOptions(
            source["boxes"] or None,
            source["categories"],
            source["on_bad"],
            source.get("masks", False),  # earlier releases read none
        ),
        source["split"],
        Path(source["images"]) if source["images"] else None,
        record.dataset,
    )
    paths = [Path(source[key]) for key in ("detections", "annotations")]
    (found,) = open_inputs([paths[0]], paths[1], options)
    if found.id != record.id:
        raise UserError(
            f"{paths[0]}: the detections or the annotations have changed since measurement "
            f"{record.id} ({record.name}); restore them, or measure the new files"
        )
    return found


def _label(annotations: Path, options: InputOptions) -> str:
    """Return the label of a data set: the name of its folder."""
    path = annotations.absolute()
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name in _PLACES else folder
    return options.dataset or folder.name or "data"
