"""Store the raw candidates of one trial, epoch and branch as Parquet files, and read them again.

A dump is a folder with one part per rank. Each row of a part is a candidate: its class, as a label
and by name, its box in pixels of the original image, not clipped to it, and its anchor point in
pixels of the detector's input. Row groups never split an image. Other tools can read the files as
they are.

Version 1 had no labels. Versions 1 and 2 had clipped boxes, and no number of points per level. Both
are still read, for protocols that need neither. Up to version 3 there were no masks: COCO's
compressed RLE, empty where a candidate has none.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from detectors.world import World, shard
from gaplab.errors import UserError
from gaplab.records import Subject
from gaplab.storage.candidate_rows import LAYOUT, Lookup, chunks, most_per_level, row_groups
from gaplab.storage.filesystem import Storage, evaluation_folder
from gaplab.storage.parquet import reading, write_table

_LABELLED, _UNCLIPPED = 2, 3
"""The versions that added labels, and unclipped boxes with the number of points of a level."""
_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")
_LEFTOVER = re.compile(_PART.pattern + r"(\.[0-9a-f]+\.part)?")


@dataclass(frozen=True)
class Masked:
    """Which candidates have masks: those that a protocol with these values admits."""

    score_floor: float
    pre_nms_topk: int
    cap_at_points: bool

    @classmethod
    def of(cls, protocol: Protocol) -> Self:
        """Return the values of a protocol."""
        return cls(protocol.score_floor, protocol.pre_nms_topk, protocol.cap_at_points)

    def serves(self, protocol: Protocol) -> bool:
        """Return whether all candidates that a protocol admits have masks."""
        return (
            protocol.score_floor >= self.score_floor
            and protocol.pre_nms_topk <= self.pre_nms_topk
            and (protocol.cap_at_points or not self.cap_at_points)
        )


@dataclass(frozen=True)
class Part:
    """What one rank predicts: its share of the data set's images (see `world.shard`).

    Attributes:
        subject: trial, epoch and branch of the candidates.
        truth: the whole data set.
        topk: number of candidates kept per level and image.
        world: the ranks.
        masked: which candidates have masks; None: none has.
    """

    subject: Subject
    truth: GroundTruth
    topk: int
    world: World
    masked: Masked | None = None


@dataclass(frozen=True)
class DumpInfo:
    """What a dump holds.

    Attributes:
        trial: id of the trial.
        epoch: epoch of the evaluation.
        branch: branch that predicted the candidates.
        classes: names of the classes, in label order.
        topk: number of candidates kept per level and image.
        masked: which of them have masks; None: none has.
    """

    trial: str
    epoch: int
    branch: str
    classes: tuple[str, ...]
    topk: int
    masked: Masked | None = field(default=None, kw_only=True)


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
        masked=part.masked,
        rank=world.rank,
        size=world.size,
        images=tuple(truth.image_ids[i] for i in own),
    )
    if others := set(np.unique(candidates.image.numpy()).tolist()) - set(own):
        raise ValueError(f"images {sorted(others)[:5]} are not in the share of rank {world.rank}")
    folder = evaluation_folder("candidates", subject.trial, subject.epoch, subject.branch)
    name = f"{folder}/{_part_name(world.rank, world.size)}"
    rows = row_groups(candidates, np.array(truth.image_ids, dtype=np.int64), truth.classes)
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
    _version: int
    """The lowest version of any part."""

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the footers of all parts.

        Raises:
            UserError: if a part is missing or damaged, or the parts don't belong together.
        """
        storage = Storage(uri)
        names = _complete_set(storage)
        footers, versions = [], []
        for name in names:
            with reading(storage, name, LAYOUT) as file:
                footers.append(file.document(_Footer))
                versions.append(file.version)
        _check_footers(uri, names, footers)
        images = tuple(footer.images for footer in footers)
        return cls(uri, footers[0].info(), images, min(versions))

    @property
    def clipped(self) -> bool:
        """Whether its boxes were clipped, and the number of points per level is unknown."""
        return self._version < _UNCLIPPED

    @cached_property
    def cut(self) -> bool:
        """Whether candidates may be missing: a level of an image has as many as are kept of it.

        All rows are read. Raises UserError if they can't be.
        """
        storage, size = Storage(self.uri), len(self._images)
        for rank in range(size):
            with reading(storage, _part_name(rank, size), LAYOUT) as file:
                groups = (file.group(i, ("image_id", "level")) for i in range(len(file)))
                if any(most_per_level(group) >= self.info.topk for group in groups):
                    return True
        return False

    def check(self, image_ids: Sequence[int], classes: Sequence[str]) -> None:
        """Raise UserError unless the dump has exactly these images and classes, in any order.

        Classes with the same name must be in the same order, and must have labels.
        """
        lines = _differences("images", [i for part in self._images for i in part], image_ids)
        lines += _differences("classes", self.info.classes, classes)
        if lines:
            raise UserError(
                f"{self.uri}: belongs to another data set ({'; '.join(lines)}); "
                "other ground truth needs the same images and classes"
            )
        repeated = [name for name, count in Counter(classes).items() if count > 1]
        if repeated and not (self._version >= _LABELLED and tuple(classes) == self.info.classes):
            raise UserError(
                f"{self.uri}: its classes named {_first_three(repeated)} can't be told apart; give "
                "every class its own name, and train the trial again"
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
            own = {each: index[each] for each in images}
            lookup = Lookup.of(own, self.info.classes, classes)
            with reading(storage, _part_name(rank, size), LAYOUT) as file:
                yield from chunks(file, lookup, f"{self.uri}/{_part_name(rank, size)}")


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
        own = (self.trial, self.epoch, self.branch, self.classes, self.topk)
        return DumpInfo(*own, masked=self.masked)


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


def _differences(what: str, held: Sequence[Any], given: Sequence[Any]) -> list[str]:
    """Return what only the dump has, and what only the data set has; repeated values count."""
    ours, theirs = Counter(held), Counter(given)
    pairs = (("only in the dump", ours - theirs), ("only in the data", theirs - ours))
    return [
        f"{what} {where}: {_first_three(sorted(each.elements()))}" for where, each in pairs if each
    ]


def _first_three(values: Sequence[Any]) -> str:
    rest = f", ... ({len(values)} in all)" if len(values) > 3 else ""
    return ", ".join(map(str, values[:3])) + rest
