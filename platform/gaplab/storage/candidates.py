"""Raw candidates of one trial, epoch and branch as Parquet files, also for people's own tools.

A dump is a folder with one part for each rank that predicted. A row is a candidate: its class by
name, its box in pixels of the original image, its anchor point in pixels of the detector's input.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.data.loader import shard
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from detectors.world import World
from gaplab.errors import UserError
from gaplab.records import Subject
from gaplab.storage.filesystem import Storage, evaluation_folder
from gaplab.storage.parquet import Category, Column, Layout, Reader, reading, write_table

ROWS = 65_536
"""A row group ends with the image that fills so many rows."""
_BOX = ("x1", "y1", "x2", "y2")
_POINT = ("point_x", "point_y")
LAYOUT = Layout(
    "candidates",
    1,
    {
        "image_id": Column("int64"),
        "level": Column("int16"),
        "class": Column("category"),
        "score": Column("float32", varied=True),
        **{name: Column("float32", varied=True) for name in _BOX},
        **{name: Column("float32") for name in (*_POINT, "stride")},
    },
    "bring it back from a copy, or train the trial again in another --home",
)


def groups(
    candidates: Candidates, image_ids: NDArray[np.int64], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The candidates as row groups, none of which ends within an image.

    image_ids: id of each image of the data set. Raises ValueError unless candidates are sorted by
    image, then by falling score.
    """
    image = candidates.image.numpy()
    if _unsorted(image, candidates.scores.numpy()) or (np.diff(image) < 0).any():
        raise ValueError("candidates are not sorted by image and falling score")
    columns = _columns(candidates, image_ids[image])
    labels, names = candidates.labels.numpy().astype(np.int32), tuple(classes)
    start = 0
    for stop in _stops(image):
        group = {name: column[start:stop] for name, column in columns.items()}
        yield {**group, "class": Category(labels[start:stop], names)}
        start = stop


@dataclass(frozen=True)
class Labels:
    """What ids and names in a part's rows stand for.

    ids: [I] int64, rising, the images of the part; places: [I] int64, index of each in the data
    set; classes: label of each name.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    classes: Mapping[str, int]

    @classmethod
    def of(cls, places: Mapping[int, int], classes: Sequence[str]) -> Self:
        """places: index in the data set of each id of the part."""
        pairs = np.array(sorted(places.items()), dtype=np.int64).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1], {name: i for i, name in enumerate(classes)})


def read_group(group: Mapping[str, Any], labels: Labels, where: str) -> Candidates:
    """The candidates of one row group, sorted by index of image, then as stored.

    Raises UserError, naming `where`, for rows that `groups` can't have written.
    """
    image, known = _places(group["image_id"], labels)
    label = _label(group["class"], labels.classes)
    boxes, points = (np.stack([group[n] for n in names], axis=1) for names in (_BOX, _POINT))
    score = group["score"]
    checks = {
        "images of another part, or of none": not known,
        "unknown classes": (label < 0).any(),
        "boxes that are not finite": not np.isfinite(boxes).all(),
        "anchor points that are not finite": not np.isfinite(points).all(),
        "strides that are not positive": not (group["stride"] > 0).all(),
        "levels below 0": (group["level"] < 0).any(),
        "scores outside [0, 1]": not ((score >= 0) & (score <= 1)).all(),
        "images that aren't sorted by falling score": _unsorted(image, score),
    }
    if problems := [problem for problem, found in checks.items() if found]:
        raise UserError(f"{where}: {', '.join(problems)}; {LAYOUT.remedy}")
    order = np.argsort(image, kind="stable")
    columns = (image, boxes, score, label, group["level"].astype(np.int64), points, group["stride"])
    return Candidates(*(torch.from_numpy(column[order]) for column in columns))


def _columns(candidates: Candidates, image_id: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    boxes, points = candidates.boxes.float().numpy(), candidates.points.float().numpy()
    return {
        "image_id": image_id,
        "level": candidates.levels.numpy().astype(np.int16),
        "score": candidates.scores.float().numpy(),
        **{name: np.ascontiguousarray(boxes[:, i]) for i, name in enumerate(_BOX)},
        **{name: np.ascontiguousarray(points[:, i]) for i, name in enumerate(_POINT)},
        "stride": candidates.strides.float().numpy(),
    }


def _stops(image: NDArray[np.int64]) -> Iterator[int]:
    """Where row groups end: each at the first end of an image after `ROWS` rows or more."""
    ends = [*(np.flatnonzero(np.diff(image)) + 1).tolist(), len(image)]
    start = 0
    for end in ends:
        if end - start >= ROWS or start < end == len(image):
            yield end
            start = end


def _unsorted(image: NDArray[np.int64], score: NDArray[Any]) -> bool:
    """Whether an image's rows lie apart, or a score is above the one before it."""
    same = image[1:] == image[:-1]
    runs = len(image) - np.count_nonzero(same)
    rising = (same & (score[1:] > score[:-1])).any()
    return bool(rising or runs != len(np.unique(image)))


