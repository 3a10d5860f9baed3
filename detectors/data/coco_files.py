"""The files of a COCO data set: are they all there, do they fit together, what is in them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from detectors.data import problems as kinds
from detectors.data.base import DataError, Split
from detectors.data.coco_index import Entry, Index, read_index
from detectors.data.images import ImageError, read_size
from detectors.data.problems import Problems

SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True)
class Files:
    """Absolute paths: the root folder, and each split's JSON file and folder of images."""

    root: Path
    train: Path
    val: Path
    train_images: Path
    val_images: Path

    def json(self, split: Split) -> Path:
        """The JSON file of a split."""
        return self.train if split == "train" else self.val

    def images(self, split: Split) -> Path:
        """The folder of a split's images."""
        return self.train_images if split == "train" else self.val_images


def read_indices(files: Files) -> dict[Split, Index]:
    """Both splits. Raises DataError where one is missing, isn't COCO, or has other categories."""
    _require(files)
    train, val = _both(files)
    if train.categories != val.categories:
        raise DataError(
            [
                f"{files.val}: categories {_shown(val)} differ from {_shown(train)} in "
                f"{files.train}; give both files the same ids and names"
            ]
        )
    return {"train": train, "val": val}


def check_images(
    entries: Sequence[Entry], folder: Path, *, decode: bool
) -> tuple[list[Entry], Problems]:
    """The entries whose image is there, whole and of the size they say, and what the others lack.

    Without `decode` only the headers are read.
    """
    usable, problems = [], Problems()
    for entry in entries:
        path, said = folder / entry.file_name, (entry.truth.width, entry.truth.height)
        if not path.is_file():
            problems.add(kinds.MISSING_FILE, [entry.file_name])
            continue
        try:
            size = read_size(path, decode=decode)
        except ImageError as error:
            problems.add(kinds.UNREADABLE, [f"{entry.file_name}: {error}"])
            continue
        if size == said:
            usable.append(entry)
        else:
            difference = f"{entry.file_name}: {size[0]}x{size[1]}, not {said[0]}x{said[1]}"
            problems.add(kinds.OTHER_SIZE, [difference])
    return usable, problems


def fingerprint(files: Files, *, skip_missing: bool) -> str:
    """SHA-256, in hex, of both splits: their JSON and the names and sizes of the images it names.

    Raises DataError where something is missing; with `skip_missing` a missing image counts as one
    of no size.
    """
    _require(files)
    content, problems = [], []
    for split, index in zip(SPLITS, _both(files), strict=True):
        path, folder = files.json(split), files.images(split)
        sizes = {entry.file_name: _bytes(folder / entry.file_name) for entry in index.entries}
        missing = Problems()
        missing.add(kinds.MISSING_FILE, [name for name, size in sizes.items() if size is None])
        problems += missing.refusals(str(path))
        content.append((hashlib.sha256(path.read_bytes()).hexdigest(), sorted(sizes.items())))
    if problems and not skip_missing:
        raise DataError(problems)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require(files: Files) -> None:
    """Raise DataError unless root, both JSON files and folders with images are there."""
    if not files.root.is_dir():
        raise DataError([f"{files.root}: no such folder; set `root` to the data set's folder"])
    missing = []
    for split in SPLITS:
        path, folder = files.json(split), files.images(split)
        if not path.is_file():
            missing.append(f"{path}: no such file; correct `{split}_json`")
        if not folder.is_dir():
            missing.append(f"{folder}: no such folder; correct `{split}_images`")
        elif not any(inner.is_file() for inner in folder.rglob("*")):
            missing.append(f"{folder}: holds no image; add them or correct `{split}_images`")
    if missing:
        raise DataError(missing)


def _both(files: Files) -> tuple[Index, Index]:
    """Both indices; raises DataError with the problems of both files."""
    indices, problems = [], []
    for path in (files.train, files.val):
        try:
            indices.append(_index(path, path.stat().st_mtime_ns, path.stat().st_size))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return indices[0], indices[1]


@lru_cache(maxsize=4)
def _index(path: Path, mtime_ns: int, size: int) -> Index:
    """`read_index`, read again only when the file has changed."""
    del mtime_ns, size
    return read_index(path)


def _bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _shown(index: Index) -> str:
    return ", ".join(f"{id_} {name}" for id_, name in index.categories)
