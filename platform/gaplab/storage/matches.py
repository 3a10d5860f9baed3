"""What matching decided about each detection of an evaluation, as one Parquet file.

Imports no PyTorch: `gaplab compare` reads these files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.matches import Matches
from gaplab.errors import UserError
from gaplab.identity import canonical, digest
from gaplab.records import EvaluationRecord
from gaplab.storage.filesystem import Storage, evaluation_folder
from gaplab.storage.parquet import Category, Column, Layout, reading, write_table

if TYPE_CHECKING:
    from detectors.evaluation.truth import GroundTruth

_SETS = ("without", "with", "objects")
_BITS = 16
_LAYOUT = Layout(
    "matches",
    1,
    {
        "set": Column("category"),
        "image": Column("int32"),
        "label": Column("int32"),
        "score": Column("float64", null=True, varied=True),
        "hit": Column("uint16"),
        "ignored": Column("uint16"),
    },
    "bring it back from a copy, or train the trial again in another --home",
)
"""A row is a detection without suppression, one with it, or an object (which has no score). Bit t
of `hit` and `ignored` is that of IoU threshold t."""


@dataclass(frozen=True)
class About:
    """Whose matches a file holds. classes: in label order; images: a digest of the ids of all
    images in order; count: how many images; thresholds: IoU thresholds.
    """

    trial: str
    epoch: int
    branch: str
    protocol: str
    classes: tuple[str, ...]
    images: str
    count: int
    thresholds: int


def write_matches(
    storage: Storage,
    evaluation: EvaluationRecord,
    truth: "GroundTruth",
    without: Matches,
    with_: Matches,
) -> str:
    """Write the matches of `evaluation` without and with suppression; returns the file's URI.

    Raises ValueError where the two aren't of the same objects, of `truth`'s images and classes, and
    of at most 16 thresholds; UserError if the file can't be written.
    """
    _check(truth, without, with_)
    about = About(
        trial=evaluation.trial,
        epoch=evaluation.epoch,
        branch=evaluation.branch,
        protocol=evaluation.protocol,
        classes=truth.classes,
        images=digest(canonical(truth.image_ids), 16),
        count=len(truth.image_ids),
        thresholds=len(without.hit),
    )
    folder = evaluation_folder("matches", about.trial, about.epoch, about.branch)
    name = f"{folder}/{about.protocol}.parquet"
    return write_table(storage, name, _LAYOUT, asdict(about), _groups(without, with_)).uri


def read_matches(uri: str) -> tuple[About, Matches, Matches]:
    """What the file at `uri` is about, and its matches without and with suppression.

    Raises UserError.
    """
    storage, name = Storage.of(uri)
    with reading(storage, name, _LAYOUT) as file:
        about = file.document(About)
        groups = [file.group(index) for index in range(len(file))]
    rows = _joined(groups)
    if problems := _problems(rows, about):
        raise UserError(f"{uri}: {', '.join(problems)}; {_LAYOUT.remedy}")
    return about, _matches(rows, 0, about), _matches(rows, 1, about)


def _check(truth: "GroundTruth", without: Matches, with_: Matches) -> None:
    sizes = {(m.images, m.classes, len(m.hit), len(m.ignored)) for m in (without, with_)}
    thresholds = len(without.hit)
    if sizes != {(len(truth.image_ids), len(truth.classes), thresholds, thresholds)}:
        raise ValueError(f"matches of {sizes} images, classes and thresholds don't fit each other")
    if thresholds > _BITS:
        raise ValueError(f"{thresholds} IoU thresholds; a match file holds at most {_BITS}")
    objects = [(m.object_image, m.object_label) for m in (without, with_)]
    if not all(np.array_equal(a, b) for a, b in zip(*objects, strict=True)):
        raise ValueError("matches without and with suppression are of different objects")


def _groups(without: Matches, with_: Matches) -> Iterator[dict[str, Any]]:
    """A row group each: detections without suppression, with it, and the objects."""
    for index, m in enumerate((without, with_)):
        bits = {"hit": _packed(m.hit), "ignored": _packed(m.ignored)}
        yield _group(index, m.image, m.label) | {"score": m.score} | bits
    image, label = without.object_image, without.object_label
    none = np.zeros(len(image), dtype=np.uint16)
    absent = np.full(len(image), np.nan)
    yield _group(2, image, label) | {"score": absent, "hit": none, "ignored": none}


def _group(index: int, image: NDArray[np.int64], label: NDArray[np.int64]) -> dict[str, Any]:
    own = Category(np.full(len(image), index, dtype=np.int32), _SETS)
    return {"set": own, "image": image.astype(np.int32), "label": label.astype(np.int32)}


def _joined(groups: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """All rows; `set` as index into `_SETS`, -1 for another name."""
    empty = {name: np.zeros(0, dtype=np.int64) for name in _LAYOUT.columns}
    parts = [empty] + [{**group, "set": _sets(group["set"])} for group in groups]
    return {name: np.concatenate([part[name] for part in parts]) for name in _LAYOUT.columns}


def _sets(column: Category) -> NDArray[np.int64]:
    known = {name: index for index, name in enumerate(_SETS)}
    return np.array([known.get(name, -1) for name in column.names], dtype=np.int64)[column.codes]


def _problems(rows: Mapping[str, NDArray[Any]], about: About) -> list[str]:
    scored = rows["score"][rows["set"] != _SETS.index("objects")]
    checks = {
        "rows of an unknown set": (rows["set"] < 0).any(),
        "images out of range": not _within(rows["image"], about.count),
        "labels out of range": not _within(rows["label"], len(about.classes)),
        "scores that are not finite": not np.isfinite(scored).all(),
        "more thresholds than a file can hold": not 0 < about.thresholds <= _BITS,
    }
    return [problem for problem, found in checks.items() if found]


def _within(values: NDArray[Any], stop: int) -> bool:
    return bool(((values >= 0) & (values < stop)).all())


def _matches(rows: Mapping[str, NDArray[Any]], index: int, about: About) -> Matches:
    own = {name: column[rows["set"] == index] for name, column in rows.items()}
    objects = rows["set"] == _SETS.index("objects")
    return Matches(
        images=about.count,
        classes=len(about.classes),
        image=own["image"].astype(np.int64),
        label=own["label"].astype(np.int64),
        score=own["score"].astype(np.float64),
        hit=_unpacked(own["hit"], about.thresholds),
        ignored=_unpacked(own["ignored"], about.thresholds),
        object_image=rows["image"][objects].astype(np.int64),
        object_label=rows["label"][objects].astype(np.int64),
    )


def _packed(flags: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """flags: [T, D] bool -> [D], bit t is row t."""
    packed = np.zeros(flags.shape[1], dtype=np.uint16)
    for bit, row in enumerate(flags):
        packed |= row.astype(np.uint16) << np.uint16(bit)
    return packed


def _unpacked(bits: NDArray[Any], thresholds: int) -> NDArray[np.bool_]:
    """bits: [D] -> [thresholds, D] bool."""
    flags = 1 << np.arange(thresholds)[:, None]
    return (bits.astype(np.uint16) & flags.astype(np.uint16)).astype(bool)
