"""The files of a data set of photographs: are they all there, and what do they hold."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from detectors.data import problems as kinds
from detectors.data.base import DataError, Split
from detectors.data.images import ImageError, read_size
from detectors.data.problems import Problems

SPLITS: tuple[Split, Split] = ("train", "val")

Content = TypeVar("Content")


@dataclass(frozen=True)
class SplitFiles:
    """Absolute paths of one split's annotation file and folder of images.

    options: the names of the options that say so, for remedies.
    """

    annotations: Path
    images: Path
    options: tuple[str, str]


@dataclass(frozen=True)
class Files:
    """The absolute path of the root folder, and the files of both splits."""

    root: Path
    train: SplitFiles
    val: SplitFiles

    def of(self, split: Split) -> SplitFiles:
        """The files of one split."""
        return self.train if split == "train" else self.val

    def hold(self, split: Split, name: str) -> bool:
        """Whether an image of this name stays below the root or the split's own folder of images.

        An annotation file may come from anywhere and must not name other files of this machine.
        Links are not followed: those in the folders are their owner's.
        """
        folder = os.path.normpath(self.of(split).images)
        path = Path(os.path.normpath(os.path.join(folder, name)))
        return path.is_relative_to(folder) or path.is_relative_to(self.root)


def read_both(files: Files, read: Callable[[Path], Content]) -> dict[Split, Content]:
    """`read` of both annotation files; read again only when a file has changed.

    Raises DataError where a file or folder is missing, and with the problems of both files.
    """
    _require(files)
    contents: dict[Split, Content] = {}
    problems = []
    for split in SPLITS:
        path = files.of(split).annotations
        try:
            contents[split] = _kept(read, path, path.stat().st_mtime_ns, path.stat().st_size)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return contents


def image_sizes(
    names: Iterable[str], files: Files, split: Split, *, decode: bool
) -> tuple[dict[str, tuple[int, int]], Problems]:
    """(width, height) of the images that are there and whole, and what is wrong with the others.

    Without `decode` only the headers are read.
    """
    sizes: dict[str, tuple[int, int]] = {}
    problems = Problems()
    for name in names:
        path = files.of(split).images / name
        if not files.hold(split, name):
            problems.add(kinds.ASTRAY, [name])
            continue
        if not os.path.isfile(path):  # unlike Path's, False where a name can't be one
            problems.add(kinds.MISSING_FILE, [name])
            continue
        try:
            sizes[name] = read_size(path, decode=decode)
        except ImageError as error:
            problems.add(kinds.UNREADABLE, [f"{name}: {error}"])
    return sizes, problems


def fingerprint(files: Files, names: Mapping[Split, Sequence[str]], *, skip_missing: bool) -> str:
    """SHA-256, in hex, of both splits: the annotation file and the `names` and sizes of its images.

    Raises DataError where an image is missing or outside; with `skip_missing` it counts as one of
    no size.
    """
    content, problems = [], []
    for split in SPLITS:
        path, folder = files.of(split).annotations, files.of(split).images
        held = {name: files.hold(split, name) for name in names[split]}
        sizes = {name: _bytes(folder / name) if held[name] else None for name in names[split]}
        bad = Problems()
        bad.add(kinds.ASTRAY, [name for name in sizes if not held[name]])
        bad.add(kinds.MISSING_FILE, [n for n, size in sizes.items() if held[n] and size is None])
        problems += bad.refusals(str(path))
        content.append((hashlib.sha256(path.read_bytes()).hexdigest(), sorted(sizes.items())))
    if problems and not skip_missing:
        raise DataError(problems)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require(files: Files) -> None:
    """Raise DataError unless root, both annotation files and folders with images are there."""
    if not files.root.is_dir():
        raise DataError([f"{files.root}: no such folder; set `root` to the data set's folder"])
    missing = [line for split in SPLITS for line in _missing(files.of(split))]
    if missing:
        raise DataError(list(dict.fromkeys(missing)))


def _missing(files: SplitFiles) -> list[str]:
    path, folder, (path_option, folder_option) = files.annotations, files.images, files.options
    missing = [] if path.is_file() else [f"{path}: no such file; correct `{path_option}`"]
    if not folder.is_dir():
        missing.append(f"{folder}: no such folder; correct `{folder_option}`")
    elif not any(inner.is_file() for inner in folder.rglob("*")):
        missing.append(f"{folder}: holds no image; add them or correct `{folder_option}`")
    return missing


@lru_cache(maxsize=4)
def _kept(read: Callable[[Path], Any], path: Path, mtime_ns: int, size: int) -> Any:
    del mtime_ns, size
    return read(path)


def _bytes(path: Path) -> int | None:
    return path.stat().st_size if os.path.isfile(path) else None