def _places(image_id: NDArray[np.int64], labels: Labels) -> tuple[NDArray[np.int64], bool]:
    """Index in the data set of each row's image, and whether all are of this part."""
    if not len(labels.ids):
        return np.zeros_like(image_id), not len(image_id)
    at = np.searchsorted(labels.ids, image_id).clip(max=len(labels.ids) - 1)
    return labels.places[at], bool((labels.ids[at] == image_id).all())


def _label(column: Category, classes: Mapping[str, int]) -> NDArray[np.int64]:
    """Label of each row's class, -1 where it isn't known."""
    table = np.array([classes.get(name, -1) for name in column.names], dtype=np.int64)
    return table[column.codes]


_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")
_LEFTOVER = re.compile(_PART.pattern + r"(\.[0-9a-f]+\.part)?")


@dataclass(frozen=True)
class Part:
    """What one rank of `world` predicted: of the data set's images its share (see `shard`).

    topk: candidates kept of each level and image.
    """

    subject: Subject
    truth: GroundTruth
    topk: int
    world: World


@dataclass(frozen=True)
class About:
    """What a dump holds. classes: in label order; topk: candidates kept of each level and image."""

    trial: str
    epoch: int
    branch: str
    classes: tuple[str, ...]
    topk: int


@dataclass(frozen=True)
class _Footer(About):
    """images: ids of all images of this part, also of those without candidates."""

    rank: int
    size: int
    images: tuple[int, ...]

    def about(self) -> About:
        return About(self.trial, self.epoch, self.branch, self.classes, self.topk)


def write_part(storage: Storage, part: Part, candidates: Candidates) -> str:
    """Write `candidates` as this rank's part; returns the URI of the dump's folder.

    Ranks write at the same time. Raises ValueError where candidates aren't sorted as they should
    be or belong to another rank's images; UserError if the file can't be written.
    """
    subject, truth, world = part.subject, part.truth, part.world
    mine = shard(range(len(truth)), world.rank, world.size)
    footer = _Footer(
        trial=subject.trial,
        epoch=subject.epoch,
        branch=subject.branch,
        classes=truth.classes,
        topk=part.topk,
        rank=world.rank,
        size=world.size,
        images=tuple(truth.image_ids[i] for i in mine),
    )
    if strangers := set(np.unique(candidates.image.numpy()).tolist()) - set(mine):
        raise ValueError(f"images {sorted(strangers)[:5]} are not of rank {world.rank}'s share")
    folder = evaluation_folder("candidates", subject.trial, subject.epoch, subject.branch)
    name = f"{folder}/{_part_name(world.rank, world.size)}"
    rows = groups(candidates, np.array(truth.image_ids, dtype=np.int64), truth.classes)
    write_table(storage, name, LAYOUT, asdict(footer), rows)
    return f"{storage.uri}/{folder}"


def tidy(storage: Storage, uri: str, size: int) -> None:
    """Delete what attempts with another number of ranks, or killed ones, left in the dump at `uri`.

    To be called once, after all `size` ranks have written.
    """
    folder = uri.removeprefix(f"{storage.uri}/")
    keep = {_part_name(rank, size) for rank in range(size)}
    for name in storage.names(folder):
        if name not in keep and _LEFTOVER.fullmatch(name):
            storage.delete(f"{folder}/{name}")


