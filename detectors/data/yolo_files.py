"""Read a data.yaml in the layout of Ultralytics YOLO, and find the images of its splits."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Len
from pydantic import BaseModel, Field, ValidationError

from detectors.data.base import DataError, Split
from detectors.data.names import Finder, images_below
from detectors.data.photo_files import SPLITS
from detectors.data.problems import LABEL_ALONE, Problems
from detectors.data.records import Listing, exists

MAX_BYTES = 2**22

ClassName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Places = str | Annotated[list[str], Len(1)]


class _Document(BaseModel):
    """The keys of a data.yaml that are used. All its values are text."""

    names: Annotated[list[ClassName], Len(1)] | Annotated[dict[int, ClassName], Len(1)]
    train: Places
    val: Places | None = None
    path: str = ""
    nc: int | None = None
    kpt_shape: list[int] = []


_PLACE = "{} must be a folder of images, a .txt file that lists images, or a list of these"
_KEYS = {
    "": "must be a mapping with the keys names, train and val, as YOLO's data.yaml",
    "names": "{} must be a list of names, or a mapping from 0, 1, 2, ... to names; all without "
    "control characters",
    "train": _PLACE,
    "val": _PLACE,
    "path": "{} must be a folder",
    "nc": "{} must be the number of names",
    "kpt_shape": "{} must be two numbers: keypoints, and values of each",
}
"""Key of a data.yaml -> what it must be."""


@dataclass(frozen=True)
class Config:
    """The content of a data.yaml."""

    path: Path
    classes: tuple[str, ...]
    splits: dict[Split, tuple[str, ...]]
    """Folders and list files of each split, as written."""
    folder: str
    """The key `path`, as written."""
    keypoints: int
    """Number of values of a label's keypoints, which follow its box."""


def read_config(path: Path) -> Config:
    """Read a data.yaml. Raises DataError with all of its problems."""
    raw = read_yaml(path)
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        wrong = dict.fromkeys(str(each["loc"][0]) if each["loc"] else "" for each in error.errors())
        raise DataError([f"{path}: {_KEYS[key].format(key)}" for key in wrong]) from None
    splits = {split: _tuple(getattr(document, split)) for split in SPLITS}
    classes = _classes(path, document)
    return Config(path, classes, splits, document.path, prod(document.kpt_shape or [0]))


def find_files(root: Path, name: str, splits: Sequence[Split]) -> dict[Split, Listing]:
    """Find the images of splits and the places of their labels.

    Args:
        root: the folder that holds all images.
        name: path of data.yaml, relative to `root`.
        splits: the splits to find.

    Raises:
        DataError: data.yaml or a place that it names is missing or outside of `root`, or a split
            has no images or no label file; with the problems of all splits.
    """
    if not root.is_dir():
        raise DataError([f"{root}: no such folder; set `root` to the data set's folder"])
    config = read_config(root / name)
    base, notes = _base(root, config)
    listings: dict[Split, Listing] = {}
    problems: list[str] = []
    for split in splits:
        try:
            listings[split] = _listing(root, base, config, split, notes)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return listings


# --- data.yaml ------------------------------------------------------------------------------------


def read_yaml(path: Path) -> Any:
    """Read a file; every scalar is text, so that a class may be called `no` or `1`.

    Raises:
        DataError: it can't be read, is not YAML, or is too large for a data.yaml.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError([f"{path}: {error.strerror}; correct `data_yaml`"]) from None
    if len(text) > MAX_BYTES:
        raise DataError([f"{path}: larger than {MAX_BYTES} bytes, not a data.yaml of YOLO"])
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  (text, lists and mappings only)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError([f"{path}: not YAML: {reason}; correct it"]) from None


def _tuple(places: str | list[str] | None) -> tuple[str, ...]:
    if not places:
        return ()
    return (places,) if isinstance(places, str) else tuple(places)


def _classes(path: Path, document: _Document) -> tuple[str, ...]:
    """Return the names in label order. Raises DataError unless they are 0 to n - 1 and differ."""
    names = document.names
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            keys = ", ".join(map(str, names))
            raise DataError([f"{path}: names: keys must be 0 to {len(names) - 1}, got {keys}"])
        names = [names[label] for label in sorted(names)]
    problems = []
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        line = f"{path}: names repeat: {', '.join(repeated)}; give every class its own name"
        problems.append(line)
    if document.nc not in (None, len(names)):
        problems.append(
            f"{path}: nc is {document.nc}, but there are {len(names)} names; correct nc"
        )
    if problems:
        raise DataError(problems)
    return tuple(names)


# --- images and labels ----------------------------------------------------------------------------


def _base(root: Path, config: Config) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that the places of splits are relative to, and a note if it is another."""
    own = config.path.parent
    for start in (own, root):
        if config.folder and (start / config.folder).is_dir():
            return start / config.folder, ()
    note = f"{config.path}: path {config.folder} is not a folder here; its own folder is used"
    return own, (note,) if config.folder else ()


