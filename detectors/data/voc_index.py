"""Find and read Pascal VOC's XML files: the boxes of each image, and all problems."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from pydantic import Field

from detectors.data import problems as kinds
from detectors.data.base import DataError, Split
from detectors.data.entries import Xyxy
from detectors.data.names import Finder, images_below
from detectors.data.problems import Problems
from detectors.data.records import Drawn, Index, Listing, Listings, Record, exists

CONTROL = r"\x00-\x1f\x7f-\x9f"
ClassName = Annotated[str, Field(pattern=rf"^[^{CONTROL}]+$")]
FLAGGED = re.compile(r"(\S+)\s+(?:-1|0|1)")
"""A line of a list for one class: a name, and whether the image has objects of the class."""


@dataclass(frozen=True)
class VocFolders:
    """The folders of a data set."""

    root: Path
    annotations: Path
    images: Path

    @classmethod
    def of(cls, root: Path, annotations: str, images: str) -> Self:
        """Create from the root and names relative to it."""
        return cls(root, root / annotations, root / images)

    def missing(self) -> list[str]:
        """Return an error for each folder that does not exist."""
        named = {"annotations": self.annotations, "images": self.images}
        return [
            f"{folder}: no such folder; correct `{option}`"
            for option, folder in named.items()
            if not folder.is_dir()
        ]


def find_files(folders: VocFolders, lists: Mapping[Split, str]) -> dict[Split, Listing]:
    """Find the images and XML files of splits.

    Args:
        folders: the folders of the data set.
        lists: of each split, the path of its list of names, relative to the root, or of a folder
            with its images and XML files; empty: all XML files.

    Raises:
        DataError: a folder or list is missing, or a list is empty; with all problems.
    """
    if not folders.root.is_dir():
        raise DataError([f"{folders.root}: no such folder; set `root` to the data set's folder"])
    listings: dict[Split, Listing] = {}
    problems: list[str] = []
    for split, name in lists.items():
        try:
            listings[split] = _found(folders, split, name)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(list(dict.fromkeys(problems)))
    return listings


def read_xml(listings: Listings, classes: Sequence[str], first_pixel: int) -> dict[Split, Index]:
    """Read the XML files of both splits.

    Args:
        listings: the files of both splits.
        classes: names in label order; empty: all names in the files, sorted.
        first_pixel: coordinate of the leftmost and topmost pixel, 0 or 1.
    """
    found = {split: _pages(each) for split, each in listings.items()}
    names = {o.name for pages, _ in found.values() for page in pages for o in page.objects}
    if not names:
        lines = [f"{each.where}: no object in the XML files" for each in listings.values()]
        raise DataError([f"{line}; add objects, or correct `annotations`" for line in lines])
    labels = {name: label for label, name in enumerate(classes or sorted(names))}
    return {
        split: _index(pages, labels, first_pixel, problems)
        for split, (pages, problems) in found.items()
    }


# --- lists ----------------------------------------------------------------------------------------


def _found(folders: VocFolders, split: Split, name: str) -> Listing:
    """Find the files of one split. Raises DataError if there are none."""
    path = folders.root / name if name else folders.annotations
    if name and path.is_dir():
        folders = VocFolders(folders.root, path, path)
    if missing := folders.missing():
        raise DataError(missing)
    names = _all_names(path) if path.is_dir() else _names(folders, path, split)
    return _listing(folders, path, names, _images(folders))


def _images(folders: VocFolders) -> dict[str, str]:
    """Return the file name, relative to the root, of each image without its suffix.

    Of several files of one name, the .jpg is preferred, then the first in the alphabet.
    """
    found: dict[str, str] = {}
    paths = images_below(folders.images)
    for path in sorted(paths, key=lambda path: (not path.lower().endswith(".jpg"), path)):
        stem = os.path.splitext(os.path.relpath(path, folders.images))[0]
        found.setdefault(stem, os.path.relpath(path, folders.root))
    return found


def _listing(
    folders: VocFolders, where: Path, listed: Sequence[str], images: Mapping[str, str]
) -> Listing:
    names = sorted(set(listed))
    finders = [Finder(folder, folders.root) for folder in (folders.images, folders.annotations)]
    files: list[str] = []
    pages: list[Path | None] = []
    for name in names:
        outside = any(finder.is_outside(f"{name}.jpg") for finder in finders)
        usual = f"{name}.jpg" if outside else _expected(folders, name)
        files.append(images.get(name, usual))
        page = finders[1].find(f"{name}.xml") or folders.annotations / f"{name}.xml"
        pages.append(None if outside else page)
    repeated = tuple(name for name, count in sorted(Counter(listed).items()) if count > 1)
    return Listing(where, tuple(files), tuple(pages), repeated=repeated)


def _names(folders: VocFolders, path: Path, split: Split) -> list[str]:
    """Return the names in a list. Raises DataError if there are none."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise DataError([f"{path}: {reason}; correct `{split}_list`"]) from None
    names = [_name(folders, line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError([f"{path}: lists no image; correct `{split}_list`"])
    return names


def _all_names(folder: Path) -> list[str]:
    """Return the names of all XML files. Raises DataError if there are none."""
    paths = folder.rglob("*.xml")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    if not names:
        raise DataError([f"{folder}: no XML file; correct `annotations` or the list"])
    return names


def _name(folders: VocFolders, line: str) -> str:
    """Return the name of an image in a line, without the flag of a list for one class."""
    flagged = FLAGGED.fullmatch(line)
    if flagged and not os.path.isfile(folders.annotations / f"{line}.xml"):
        return flagged[1]
    return line


def _expected(folders: VocFolders, name: str) -> str:
    return os.path.relpath(folders.images / f"{name}.jpg", folders.root)


# --- XML ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    place: str
    name: str
    xyxy: Xyxy
    """As written."""
    difficult: bool


@dataclass(frozen=True)
class _Page:
    """The content of an XML file."""

    number: int
    file_name: str
    size: tuple[int, int] | None
    objects: tuple[_Object, ...]


def _pages(listing: Listing) -> tuple[list[_Page], Problems]:
    problems, pages = Problems(), []
    problems.add(kinds.REPEATED_NAME, listing.repeated)
    pairs = zip(listing.images, listing.annotations, strict=True)
    for number, (name, path) in enumerate(pairs, start=1):
        if not exists(path):
            missing = [] if path is None else [path.name]
            problems.add(kinds.NO_ANNOTATION, missing)
            pages += [_Page(number, name, None, ())] if path is None else []
            continue
        try:
            tree = _parse(path)
        except ValueError as error:
            problems.add(kinds.NOT_VOC, [f"{path.name}: {error}"])
            continue
        objects = tuple(_objects(path, tree, problems))
        pages.append(_Page(number, name, _size(tree), objects))
    return pages, problems


def _parse(path: Path) -> Element:
    """Parse an XML file. Raises ValueError; also for a document type, which may define entities."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror) from None
    if b"<!DOCTYPE" in text:
        raise ValueError("has a document type")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"not XML: {error}") from None
    if tree.tag != "annotation":
        raise ValueError(f"{tree.tag!r} instead of 'annotation'")
    return tree


def _size(tree: Element) -> tuple[int, int] | None:
    """Return (width, height); None where they are missing, or 0 as some tools write."""
    try:
        width, height = (int(float(tree.findtext(f"size/{k}") or 0)) for k in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width and height else None


def _objects(path: Path, tree: Element, problems: Problems) -> Iterator[_Object]:
    for number, each in enumerate(tree.findall("object"), start=1):
        place = f"{path.name} object {number}"
        try:
            yield _object(each, place)
        except ValueError as error:
            problems.add(kinds.NOT_VOC, [f"{place}: {error}"])


def _object(each: Element, place: str) -> _Object:
    """Read an object. Raises ValueError with what is missing or wrong."""
    name = (each.findtext("name") or "").strip()
    if not name or re.search(f"[{CONTROL}]", name):
        raise ValueError("name is empty or has control characters")
    x1, y1, x2, y2 = (_number(each, f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (each.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"difficult is {difficult!r}, not 0 or 1")
    return _Object(place, name, (x1, y1, x2, y2), difficult == "1")


def _number(each: Element, key: str) -> float:
    text = each.findtext(key)
    if text is None:
        raise ValueError(f"{key} is missing")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} is not a number") from None


def _index(
    pages: Sequence[_Page], labels: Mapping[str, int], first_pixel: int, problems: Problems
) -> Index:
    records = []
    for page in pages:
        known = [each for each in page.objects if each.name in labels]
        problems.add(
            kinds.UNKNOWN_CATEGORY,
            [f"{each.place}: {each.name}" for each in page.objects if each.name not in labels],
        )
        boxes = [
            Drawn(o.place, _moved(o.xyxy, first_pixel), labels[o.name], o.difficult) for o in known
        ]
        records.append(Record(page.number, page.file_name, tuple(boxes), page.size))
    if first_pixel:
        zero = (o.place for page in pages for o in page.objects if 0 in o.xyxy[:2])
        problems.remark(kinds.AT_ZERO, zero)
    return Index(tuple(labels), tuple(records), problems)


def _moved(xyxy: Xyxy, first_pixel: int) -> Xyxy:
    """Return a box whose coordinates start at 0."""
    x1, y1, x2, y2 = xyxy
    return x1 - first_pixel, y1 - first_pixel, x2, y2
