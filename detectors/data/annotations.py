"""Read the annotations of one split to measure detections against them, without the pictures.

Pictures are only opened where the annotations do not say the sizes of the images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from detectors.data import crowdhuman_index
from detectors.data.base import DataError, Split
from detectors.data.coco import Coco
from detectors.data.coco_index import with_sizes
from detectors.data.crowdhuman import CrowdHuman
from detectors.data.entries import Entries
from detectors.data.index_file import stored_index, stored_people
from detectors.data.lvis import Lvis
from detectors.data.orientation import UNKNOWN, PartialSize, Size
from detectors.data.photo_files import SPLITS, Files, SplitFiles, image_sizes
from detectors.data.photos import check_split
from detectors.data.problems import SKIP, Problems
from detectors.data.recognise import Section, json_files, recognise, yolo_section
from detectors.data.records import Recorded, entries
from detectors.data.segmented import ObjectMasks
from detectors.data.voc import Voc
from detectors.data.yolo import Yolo
from detectors.evaluation.truth import GroundTruth, require_images

OnBad = Literal["refuse", "skip"]
_JSON = (".json", ".json.gz")


@dataclass(frozen=True)
class Annotations:
    """The annotated images of one split.

    Attributes:
        where: the file or folder, for messages.
        truth: the objects of all images.
        names: file name of each image, in the order of `truth.image_ids`.
        category_ids: id of each class of `truth.classes` in the file; the label in formats without
            such ids.
        notes: remarks and what was left out, one line each.
        masks: the masks of all objects; None for formats without.
    """

    where: str
    truth: GroundTruth
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()
    masks: ObjectMasks | None = None

    def mask_problems(self) -> list[str]:
        """Return why the masks of objects can't be used, one line each."""
        if self.masks is None:
            return [f"{self.where}: its format has no masks; {_NO_MASKS}"]
        return self.masks.problems()

    def masked_truth(self) -> GroundTruth:
        """Return the ground truth with masks. Raises DataError if they can't be used."""
        if self.masks is None:
            raise DataError(self.mask_problems())
        return replace(self.truth, masks=self.masks.all())


_NO_MASKS = "give COCO's annotations with segmentations, or measure boxes with another protocol"


class _Content(NamedTuple):
    """What a file holds."""

    where: Path
    entries: Entries
    categories: Sequence[tuple[int, str]]
    """(id, name) in label order."""
    problems: Problems
    notes: tuple[str, ...] = ()
    lost: Sequence[str] = ()
    """Places of valid annotations whose image is not valid."""
    segmented: bool = False
    """Whether annotations of the format may have masks."""


def read_annotations(
    path: Path, split: Split = "val", images: Path | None = None, on_bad: OnBad = "refuse"
) -> Annotations:
    """Read the annotations of one split.

    Args:
        path: a COCO JSON file (also compressed by gzip), an .odgt file of CrowdHuman, a data.yaml
            of YOLO, or a folder in which `recognise` finds one data set, such as one of Pascal VOC.
        split: which split of a folder or of a data.yaml is read. A data set with one split is read
            as a whole.
        images: folder of the pictures, for images whose size the annotations do not say; None: that
            of the data set.
        on_bad: whether images and annotations that can't be used are refused, or left out and
            noted.

    Raises:
        DataError: with every problem of the annotations.
    """
    section = _section(path)
    read = _READERS[section["name"]]
    try:
        content = read(section, split if "val_fraction" not in section else "train", images)
    except OSError as error:
        raise DataError([f"{error.filename or path}: {error.strerror}; correct the path"]) from None
    return _annotations(content, on_bad)


def _annotations(content: _Content, on_bad: OnBad) -> Annotations:
    """Check a split as for training. Raises DataError."""
    where, found = str(content.where), content.entries
    rules = Coco(root="/", on_bad=on_bad)
    try:
        notes = check_split(rules, where, "val", found, content.problems, content.lost)
    except DataError as error:  # here it is an option of the command
        own = "or leave them out with --on-bad skip"
        raise DataError([line.replace(SKIP, own) for line in error.problems]) from None
    names = tuple(name for _, name in content.categories)
    return Annotations(
        where,
        _truth(found, names),
        tuple(found.names),
        tuple(id_ for id_, _ in content.categories),
        (*content.notes, *notes),
        ObjectMasks(found, content.where, _MASKS_REMEDY) if content.segmented else None,
    )


_MASKS_REMEDY = "correct them, or measure boxes with another protocol"


def _truth(entries: Entries, classes: Sequence[str]) -> GroundTruth:
    """Return what `GroundTruth.of` returns of all entries, without an object for each of them.

    Raises:
        ValueError: there is no image, or image ids repeat.
    """
    e, ids = entries, tuple(entries.image_ids.tolist())
    require_images(ids)
    sizes = tuple((width, height) for width, height in e.sizes.tolist())
    image = np.repeat(np.arange(len(ids)), np.diff(e.first))
    columns = map(torch.tensor, (image, e.boxes, e.labels, e.crowd, e.areas))
    return GroundTruth(ids, sizes, tuple(classes), *columns)


def json_of(path: Path) -> list[Path]:
    """Return the JSON files that `read_annotations` reads as a whole, be it to recognise them."""
    if path.is_dir():
        return json_files(path)
    return [path] if path.is_file() and path.name.lower().endswith(_JSON) else []


