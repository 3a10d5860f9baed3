"""Store the matches of an evaluation (which detection hit which object) as one Parquet file.

This module doesn't import PyTorch, so that `gaplab compare` starts fast.
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
"""Kinds of rows: detections without NMS, detections with NMS, objects."""
_MAX_THRESHOLDS = 16
"""Number of bits in the columns `hit` and `ignored`."""
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
    "restore it from a backup, or name the --home that the trial was trained in",
)
"""A row is a detection, or an object, which has no score. Bit t of `hit` and `ignored` belongs to
IoU threshold t."""


@dataclass(frozen=True)
class MatchesInfo:
    """What a file of matches holds.

    Attributes:
        trial: id of the trial.
        epoch: epoch of the evaluation.
        branch: branch that was evaluated.
        protocol: key of the protocol.
        classes: names of the classes, in label order.
        images: digest of the ids of all images, in order.
        count: number of images.
        thresholds: number of IoU thresholds.
        truth: digest of the ground truth; empty in files that older versions wrote.
    """

    trial: str
    epoch: int
    branch: str
    protocol: str
    classes: tuple[str, ...]
    images: str
    count: int
    thresholds: int
    truth: str = ""


def write_matches(
    storage: Storage,
    evaluation: EvaluationRecord,
    truth: "GroundTruth",
    without: Matches,
    with_: Matches,
) -> str:
    """Write the matches of an evaluation.

    Args:
        storage: where the file is stored.
        evaluation: trial, epoch, branch, protocol and ground truth of the matches.
        truth: the data set.
        without: matches without NMS.
        with_: matches with NMS.

    Returns:
        The URI of the file.

    Raises:
        ValueError: if the two have different objects, don't belong to `truth`, or have more than 16
            IoU thresholds.
        UserError: if the file can't be written.
    """
    _check(truth, without, with_)
    info = MatchesInfo(
        trial=evaluation.trial,
        epoch=evaluation.epoch,
        branch=evaluation.branch,
        protocol=evaluation.protocol,
        classes=truth.classes,
        images=digest(canonical(truth.image_ids), 16),
        count=len(truth.image_ids),
        thresholds=len(without.hit),
        truth=truth.digest()[:16],
    )
    folder = evaluation_folder("matches", info.trial, info.epoch, info.branch)
    other = f"-truth-{evaluation.truth}" if evaluation.truth else ""
    name = f"{folder}/{info.protocol}{other}.parquet"
    return write_table(storage, name, _LAYOUT, asdict(info), _row_groups(without, with_)).uri


def read_matches(uri: str) -> tuple[MatchesInfo, Matches, Matches]:
    """Return what the file at `uri` holds: its info, matches without NMS, and matches with NMS.

    Raises:
        UserError: if the file is missing or damaged.
    """
    storage, name = Storage.of(uri)
    with reading(storage, name, _LAYOUT) as file:
        info = file.document(MatchesInfo)
        groups = [file.group(index) for index in range(len(file))]
    rows = _joined(groups)
    if problems := _problems(rows, info):
        raise UserError(f"{uri}: {', '.join(problems)}; {_LAYOUT.remedy}")
    return info, _matches(rows, 0, info), _matches(rows, 1, info)


def _check(truth: "GroundTruth", without: Matches, with_: Matches) -> None:
    """Raise ValueError as `write_matches` does."""
    sizes = {(m.images, m.classes, len(m.hit), len(m.ignored)) for m in (without, with_)}
    thresholds = len(without.hit)
    if sizes != {(len(truth.image_ids), len(truth.classes), thresholds, thresholds)}:
        raise ValueError(f"matches of {sizes} images, classes and thresholds don't fit each other")
    if thresholds > _MAX_THRESHOLDS:
        raise ValueError(
            f"{thresholds} IoU thresholds; a match file holds at most {_MAX_THRESHOLDS}"
        )
    objects = [(m.object_image, m.object_label) for m in (without, with_)]
    if not all(np.array_equal(a, b) for a, b in zip(*objects, strict=True)):
        raise ValueError("matches without and with NMS have different objects")


def _row_groups(without: Matches, with_: Matches) -> Iterator[dict[str, Any]]:
    """Yield three row groups: detections without NMS, detections with NMS, objects."""
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
    """Return all rows as columns; `set` as index into `_SETS`, -1 for an unknown name."""
    empty = {name: np.zeros(0, dtype=np.int64) for name in _LAYOUT.columns}
    parts = [empty] + [{**group, "set": _sets(group["set"])} for group in groups]
    return {name: np.concatenate([part[name] for part in parts]) for name in _LAYOUT.columns}


def _sets(column: Category) -> NDArray[np.int64]:
    known = {name: index for index, name in enumerate(_SETS)}
    return np.array([known.get(name, -1) for name in column.names], dtype=np.int64)[column.codes]


def _problems(rows: Mapping[str, NDArray[Any]], info: MatchesInfo) -> list[str]:
    """Return what `write_matches` can't have written."""
    scored = rows["score"][rows["set"] != _SETS.index("objects")]
    checks = {
        "rows of an unknown set": (rows["set"] < 0).any(),
        "images out of range": not _within(rows["image"], info.count),
        "labels out of range": not _within(rows["label"], len(info.classes)),
        "scores that are not finite": not np.isfinite(scored).all(),
        "more thresholds than a file can hold": not 0 < info.thresholds <= _MAX_THRESHOLDS,
    }
    return [problem for problem, found in checks.items() if found]


def _within(values: NDArray[Any], stop: int) -> bool:
    return bool(((values >= 0) & (values < stop)).all())


def _matches(rows: Mapping[str, NDArray[Any]], index: int, info: MatchesInfo) -> Matches:
    """Return the matches of the set with this index in `_SETS`."""
    own = {name: column[rows["set"] == index] for name, column in rows.items()}
    objects = rows["set"] == _SETS.index("objects")
    return Matches(
        images=info.count,
        classes=len(info.classes),
        image=own["image"].astype(np.int64),
        label=own["label"].astype(np.int64),
        score=own["score"].astype(np.float64),
        hit=_unpacked(own["hit"], info.thresholds),
        ignored=_unpacked(own["ignored"], info.thresholds),
        object_image=rows["image"][objects].astype(np.int64),
        object_label=rows["label"][objects].astype(np.int64),
    )


def _packed(flags: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Pack flags [T, D] into numbers [D] whose bit t is row t."""
    packed = np.zeros(flags.shape[1], dtype=np.uint16)
    for bit, row in enumerate(flags):
        packed |= row.astype(np.uint16) << np.uint16(bit)
    return packed


def _unpacked(bits: NDArray[Any], thresholds: int) -> NDArray[np.bool_]:
    """Unpack numbers [D] into flags [thresholds, D]."""
    flags = 1 << np.arange(thresholds)[:, None]
    return (bits.astype(np.uint16) & flags.astype(np.uint16)).astype(bool)
