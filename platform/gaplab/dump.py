"""Raw candidates of one trial, epoch and branch as Parquet files, also for people's own tools.

A dump is a folder with one part for each rank that predicted. A row is a candidate: its class by
name, its box in pixels of the original image, its anchor point in pixels of the detector's input.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from detectors.data.loader import shard
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from detectors.world import World
from gaplab.dumprows import LAYOUT, Labels, groups, read_group
from gaplab.errors import UserError
from gaplab.parquet import Reader, reading, write_table
from gaplab.records import Subject
from gaplab.storage import Storage, evaluation_folder

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
