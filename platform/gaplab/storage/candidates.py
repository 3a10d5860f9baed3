"""Store the raw candidates of one trial, epoch and branch as Parquet files, and read them again.

A dump is a folder with one part per rank. Each row of a part is a candidate: its class by name, its
box in pixels of the original image, and its anchor point in pixels of the detector's input. Row
groups never split an image. Other tools can read the files as they are.
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
"""A row group ends with the image that fills this many rows."""
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
    "restore it from a backup, or train the trial again in another --home",
)

_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")
_LEFTOVER = re.compile(_PART.pattern + r"(\.[0-9a-f]+\.part)?")


@dataclass(frozen=True)
class Part:
    """What one rank predicts: its share of the data set's images (see `loader.shard`).

    Attributes:
        subject: trial, epoch and branch of the candidates.
        truth: the whole data set.
        topk: number of candidates kept per level and image.
        world: the ranks.
    """

    subject: Subject
    truth: GroundTruth
    topk: int
    world: World


@dataclass(frozen=True)
class DumpInfo:
    """What a dump holds.

    Attributes:
        trial: id of the trial.
        epoch: epoch of the evaluation.
        branch: branch that predicted the candidates.
        classes: names of the classes, in label order.
        topk: number of candidates kept per level and image.
    """

    trial: str
    epoch: int
    branch: str
    classes: tuple[str, ...]
    topk: int


def write_part(storage: Storage, part: Part, candidates: Candidates) -> str:
    """Write the candidates of one rank. All ranks may write at the same time.

    Args:
        storage: where the dump is stored.
        part: the rank's share.
        candidates: sorted by image, then by falling score; only of images of the share.

    Returns:
        The URI of the dump's folder.

    Raises:
        ValueError: if the candidates are not sorted or belong to images of another rank.
        UserError: if the file can't be written.
    """
    subject, truth, world = part.subject, part.truth, part.world
    own = shard(range(len(truth)), world.rank, world.size)
    footer = _Footer(
        trial=subject.trial,
        epoch=subject.epoch,
        branch=subject.branch,
        classes=truth.classes,
        topk=part.topk,
        rank=world.rank,
        size=world.size,
        images=tuple(truth.image_ids[i] for i in own),
    )
    if others := set(np.unique(candidates.image.numpy()).tolist()) - set(own):
        raise ValueError(f"images {sorted(others)[:5]} are not in the share of rank {world.rank}")
    folder = evaluation_folder("candidates", subject.trial, subject.epoch, subject.branch)
    name = f"{folder}/{_part_name(world.rank, world.size)}"
    rows = _row_groups(candidates, np.array(truth.image_ids, dtype=np.int64), truth.classes)
    write_table(storage, name, LAYOUT, asdict(footer), rows)
    return f"{storage.uri}/{folder}"


def delete_leftovers(storage: Storage, uri: str, size: int) -> None:
    """Delete files that other attempts left in the dump: killed ones, or with another `size`.

    Call it once, after all ranks have written.

    Args:
        storage: where the dump is stored.
        uri: URI of the dump's folder.
        size: number of ranks.
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
    info: DumpInfo
    _images: tuple[tuple[int, ...], ...]
    """Image ids of each part, by rank."""

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the footers of all parts.

        Raises:
            UserError: if a part is missing or damaged, or the parts don't belong together.
        """
        storage = Storage(uri)
        names = _complete_set(storage)
        footers = []
        for name in names:
            with reading(storage, name, LAYOUT) as file:
                footers.append(file.document(_Footer))
        _check_footers(uri, names, footers)
        return cls(uri, footers[0].info(), tuple(footer.images for footer in footers))

    def check(self, image_ids: Sequence[int], classes: Sequence[str]) -> None:
        """Raise UserError unless the dump has exactly these images and classes, in any order."""
        held = {each for part in self._images for each in part}
        lines = _differences("images", held, set(image_ids))
        lines += _differences("classes", set(self.info.classes), set(classes))
        if lines:
            raise UserError(
                f"{self.uri}: belongs to another data set ({'; '.join(lines)}); "
                "restore the data that the trial was evaluated on"
            )

    def stream(self, image_ids: Sequence[int], classes: Sequence[str]) -> Iterator[Candidates]:
        """Yield all candidates in chunks of whole images, part by part.

        Within a chunk, candidates are sorted by image, then as stored. An image of a later chunk
        may have a lower index.

        Args:
            image_ids: ids of the data set's images. `Candidates.image` is an index into it.
            classes: names of the data set's classes. `Candidates.labels` are indices into it.

        Raises:
            UserError: like `check`, and for rows that `write_part` can't have written.
        """
        self.check(image_ids, classes)
        storage, size = Storage(self.uri), len(self._images)
        index = {each: i for i, each in enumerate(image_ids)}
        for rank, images in enumerate(self._images):
            lookup = _Lookup.of({each: index[each] for each in images}, classes)
            with reading(storage, _part_name(rank, size), LAYOUT) as file:
                yield from _chunks(file, lookup, f"{self.uri}/{_part_name(rank, size)}")


# --- rows -----------------------------------------------------------------------------------------


def _row_groups(
    candidates: Candidates, image_ids: NDArray[np.int64], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the candidates as row groups of whole images.

    Args:
        candidates: sorted by image, then by falling score; otherwise ValueError is raised.
        image_ids: [I] id of each image of the data set.
        classes: name of each label.
    """
    image = candidates.image.numpy()
    if _is_unsorted(image, candidates.scores.numpy()) or (np.diff(image) < 0).any():
        raise ValueError("candidates are not sorted by image and falling score")
    columns = _columns(candidates, image_ids[image])
    labels, names = candidates.labels.numpy().astype(np.int32), tuple(classes)
    start = 0
    for stop in _group_ends(image):
        group = {name: column[start:stop] for name, column in columns.items()}
        yield {**group, "class": Category(labels[start:stop], names)}
        start = stop


