"""The files of a data set of photographs: check that they exist, and read their content."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from detectors.data import problems as kinds
from detectors.data.base import DataError, Split
from detectors.data.duplicates import shared_pictures
from detectors.data.headers import read_headers
from detectors.data.images import ImageError
from detectors.data.names import Finder
from detectors.data.orientation import Exif, Orientation, PartialSize, Size, fits
from detectors.data.problems import Problems

SPLITS: tuple[Split, Split] = ("train", "val")

Content = TypeVar("Content")


@dataclass(frozen=True)
class SplitFiles:
    """Absolute paths of the annotation file and the folder of images of a split."""

    annotations: Path
    images: Path
    options: tuple[str, str]
    """Names of the options that set these paths, for messages."""
    stamp: tuple[int, int] | None = field(init=False)
    """Modification time and size of the annotation file, None if there is none. Results cached for
    these files are computed again once it has changed."""

    def __post_init__(self) -> None:
        """Read the stamp."""
        found = self.annotations.stat() if self.annotations.is_file() else None
        object.__setattr__(self, "stamp", found and (found.st_mtime_ns, found.st_size))


@dataclass(frozen=True)
class Files:
    """The absolute path of the root folder, and the files of both splits."""

    root: Path
    train: SplitFiles
    val: SplitFiles

    def of(self, split: Split) -> SplitFiles:
        """Return the files of one split."""
        return self.train if split == "train" else self.val

    def find(self, split: Split, names: Iterable[str]) -> tuple[dict[str, Path], Problems]:
        """Return the paths of the images of a split by name, and the problems of the others."""
        paths, problems = self.of(split), Problems()
        finder = Finder(paths.images, self.root)
        missing = kinds.missing_file(paths.images, paths.options[1])
        found = {name: finder.find(name) for name in names}
        lost = [name for name, path in found.items() if path is None]
        problems.add(kinds.OUTSIDE_DATA, filter(finder.is_outside, lost))
        for name in itertools.filterfalse(finder.is_outside, lost):
            other = finder.alternative(name)
            problems.add(missing, [f"{name}: {other}" if other else name])
        return {name: path for name, path in found.items() if path is not None}, problems


def read_both(files: Files, read: Callable[[Path], Content]) -> dict[Split, Content]:
    """Return the contents of both annotation files. A file is read again only if it has changed.

    Args:
        files: the files of both splits.
        read: reads an annotation file.

    Raises:
        DataError: a file or folder is missing, or `read` raises it; with the problems of both.
    """
    _require(files)
    contents: dict[Split, Content] = {}
    problems = []
    for split in SPLITS:
        path = files.of(split).annotations
        try:
            contents[split] = _cached(read, path, path.stat().st_mtime_ns, path.stat().st_size)
        except DataError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"{path}: {error.strerror}; allow reading it")
    if problems:
        raise DataError(problems)
    return contents


def image_sizes(
    names: Mapping[str, PartialSize], files: Files, split: Split, *, decode: bool, exif: Exif
) -> tuple[dict[str, Size], Problems]:
    """Return (width, height) of the valid images as they are used, and the problems of the others.

    Args:
        names: names of the image files, with their sizes according to the annotations.
        files: the files of both splits.
        split: the split.
        decode: whether to decode the images, or to read only their headers.
        exif: what to do with EXIF orientations; `problems` has remarks on those of valid images.
    """
    sizes: dict[str, Size] = {}
    found, problems = files.find(split, names)
    for name, image in read_headers(found, decode=decode).items():
        if isinstance(image, ImageError):
            problems.add(kinds.UNREADABLE, [f"{name}: {image}"])
        elif image.value == 1 and not image.damaged:
            sizes[name] = image.stored
        elif not _refused(name, image, names[name], exif, problems):
            sizes[name] = image.size(exif, names[name])
            _remark(name, image, names[name], exif, problems)
    return sizes, problems


def _refused(
    name: str, image: Orientation, expected: PartialSize, exif: Exif, problems: Problems
) -> bool:
    """Add the problem of an image that can't be used because of its EXIF orientation."""
    only_upright = fits(image.upright, expected) and not fits(image.stored, expected)
    if exif == "refuse" and image.value != 1:
        problems.add(kinds.ORIENTED, [f"{name}: {image.value}"])
    elif exif == "ignore" and only_upright:
        problems.add(kinds.UPRIGHT_SIZE, [f"{name}: {image.value}"])
    else:
        return False
    return True


def _remark(
    name: str, image: Orientation, expected: PartialSize, exif: Exif, problems: Problems
) -> None:
    if image.damaged:
        problems.remark(kinds.BAD_EXIF, [name])
    elif image.value != 1:
        applied = image.is_applied(exif, expected)
        kind = kinds.orientation(image.value, applied=applied, ignored=exif == "ignore")
        problems.remark(kind, [name])


def fingerprint(
    files: Files,
    names: Mapping[Split, Sequence[str]],
    *,
    skip_missing: bool,
    contents: Mapping[Split, str] | None = None,
    rules: Mapping[Split, int] | None = None,
) -> str:
    """Return the SHA-256 of both splits, in hex: annotation files, names and sizes of images.

    Args:
        files: the files of both splits.
        names: names of the image files of each split.
        skip_missing: whether missing images are allowed; they then have no size.
        contents: SHA-256 of the annotations of each split, in hex; None: of the annotation files.
        rules: which rules each annotation file needs to be read, if there are several. The first
            ones, 1, don't count: they are those under which trials were trained before.

    Raises:
        DataError: an image is missing, or outside of the data set.
    """
    content: list[list[Any]] = []
    problems: list[str] = []
    for split in SPLITS:
        path = files.of(split).annotations
        found, bad = files.find(split, names[split])
        sizes = {n: found[n].stat().st_size if n in found else None for n in names[split]}
        problems += bad.refusals(str(path))
        whole = contents[split] if contents else hashlib.sha256(path.read_bytes()).hexdigest()
        later = [rules[split]] if rules and rules[split] > 1 else []
        content.append([whole, sorted(sizes.items()), *later])
    if problems and not skip_missing:
        raise DataError(problems)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def shared(files: Files, names: Mapping[Split, Iterable[str]]) -> tuple[str, ...]:
    """Return a note if validation images are also training images; empty if none is.

    Args:
        files: the files of both splits.
        names: names of the image files of each split.
    """
    train, val = (files.find(split, names[split])[0] for split in SPLITS)
    return shared_pictures(list(train.values()), val).notes(str(files.val.annotations))


def _require(files: Files) -> None:
    """Raise DataError unless root, both annotation files and folders with images exist."""
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
    elif not _holds_file(folder):
        missing.append(f"{folder}: holds no image; add them or correct `{folder_option}`")
    return missing


def _holds_file(folder: str | Path) -> bool:
    """Return whether there is a file in a folder or below, without listing all of them."""
    try:
        with os.scandir(folder) as found:
            inner = ((e, e.is_dir(follow_symlinks=False)) for e in found)
            return any(_holds_file(e.path) if is_dir else e.is_file() for e, is_dir in inner)
    except PermissionError:
        return False


@lru_cache(maxsize=4)
def _cached(read: Callable[[Path], Any], path: Path, mtime_ns: int, size: int) -> Any:
    del mtime_ns, size
    return read(path)