@dataclass(frozen=True)
class Dump:
    """The dump at `uri`. Its methods raise UserError."""

    uri: str
    about: About
    _images: tuple[tuple[int, ...], ...]
    """Image ids of each part, by rank."""

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the footers at `uri`. Raises UserError unless all parts are there and fit."""
        storage = Storage(uri)
        names = _whole_set(storage)
        footers = []
        for name in names:
            with reading(storage, name, LAYOUT) as file:
                footers.append(file.document(_Footer))
        _check_footers(uri, names, footers)
        return cls(uri, footers[0].about(), tuple(footer.images for footer in footers))

    def check(self, image_ids: Sequence[int], classes: Sequence[str]) -> None:
        """Raise UserError unless the data set of these images and classes is the dump's."""
        held = {each for part in self._images for each in part}
        lines = _differences("images", held, set(image_ids))
        lines += _differences("classes", set(self.about.classes), set(classes))
        if lines:
            raise UserError(
                f"{self.uri}: not of this data set ({'; '.join(lines)}); "
                "bring back the data that the trial was evaluated on"
            )

    def stream(self, image_ids: Sequence[int], classes: Sequence[str]) -> Iterator[Candidates]:
        """All candidates, some whole images at a time, part by part.

        `image` is the index of the image's id in `image_ids`, a label the index of the class's name
        in `classes`. A chunk is sorted by image, then as stored; images of later chunks may come
        before. Raises UserError as `check` does, and for rows that can't have been written so.
        """
        self.check(image_ids, classes)
        storage, size = Storage(self.uri), len(self._images)
        place = {each: index for index, each in enumerate(image_ids)}
        for rank, images in enumerate(self._images):
            labels = Labels.of({each: place[each] for each in images}, classes)
            with reading(storage, _part_name(rank, size), LAYOUT) as file:
                yield from _chunks(file, labels, f"{self.uri}/{_part_name(rank, size)}")


def _chunks(file: Reader, labels: Labels, uri: str) -> Iterator[Candidates]:
    """The candidates of each row group of a part. Raises UserError."""
    seen = set[int]()
    for index in range(len(file)):
        where = f"{uri}: row group {index}"
        chunk = read_group(file.group(index), labels, where)
        images = set(np.unique(chunk.image.numpy()).tolist())
        if images & seen:
            raise UserError(f"{where}: goes on with an image of an earlier one; {LAYOUT.remedy}")
        seen |= images
        yield chunk


def _part_name(rank: int, size: int) -> str:
    return f"part-{rank:05d}-of-{size:05d}.parquet"


def _whole_set(storage: Storage) -> list[str]:
    """Names of the parts of the one complete set, by rank."""
    found = defaultdict[int, set[int]](set)
    for name in storage.names(""):
        match = _PART.fullmatch(name)
        if match and int(match[1]) < int(match[2]):
            found[int(match[2])].add(int(match[1]))
    whole = [size for size, ranks in found.items() if ranks == set(range(size))]
    if len(whole) == 1:
        return [_part_name(rank, whole[0]) for rank in range(whole[0])]
    if whole:
        sizes = " and of ".join(map(str, sorted(whole)))
        raise UserError(f"{storage.uri}: whole sets of {sizes} parts; delete all but one set")
    missing = [
        _part_name(rank, size)
        for size, ranks in sorted(found.items())
        for rank in sorted(set(range(size)) - ranks)
    ]
    what = f"parts missing: {_first(missing)}" if found else "no candidates there"
    raise UserError(f"{storage.uri}: {what}; {LAYOUT.remedy}")


def _check_footers(uri: str, names: Sequence[str], footers: Sequence[_Footer]) -> None:
    """Raise UserError with every part that doesn't fit its name or the first part."""
    problems, seen = [], set[int]()
    for rank, (name, footer) in enumerate(zip(names, footers, strict=True)):
        if (footer.rank, footer.size) != (rank, len(names)):
            own = _part_name(footer.rank, footer.size)
            problems.append(f"{uri}/{name}: was written as {own}; give it its name back")
        elif footer.about() != footers[0].about() or seen & set(footer.images):
            problems.append(f"{uri}/{name}: doesn't belong to {names[0]}; {LAYOUT.remedy}")
        seen |= set(footer.images)
    if problems:
        raise UserError(*problems)


def _differences(what: str, held: set[Any], given: set[Any]) -> list[str]:
    """What only the dump has, and what only the data set has."""
    pairs = (("only here", held - given), ("only in the data", given - held))
    return [f"{what} {why}: {_first(sorted(odd))}" for why, odd in pairs if odd]


def _first(odd: Sequence[Any]) -> str:
    return ", ".join(map(str, odd[:3])) + (f", ... ({len(odd)} in all)" if len(odd) > 3 else "")
