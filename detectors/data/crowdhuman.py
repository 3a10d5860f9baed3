"""CrowdHuman: people in crowds, from .odgt files and a folder of images."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from detectors.data.base import Dataset, Split
from detectors.data.crowdhuman_index import entries, read_index
from detectors.data.photo_files import Files, SplitFiles, fingerprint, image_sizes, read_both
from detectors.data.photos import PhotoDataset, Photos, admitted
from detectors.options import NOT_IDENTITY


class CrowdHuman(Photos):
    """Photographs of people with full-body boxes (`fbox`), clipped to the image; one class.

    Samples follow the lines of the file, and an image's id is its line, counted from 1. Ignored
    boxes (see `mask_is_person`) are in the truth as crowd regions and not in the training targets.
    """

    name: Literal["crowdhuman"] = "crowdhuman"
    planned_classes: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """See `Photos`."""
    train_odgt: str = Field("annotation_train.odgt", json_schema_extra=NOT_IDENTITY)
    """The training split's file, relative to `root`."""
    val_odgt: str = Field("annotation_val.odgt", json_schema_extra=NOT_IDENTITY)
    """The validation split's file, relative to `root`."""
    images: str = Field("Images", json_schema_extra=NOT_IDENTITY)
    """The folder of both splits' images, named ID.jpg, relative to `root`."""
    height: int = Field(800, ge=32, le=4096)
    """Pixels the detector sees: images are resized to fit inside, then padded to this size."""
    width: int = Field(1400, ge=32, le=4096)
    """Pixels the detector sees; see `height`."""
    mask_is_person: bool = False
    """False: a box is ignored where its tag isn't `person` or `extra.ignore` isn't 0 (the rule of
    CrowdHuman's evaluator, and of DeFCN). True: every tag is a person, ignored only where
    `extra.ignore` is 1 (the data as OneNet, o2f and DATE convert it to COCO's format)."""

    def load(self, split: Split) -> Dataset:
        """The split; shared by everything in this process that asks for it with equal options.

        Raises DataError with every problem of the split; with `on_bad: skip` only where a file or
        folder is missing, or holds no image that can be used.
        """
        return _load(self, self._files(), split)

    def fingerprint(self) -> str:
        """SHA-256 of both .odgt files and of the names and sizes of their images, in hex.

        Read once in a process. Raises DataError where a file is missing; with `on_bad: skip` a
        missing image is part of the fingerprint instead.
        """
        return _fingerprint(self, self._files())

    def _files(self) -> Files:
        root = Path(self.root)
        train, val = (
            SplitFiles(root / place, root / self.images, (option, "images"))
            for place, option in ((self.train_odgt, "train_odgt"), (self.val_odgt, "val_odgt"))
        )
        return Files(root, train, val)


@lru_cache(maxsize=4)
def _load(options: CrowdHuman, files: Files, split: Split) -> PhotoDataset:
    index, paths = read_both(files, read_index)[split], files.of(split)
    names = [record.file_name for record in index.records]
    sizes, bad_images = image_sizes(names, files, split, decode=options.verify == "decode")
    usable, bad_boxes = entries(index, sizes, mask_is_person=options.mask_is_person)
    lost = [p.place for r in index.records if r.file_name not in sizes for p in r.people]
    problems = index.problems.merged(bad_images).merged(bad_boxes)
    notes = admitted(options, str(paths.annotations), usable, problems, lost)
    return PhotoDataset(options, paths.images, ("person",), usable, notes)


@lru_cache(maxsize=8)
def _fingerprint(options: CrowdHuman, files: Files) -> str:
    names = {
        split: [record.file_name for record in index.records]
        for split, index in read_both(files, read_index).items()
    }
    return fingerprint(files, names, skip_missing=options.on_bad == "skip")
