"""Any detection data set in COCO's format: a JSON file for each split, and its folder of images."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from detectors.data import problems as kinds
from detectors.data.base import DataError, Dataset, Split
from detectors.data.coco_index import Index, read_index
from detectors.data.photo_files import Files, SplitFiles, fingerprint, image_sizes, read_both
from detectors.data.photos import PhotoDataset, Photos, admitted
from detectors.data.problems import Problems
from detectors.options import NOT_IDENTITY


class Coco(Photos):
    """Photographs with boxes, from COCO JSON files.

    Labels follow the order of category ids, samples that of image ids. Crowd regions are in the
    truth and not in the training targets. An EXIF orientation is not applied, as in COCO's tools.
    """

    name: Literal["coco"] = "coco"
    train_json: str = Field("train.json", json_schema_extra=NOT_IDENTITY)
    """The training split's file, relative to `root`."""
    val_json: str = Field("val.json", json_schema_extra=NOT_IDENTITY)
    """The validation split's file, relative to `root`."""
    train_images: str = Field("images", json_schema_extra=NOT_IDENTITY)
    """The folder that `file_name` starts from in the training split, relative to `root`."""
    val_images: str = Field("images", json_schema_extra=NOT_IDENTITY)
    """The same for the validation split."""

    def load(self, split: Split) -> Dataset:
        """The split; shared by everything in this process that asks for it with equal options.

        Raises DataError with every problem of the split; with `on_bad: skip` only where a file or
        folder is missing, is not COCO, or holds no image that can be used.
        """
        return _load(self, self._files(), split)

    def fingerprint(self) -> str:
        """SHA-256 of both JSON files and of the names and sizes of their images, in hex.

        Read once in a process. Raises DataError where a file is missing; with `on_bad: skip` a
        missing image is part of the fingerprint instead.
        """
        return _fingerprint(self, self._files())

    def _files(self) -> Files:
        root = Path(self.root)
        train = SplitFiles(
            root / self.train_json, root / self.train_images, ("train_json", "train_images")
        )
        val = SplitFiles(root / self.val_json, root / self.val_images, ("val_json", "val_images"))
        return Files(root, train, val)


@lru_cache(maxsize=4)
def _load(options: Coco, files: Files, split: Split) -> PhotoDataset:
    index, paths = _indices(files)[split], files.of(split)
    decode = options.verify == "decode"
    sizes, found = image_sizes([e.file_name for e in index.entries], files, split, decode=decode)
    usable = [e for e in index.entries if sizes.get(e.file_name) == (e.truth.width, e.truth.height)]
    kept = {entry.truth.image_id for entry in usable}
    lost = [place for e in index.entries if e.truth.image_id not in kept for place in e.places]
    problems = index.problems.merged(found).merged(_other_sizes(index, sizes))
    notes = admitted(options, str(paths.annotations), usable, problems, lost)
    classes = tuple(name for _, name in index.categories)
    return PhotoDataset(options, paths.images, classes, usable, notes)


@lru_cache(maxsize=8)
def _fingerprint(options: Coco, files: Files) -> str:
    names = {
        split: [entry.file_name for entry in index.entries]
        for split, index in read_both(files, read_index).items()
    }
    return fingerprint(files, names, skip_missing=options.on_bad == "skip")


def _indices(files: Files) -> dict[Split, Index]:
    """Both splits. Raises DataError where one is missing, isn't COCO, or has other categories."""
    indices = read_both(files, read_index)
    train, val = indices["train"], indices["val"]
    if train.categories != val.categories:
        raise DataError(
            [
                f"{files.val.annotations}: categories {_shown(val)} differ from {_shown(train)} in "
                f"{files.train.annotations}; give both files the same ids and names"
            ]
        )
    return indices


def _other_sizes(index: Index, sizes: dict[str, tuple[int, int]]) -> Problems:
    """The images that are not of the size the JSON says."""
    problems = Problems()
    for entry in index.entries:
        said = (entry.truth.width, entry.truth.height)
        size = sizes.get(entry.file_name, said)
        if size != said:
            difference = f"{entry.file_name}: {size[0]}x{size[1]}, not {said[0]}x{said[1]}"
            problems.add(kinds.OTHER_SIZE, [difference])
    return problems


def _shown(index: Index) -> str:
    return ", ".join(f"{id_} {name}" for id_, name in index.categories)