def _columns(candidates: Candidates, image_id: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return all columns but `class`."""
    boxes, points = candidates.boxes.float().numpy(), candidates.points.float().numpy()
    return {
        "image_id": image_id,
        "level": candidates.levels.numpy().astype(np.int16),
        "score": candidates.scores.float().numpy(),
        **{name: np.ascontiguousarray(boxes[:, i]) for i, name in enumerate(_BOX)},
        **{name: np.ascontiguousarray(points[:, i]) for i, name in enumerate(_POINT)},
        "stride": candidates.strides.float().numpy(),
    }


def _group_ends(image: NDArray[np.int64]) -> Iterator[int]:
    """Yield where row groups end: after `ROWS` rows or more, at the next end of an image."""
    ends = [*(np.flatnonzero(np.diff(image)) + 1).tolist(), len(image)]
    start = 0
    for end in ends:
        if end - start >= ROWS or start < end == len(image):
            yield end
            start = end


def _is_unsorted(image: NDArray[np.int64], score: NDArray[Any]) -> bool:
    """Return whether the rows of an image are apart, or a score is above the one before it."""
    same = image[1:] == image[:-1]
    runs = len(image) - np.count_nonzero(same)
    rising = (same & (score[1:] > score[:-1])).any()
    return bool(rising or runs != len(np.unique(image)))


@dataclass(frozen=True)
class _Lookup:
    """Converts ids and names in the rows of one part to indices of the data set.

    Attributes:
        ids: [I] ids of the part's images, rising.
        indices: [I] index of each of these images in the data set.
        labels: label of each class name.
    """

    ids: NDArray[np.int64]
    indices: NDArray[np.int64]
    labels: Mapping[str, int]

    @classmethod
    def of(cls, indices: Mapping[int, int], classes: Sequence[str]) -> Self:
        """Return the lookup for the index of each image id and these classes, in label order."""
        pairs = np.array(sorted(indices.items()), dtype=np.int64).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1], {name: i for i, name in enumerate(classes)})

    def images(self, image_id: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
        """Return the image index of each row, and whether all rows are of this part's images."""
        if not len(self.ids):
            return np.zeros_like(image_id), not len(image_id)
        at = np.searchsorted(self.ids, image_id).clip(max=len(self.ids) - 1)
        return self.indices[at], bool((self.ids[at] == image_id).all())

    def classes(self, column: Category) -> NDArray[np.int64]:
        """Return the label of each row, -1 for an unknown class."""
        table = np.array([self.labels.get(name, -1) for name in column.names], dtype=np.int64)
        return table[column.codes]


def _chunks(file: Reader, lookup: _Lookup, uri: str) -> Iterator[Candidates]:
    """Yield the candidates of each row group of a part. Raises UserError."""
    seen = set[int]()
    for index in range(len(file)):
        where = f"{uri}: row group {index}"
        chunk = _read_group(file.group(index), lookup, where)
        images = set(np.unique(chunk.image.numpy()).tolist())
        if images & seen:
            raise UserError(f"{where}: continues an image of an earlier one; {LAYOUT.remedy}")
        seen |= images
        yield chunk


def _read_group(group: Mapping[str, Any], lookup: _Lookup, where: str) -> Candidates:
    """Return the candidates of one row group, sorted by index of image, then as stored.

    Raises:
        UserError: starting with `where`, for rows that `_row_groups` can't have written.
    """
    image, known = lookup.images(group["image_id"])
    label = lookup.classes(group["class"])
    boxes, points = (np.stack([group[n] for n in names], axis=1) for names in (_BOX, _POINT))
    score = group["score"]
    checks = {
        "images that are not in this part": not known,
        "unknown classes": (label < 0).any(),
        "boxes that are not finite": not np.isfinite(boxes).all(),
        "anchor points that are not finite": not np.isfinite(points).all(),
        "strides that are not positive": not (group["stride"] > 0).all(),
        "levels below 0": (group["level"] < 0).any(),
        "scores outside [0, 1]": not ((score >= 0) & (score <= 1)).all(),
        "images that are not sorted by falling score": _is_unsorted(image, score),
    }
    if problems := [problem for problem, found in checks.items() if found]:
        raise UserError(f"{where}: {', '.join(problems)}; {LAYOUT.remedy}")
    order = np.argsort(image, kind="stable")
    columns = (image, boxes, score, label, group["level"].astype(np.int64), points, group["stride"])
    return Candidates(*(torch.from_numpy(column[order]) for column in columns))


# --- parts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Footer(DumpInfo):
    """The document in the footer of a part.

    Attributes:
        rank: rank that wrote the part.
        size: number of ranks.
        images: ids of all images of the part, with and without candidates.
    """

    rank: int
    size: int
    images: tuple[int, ...]

    def info(self) -> DumpInfo:
        return DumpInfo(self.trial, self.epoch, self.branch, self.classes, self.topk)


def _part_name(rank: int, size: int) -> str:
    return f"part-{rank:05d}-of-{size:05d}.parquet"


def _complete_set(storage: Storage) -> list[str]:
    """Return the names of the parts of the one complete set, by rank.

    Raises:
        UserError: if there is no complete set, or more than one.
    """
    found = defaultdict[int, set[int]](set)
    for name in storage.names(""):
        match = _PART.fullmatch(name)
        if match and int(match[1]) < int(match[2]):
            found[int(match[2])].add(int(match[1]))
    complete = [size for size, ranks in found.items() if ranks == set(range(size))]
    if len(complete) == 1:
        return [_part_name(rank, complete[0]) for rank in range(complete[0])]
    if complete:
        sizes = " and of ".join(map(str, sorted(complete)))
        raise UserError(f"{storage.uri}: complete sets of {sizes} parts; delete all but one set")
    missing = [
        _part_name(rank, size)
        for size, ranks in sorted(found.items())
        for rank in sorted(set(range(size)) - ranks)
    ]
    what = f"missing parts: {_first_three(missing)}" if found else "no candidates found"
    raise UserError(f"{storage.uri}: {what}; {LAYOUT.remedy}")


def _check_footers(uri: str, names: Sequence[str], footers: Sequence[_Footer]) -> None:
    """Raise UserError with every part that doesn't match its name or the first part."""
    problems, seen = [], set[int]()
    for rank, (name, footer) in enumerate(zip(names, footers, strict=True)):
        if (footer.rank, footer.size) != (rank, len(names)):
            own = _part_name(footer.rank, footer.size)
            problems.append(f"{uri}/{name}: was written as {own}; rename it back")
        elif footer.info() != footers[0].info() or seen & set(footer.images):
            problems.append(f"{uri}/{name}: doesn't belong to {names[0]}; {LAYOUT.remedy}")
        seen |= set(footer.images)
    if problems:
        raise UserError(*problems)


def _differences(what: str, held: set[Any], given: set[Any]) -> list[str]:
    """Return what only the dump has, and what only the data set has."""
    pairs = (("only in the dump", held - given), ("only in the data", given - held))
    return [f"{what} {where}: {_first_three(sorted(each))}" for where, each in pairs if each]


def _first_three(values: Sequence[Any]) -> str:
    rest = f", ... ({len(values)} in all)" if len(values) > 3 else ""
    return ", ".join(map(str, values[:3])) + rest