def _listing(
    root: Path, base: Path, config: Config, split: Split, notes: tuple[str, ...]
) -> Listing:
    places, names = _images(root, base, config, split)
    images = tuple(sorted(set(names)))
    finder = Finder(root, root)
    labels = tuple(None if os.path.isabs(name) else _label(finder, root, name) for name in images)
    alone = _without_image(root, places, labels)
    if alone and not images:
        what = f"{config.path}: {split}: {len(alone)} label files, such as {alone[0]}, but no image"
        raise DataError([f"{what}; add the images: labels do not say their sizes"])
    if not any(map(exists, labels)):
        example = f"such as {labels[0]}" if labels else "and no image"
        what = f"{config.path}: {split}: no label file, {example}"
        raise DataError([f"{what}; add them, or correct `{split}` in the file"])
    repeated = tuple(name for name, count in sorted(Counter(names).items()) if count > 1)
    remarks = Problems()
    remarks.remark(LABEL_ALONE, alone)
    notes = (*notes, *remarks.notes(str(config.path)))
    return Listing(config.path, images, labels, notes, repeated)


def _images(root: Path, base: Path, config: Config, split: Split) -> tuple[list[Path], list[str]]:
    """Return the folders and lists of the images of a split, and their names. Raises DataError."""
    places, names, problems = list[Path](), list[str](), list[str]()
    if not config.splits[split]:
        problems.append(f"{config.path}: {split}: is missing; add it, or set val_fraction")
    for written in config.splits[split]:
        try:
            place = _existing(base, written, config, split)
            names += _names(root, place)
            places.append(place)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return places, names


def _without_image(root: Path, places: Sequence[Path], labels: Sequence[Path | None]) -> list[str]:
    """Return the names of label files that belong to no image, in a split's folders of labels.

    A folder that holds images and labels may hold other text files, so it is not searched.
    """
    known = {str(label) for label in labels}
    found = list[str]()
    for place in filter(Path.is_dir, places):
        folder = Path(os.path.normpath(place))
        inside = os.path.dirname(label_name(f"{folder.relative_to(root).as_posix()}/_.jpg"))
        if root / inside != folder:
            found += map(str, sorted((root / inside).rglob("*.txt")))
    alone = [path for path in found if path not in known and not path.endswith("/classes.txt")]
    return [os.path.relpath(path, root) for path in alone]


def _existing(base: Path, place: str, config: Config, split: Split) -> Path:
    """Return the path of a folder or a list of images.

    Exports of Roboflow name `../train/images` for the folder beside data.yaml.
    """
    for form in (place, place.replace("\\", "/")):
        for name in (form, form.removeprefix("../")):
            if os.path.exists(base / name):
                return base / name
    where = f"{config.path}: {split}: {base / place}"
    raise DataError([f"{where}: no such folder or file; correct `{split}` in it"])


def _names(root: Path, place: Path) -> list[str]:
    """Return the names of images, relative to root. Names outside of it are left absolute."""
    if not Path(os.path.normpath(place)).is_relative_to(root):
        raise DataError([f"{place}: is outside of {root}; set `root` to a folder that holds it"])
    paths = _listed(place) if place.is_file() else images_below(place)
    start = f"{root}/".replace("//", "/")
    return [os.path.normpath(path).removeprefix(start) for path in paths]


def _listed(path: Path) -> Iterator[str]:
    """Yield the images that a text file lists, one per line, relative to its folder."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise DataError([f"{path}: {reason}; list one image per line"]) from None
    finder = Finder(path.parent, path.parent)
    names = [line.strip() for line in lines if line.strip()]
    return (str(finder.find(name) or path.parent / name) for name in names)


def _label(finder: Finder, root: Path, image: str) -> Path:
    name = label_name(image)
    usual = f"{root}/{name}"
    return Path(usual) if os.path.isfile(usual) else finder.find(name) or Path(usual)


def label_name(image: str) -> str:
    """Return the name of the label file of an image: the last folder `images` becomes `labels`.

    Examples:
        >>> label_name("images/train/a.jpg")
        'labels/train/a.txt'
    """
    folder, _, name = image.rpartition("/")
    parts = folder.split("/") if folder else []
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join((*parts, f"{os.path.splitext(name)[0]}.txt"))