# --- formats --------------------------------------------------------------------------------------


def _section(path: Path) -> Section:
    """Return the `data` section for a path. Raises DataError."""
    path = path.absolute()
    if path.is_dir():
        return _recognised(path)
    if not path.exists():
        raise DataError([f"{path}: no such file or folder; name the annotations"])
    name = path.name.lower()
    if name.endswith(_JSON):
        return {"name": "coco", **_both(path, "json")}
    if name.endswith(".odgt"):
        return {"name": "crowdhuman", **_both(path, "odgt")}
    section = yolo_section(path)
    if section is None:
        raise DataError(
            [
                f"{path}: not annotations; name a COCO file (.json, .json.gz), a file of "
                "CrowdHuman (.odgt), a data.yaml of YOLO, or a folder with a data set"
            ]
        )
    return section


def _both(path: Path, key: str) -> Section:
    """Return the options that read one file, whatever the split."""
    return {"root": str(path.parent), **{f"{split}_{key}": path.name for split in SPLITS}}


def _recognised(folder: Path) -> Section:
    found = recognise(folder)
    if len(found) != 1:
        names = ", ".join(each["name"] for each in found) or "none"
        raise DataError([f"{folder}: not one data set, but {names}; name the annotation file"])
    return found[0]


def _coco(section: Section, split: Split, images: Path | None) -> _Content:
    options = (Lvis if section["name"] == "lvis" else Coco).model_validate(section)
    files = options.files().of(split)
    path = files.annotations
    index = stored_index(path)
    if index.unsized:
        folder = images or files.images
        missing = {image.file_name: UNKNOWN for image, _ in index.unsized.values()}
        sizes, problems = _sizes(missing, path, folder)
        index = with_sizes(index, sizes)
        problems = index.problems.merged(problems)
    else:
        problems = index.problems
    sized = index.entries.sizes.min(axis=1) > 0
    usable, lost = index.entries.take(sized), index.entries.places_of(~sized)
    notes = (*index.notes, *([f"{path}: {options.val_note}"] if options.val_note else []))
    places = [*index.lost, *lost]
    return _Content(path, usable, index.categories, problems, notes, places, segmented=True)


def _crowdhuman(section: Section, split: Split, images: Path | None) -> _Content:
    options = CrowdHuman.model_validate(section)
    files = options.files().of(split)
    index = stored_people(files.annotations)
    names = dict.fromkeys(index.people.names, UNKNOWN)
    sizes, problems = _sizes(names, files.annotations, images or files.images)
    usable, bad = crowdhuman_index.entries(index, sizes, mask_is_person=options.mask_is_person)
    lost = index.people.places_of(~crowdhuman_index.is_held(index, sizes))
    problems = index.problems.merged(problems).merged(bad)
    return _Content(files.annotations, usable, [(0, "person")], problems, (), lost)


def _recorded(
    options: Recorded, splits: Sequence[Split], split: Split, images: Path | None
) -> _Content:
    """Read a format with one annotation file per image. `splits` are read, `split` is returned."""
    listings = options.find(splits)
    index = options.read(listings)[split]
    listing, known = listings[split], {r.file_name: r.size for r in index.records if r.size}
    names = {r.file_name: UNKNOWN for r in index.records if not r.size}
    sizes, problems = _sizes(names, listing.where, images or options.folder)
    usable, bad = entries(index, {**known, **sizes})
    kept = set(usable.image_ids.tolist())
    lost = [b.place for r in index.records if r.image_id not in kept for b in r.boxes]
    problems = index.problems.merged(problems).merged(bad)
    notes = (*listing.notes, *index.notes)
    return _Content(listing.where, usable, [*enumerate(index.classes)], problems, notes, lost)


def _yolo(section: Section, split: Split, images: Path | None) -> _Content:
    return _recorded(Yolo.model_validate(_without(section)), (split,), split, images)


def _voc(section: Section, split: Split, images: Path | None) -> _Content:
    root, given = Path(section["root"]), _without(section)
    if not (root / given.get("images", "JPEGImages")).is_dir():
        given["images"] = given.get("annotations", "Annotations")
    # VOC's classes are the names in all files, so both splits are read if there are two.
    splits = (split,) if "val_fraction" in section else SPLITS
    return _recorded(Voc.model_validate(given), splits, split, images)


def _without(section: Section) -> Section:
    """Return a section that reads each split as a whole."""
    return {key: value for key, value in section.items() if key != "val_fraction"}


_READERS: Mapping[str, Callable[[Section, Split, Path | None], _Content]] = {
    "coco": _coco,
    "lvis": _coco,
    "crowdhuman": _crowdhuman,
    "yolo": _yolo,
    "voc": _voc,
}
"""Name of a data set -> function that reads one split of it."""


def _sizes(
    names: Mapping[str, PartialSize], where: Path, folder: Path
) -> tuple[dict[str, Size], Problems]:
    """Read the sizes of pictures, and return the problems of the others.

    Raises:
        DataError: the folder is missing.
    """
    if not names:
        return {}, Problems()
    if not folder.is_dir():
        raise DataError(
            [
                f"{where}: does not say the size of {len(names)} images, and {folder} is no "
                "folder; give the folder of the pictures with --images"
            ]
        )
    files = SplitFiles(where, folder, ("annotations", "--images"))
    return image_sizes(names, Files(folder, files, files), "val", decode=False, exif="apply")
