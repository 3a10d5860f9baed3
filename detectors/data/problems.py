"""Problems of a data set, collected by kind and reported together."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

NAMED = 5  # maximum number of places named in a message; others are counted
SKIP = "or set on_bad: skip"
"""The other remedy of problems that an option skips."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem with an entry, image or annotation."""

    what: str
    """The affected things, in plural."""
    remedy: str
    """What to change in the data."""
    skipped: str = "left out"
    """What `on_bad: skip` does with them."""


MALFORMED = Kind("entries that are not COCO", "give each the keys and types of COCO")
NOT_CROWDHUMAN = Kind(
    "entries that are not CrowdHuman's", "give each the keys and types of CrowdHuman"
)
NOT_YOLO = Kind(
    "lines that are not YOLO labels",
    "write class, centre x, centre y, width and height, or class and the corners of a polygon",
)
NOT_NORMALISED = Kind(
    "YOLO labels with coordinates above 1",
    "divide pixels by the width and height of the image",
)
NOT_VOC = Kind("XML files or objects that are not Pascal VOC", "give each the elements of VOC")
NO_ANNOTATION = Kind("annotation files missing", "add them, or correct their names or folder")
REPEATED_NAME = Kind("images listed before", "list every image once")
REPEATED_IMAGE = Kind("image ids used before", "give every image its own id")
OUTSIDE_DATA = Kind(
    "image files outside the data set", "bring them below `root` and correct their names"
)
UNREADABLE = Kind("image files unreadable", "replace them with whole images of 8 or 16 bits")
ORIENTED = Kind("images with an EXIF orientation", "set exif: apply or exif: ignore")
UPRIGHT_SIZE = Kind(
    "images whose size in the annotations is that after their EXIF orientation",
    "set exif: apply, or annotate the stored pixels",
)
BAD_EXIF = Kind("EXIF orientations that can't be read", "", "ignored")
OTHER_SIZE = Kind("images of another size than the annotations say", "correct `width` and `height`")
UNKNOWN_IMAGE = Kind("annotations of an unknown image id", "add the image or drop them")
UNKNOWN_CATEGORY = Kind("annotations of an unknown category id", "add the category or drop them")
BAD_NUMBER = Kind("annotations with a non-finite number or negative area", "correct or drop them")
DEGENERATE = Kind("boxes without width or height", "correct or drop them")
OUTSIDE = Kind("boxes wholly outside their image", "correct or drop them")
PARTLY_OUTSIDE = Kind("boxes more than 1 px out of their image", "clip them", "clipped")
WITH_IMAGE = Kind("annotations of the images left out", "repair the images")
# Only for remarks:
NO_LABELS = Kind("images without a label file", "", "kept, without objects,")
AT_ZERO = Kind(
    "objects with xmin or ymin 0; set first_pixel: 0 unless VOC's rule holds", "", "kept"
)
BOX_OF_SEGMENTATION = Kind("annotations without `bbox`", "", "took from `segmentation` the box of")
IGNORED = Kind("annotations with `ignore`", "", "made crowd regions of")
LABEL_ALONE = Kind("label files without an image", "", "left out")
REPEATED_BOX = Kind("annotations with the image, class and box of another", "", "kept")
REPEATED_FILE = Kind("image files with several image ids", "", "kept")
SHARED_PICTURE = Kind("validation images that are also training images", "", "kept")


def missing_file(folder: Path, option: str) -> Kind:
    """Return the kind of images that `folder` lacks; `option` sets that folder."""
    what, remedy = "image files missing in", "add them, or correct their names or"
    return Kind(f"{what} {folder} ({option})", f"{remedy} `{option}`")


def orientation(value: int, *, applied: bool, ignored: bool) -> Kind:
    """Return the kind of images with an EXIF orientation, for remarks."""
    why = " (exif: ignore)" if ignored else ", because the annotations have the sizes as stored"
    what = f"images with EXIF orientation {value}"
    return Kind(what, "", "turned") if applied else Kind(what + why, "", "did not turn")


class Problems:
    """The places (ids or file names) of all problems, by kind, and remarks on the rest."""

    def __init__(self) -> None:
        self._places: defaultdict[Kind, list[str]] = defaultdict(list)
        self._remarks: defaultdict[Kind, list[str]] = defaultdict(list)
        self.fatal: tuple[str, ...] = ()
        """Problems of the whole file, one line each: what and the remedy. They can't be skipped."""

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, kind: Kind, places: Iterable[str]) -> None:
        """Add places of one kind; line breaks in them become spaces."""
        _append(self._places, kind, places)

    def remark(self, kind: Kind, places: Iterable[str]) -> None:
        """Add places of a kind that is no problem, but that the notes shall mention."""
        _append(self._remarks, kind, places)

    def merged(self, other: "Problems") -> "Problems":
        """Return the problems of both, as a new object."""
        both = Problems()
        both.fatal = (*self.fatal, *other.fatal)
        for problems in (self, other):
            for kind, places in problems._places.items():
                both.add(kind, places)
            for kind, places in problems._remarks.items():
                both.remark(kind, places)
        return both

    def without(self, *kinds: Kind) -> "Problems":
        """Return the problems of all other kinds and all remarks, as a new object."""
        kept = Problems()
        kept.fatal = self.fatal
        for kind, places in self._places.items():
            if kind not in kinds:
                kept.add(kind, places)
        for kind, places in self._remarks.items():
            kept.remark(kind, places)
        return kept

    def dumped(self) -> dict[str, Any]:
        """Return the problems as values of JSON."""
        tables = {"places": self._places, "remarks": self._remarks}
        rows = {name: [[*astuple(k), p] for k, p in each.items()] for name, each in tables.items()}
        return {"fatal": [*self.fatal], **rows}

    @classmethod
    def loaded(cls, dumped: Mapping[str, Any]) -> "Problems":
        """Return the problems that were dumped."""
        found = cls()
        found.fatal = tuple(dumped["fatal"])
        for name, table in (("places", found._places), ("remarks", found._remarks)):
            table.update({Kind(*kind): places for *kind, places in dumped[name]})
        return found

    def refusals(self, where: str) -> list[str]:
        """Return an error per kind: where, what, how many, which, and the remedy."""
        return [
            f"{where}: {_summary(kind, places)}: {kind.remedy}, {SKIP}"
            for kind, places in self._places.items()
        ]

    def notes(self, where: str) -> tuple[str, ...]:
        """Return a note per kind: what was left out or changed, and the remarks."""
        return tuple(
            f"{where}: {kind.skipped} {_summary(kind, places)}"
            for kind, places in (*self._places.items(), *self._remarks.items())
        )


def _append(table: defaultdict[Kind, list[str]], kind: Kind, places: Iterable[str]) -> None:
    for place in places:
        table[kind].append(" ".join(place.splitlines()))


def _summary(kind: Kind, places: list[str]) -> str:
    """Return kind, number and first places of its problems."""
    more = len(places) - NAMED
    rest = f", and {more} more" if more > 0 else ""
    return f"{kind.what}: {len(places)} ({', '.join(places[:NAMED])}{rest})"
