"""Open detections of any kind, matched to annotations: `Candidates` in parts of whole images."""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectors.data.annotations import Annotations, OnBad
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.storage.candidates import Dump
from gaplab.storage.detections.arrays import array_source
from gaplab.storage.detections.checks import Checks, Mask, named
from gaplab.storage.detections.coco_json import read_json
from gaplab.storage.detections.findings import Agreement, Facts, Findings, repeated
from gaplab.storage.detections.flat_parquet import ParquetSource
from gaplab.storage.detections.matching import (
    Numbering,
    match_categories,
    match_images,
    match_labels,
)
from gaplab.storage.detections.rows import BoxForm, Floats, Key, Rows, Source, corners
from gaplab.storage.detections.written_masks import Written
from gaplab.storage.detections.yolo_labels import read_labels

_JSON = (".json", ".json.gz")
_PARQUET = ".parquet"
_FEW = 0.1
"""Part of the rows that may be equal to others by chance."""


@dataclass(frozen=True)
class ReadOptions:
    """How detections are read.

    Attributes:
        boxes: how boxes are written; None: x, y, width, height in JSON, and as the names of the
            columns say in Parquet.
        categories: how categories are matched.
        on_bad: whether rows that can't be used are refused, or left out and noted.
        masks: whether masks are read where there are any. They are part of the digest then.
    """

    boxes: BoxForm | None = None
    categories: Numbering = "auto"
    on_bad: OnBad = "refuse"
    masks: bool = True


class Detections(ABC):
    """Detections of annotated images.

    Attributes:
        where: the path, for messages.
        digest: SHA-256 of the detections, in hex: of image, class, score, box and mask of each. It
            does not depend on the kind of file and on the order of images.
        placed: whether candidates have pyramid levels and anchor points.
        topk: number of candidates kept per level and image; None: unknown.
        findings: what was recognised.
        notes: what was left out and how rows were matched, one line each.
    """

    where: str
    digest: str
    placed: bool
    topk: int | None
    findings: Findings
    notes: tuple[str, ...]

    @abstractmethod
    def chunks(self) -> Iterator[Candidates]:
        """Yield all candidates in chunks of whole images, each image in one chunk."""

    @abstractmethod
    def mask_problems(self) -> list[str]:
        """Return why the masks of all detections can't be used, one line each."""


def open_detections(
    path: Path, annotations: Annotations, options: ReadOptions | None = None
) -> Detections:
    """Read detections, check all rows and match them to annotations.

    Args:
        path: results in COCO's JSON (also compressed by gzip), a Parquet file, a folder of Parquet
            files, a folder of candidates that gaplab stored, or a folder of YOLO label files.
        annotations: the annotations of the images.
        options: how to read.

    Raises:
        UserError: the detections can't be used; with all problems.
    """
    options = options or ReadOptions()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name the detections")
    if path.is_dir() and (dump := _dump(path)):
        return StoredDetections(dump, annotations)
    return FlatDetections(_source(path, options), annotations, options)


def array_detections(
    given: Any, annotations: Annotations, options: ReadOptions | None = None
) -> Detections:
    """Check detections in memory and match them to annotations.

    Args:
        given: see `arrays.array_source`. Classes of objects per image are positions from 0.
        annotations: the annotations of the images.
        options: how to read.

    Raises:
        UserError: the detections can't be used; with all problems.
    """
    options = options or ReadOptions()
    source = array_source(given, annotations.truth.image_ids, options.boxes)
    return FlatDetections(source, annotations, options)


def _source(path: Path, options: ReadOptions) -> Source:
    """Return the rows of a file or folder. Raises UserError."""
    name = path.name.lower()
    if path.is_dir():
        files = sorted(path.rglob(f"*{_PARQUET}"))
        return ParquetSource(str(path), files, options.boxes) if files else read_labels(path)
    if name.endswith(_PARQUET):
        return ParquetSource(str(path), [path], options.boxes)
    if name.endswith(_JSON) or _is_json(path):
        return read_json(path, options.boxes or "xywh")
    raise UserError(
        f"{path}: not detections; name results of COCO (.json, .json.gz), a Parquet file, or a "
        "folder of Parquet or YOLO label files"
    )


def _is_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] in (b"[", b"{")


def _dump(folder: Path) -> Dump | None:
    """Return the candidates that gaplab stored in a folder; None if it has none."""
    if not any(folder.glob("part-*-of-*.parquet")):
        return None
    return Dump.open(str(folder.absolute()))


class FlatDetections(Detections):
    """Detections without levels and anchor points. See `Detections`.

    Rows that fit into memory are kept, others are read again for each call of `chunks`.

    Args:
        source: the rows.
        annotations: the annotations of the images.
        options: how to read.

    Raises:
        UserError: rows can't be used; with all problems.
    """

    def __init__(self, source: Source, annotations: Annotations, options: ReadOptions) -> None:
        self.where, self.placed, self.topk = source.where, False, None
        self._source, self._truth = source, annotations.truth
        self._on_bad, self._masks, self._left_out = options.on_bad, options.masks, 0
        self._sizes = np.array(annotations.truth.sizes, dtype=np.float64).reshape(-1, 2)
        matching = match_labels if source.indexed else match_categories
        self._images = match_images(source.images, annotations)
        self._labels = matching(source.categories, annotations, options.categories)
        self._checks = Checks(source, self._images, self._labels, _known(source, annotations))
        facts, content = Facts(len(self._truth)), Content()
        agreement = Agreement(self._truth)
        self._held: list[Candidates] | None = None if isinstance(source, ParquetSource) else []
        with ThreadPoolExecutor(1) as threads:  # the facts take as long as everything else
            for rows in source.parts():
                part = self._candidates(rows, self._checks.add(rows, self._size_of(rows)))
                added = threads.submit(facts.add, part)
                content.add(part)
                agreement.add(part)
                added.result()
                if self._held is not None:
                    self._held.append(part)
        problems = self._checks.problems(options.on_bad)
        self.findings = replace(facts.findings(), agreement=agreement.share())
        self.digest = content.digest()
        problems += self._repeats()
        if not problems and not self.findings.rows:
            problems = [f"{self.where}: no detection is left to measure"]
        if problems:
            raise UserError(*problems)
        left_out = f"left out rows that are equal to an earlier one: {self._left_out}"
        repeats = [f"{self.where}: {left_out}"] if self._left_out else []
        self.notes = (*source.notes, *self._checks.notes(), *repeats)

    def chunks(self) -> Iterator[Candidates]:
        """See `Detections.chunks`."""
        if self._held is not None:
            yield from self._held
            return
        for rows in self._source.parts():
            yield self._candidates(rows, self._checks.usable(rows))

    def mask_problems(self) -> list[str]:
        """See `Detections.mask_problems`."""
        return self._mask_problems

    @cached_property
    def _mask_problems(self) -> list[str]:
        remedy = "write them as pycocotools.mask.encode does, or choose a protocol of boxes"
        if not self._masks:
            return [f"{self.where}: was measured without its masks; measure the file again"]
        found, masked = defaultdict[str, list[Key]](list), False
        for whole in self._source.parts():
            rows = whole.take(self._checks.usable(whole))
            masks = rows.masks or Written.none(len(rows))
            masked |= rows.masks is not None
            for row, what in masks.wrong(self._size_of(rows)):
                found[what].append(self._source.images[rows.image[row]])
        if not masked:
            return [f"{self.where}: has no masks (segmentation in COCO's JSON); {remedy}"]
        return [
            f"{self.where}: {len(images)} detections {what} (images {named(dict.fromkeys(images))})"
            f"; {remedy}"
            for what, images in found.items()
        ]

    def _size_of(self, rows: Rows) -> Floats:
        sizes: Floats = self._sizes[self._images.positions[rows.image]]
        return sizes

    def _candidates(self, rows: Rows, usable: Mask) -> Candidates:
        """Return rows as candidates, sorted; equal scores keep the order of the file."""
        rows = rows.take(usable)
        image = self._images.positions[rows.image]
        order = np.lexsort((-rows.scores, image))
        sizes = self._size_of(rows)
        boxes = corners(rows.boxes, self._source.form, sizes)
        columns = (image, boxes, rows.scores, self._labels.positions[rows.category])
        found = Candidates.flat(*(torch.from_numpy(column[order]) for column in columns))
        if self._masks and rows.masks is not None:
            found = replace(found, masks=rows.masks[order].rles(sizes[order]))
        return found if self._on_bad == "refuse" else self._without_repeats(found)

    def _without_repeats(self, found: Candidates) -> Candidates:
        again = repeated(found)
        self._left_out += int(again.sum())
        return found.take(~again)

    def _repeats(self) -> list[str]:
        """Return why rows that are equal can't be used."""
        found = self.findings
        if found.repeats <= _FEW * found.rows:
            return []
        return [
            f"{self.where}: {found.repeats} of {found.rows} rows are equal to an earlier one: is "
            "the file joined from copies? write each detection once, or leave them out with "
            "--on-bad skip"
        ]


class StoredDetections(Detections):
    """Candidates that gaplab stored, with levels and anchor points. See `Detections`.

    Raises:
        UserError: they are of other images or classes than the annotations.
    """

    def __init__(self, dump: Dump, annotations: Annotations) -> None:
        self.where, self.placed, self.topk = dump.uri, True, dump.info.topk
        self.notes: tuple[str, ...] = ()
        self.dump, self._truth = dump, annotations.truth
        facts, content = Facts(len(self._truth)), Content()
        for part in self.chunks():
            facts.add(part)
            content.add(part)
        self.findings, self.digest = facts.findings(), content.digest()
        if not self.findings.rows:
            raise UserError(f"{self.where}: no detection to measure")

    def chunks(self) -> Iterator[Candidates]:
        """See `Detections.chunks`."""
        return self.dump.stream(self._truth.image_ids, self._truth.classes)

    def mask_problems(self) -> list[str]:
        """See `Detections.mask_problems`. Which candidates have masks depends on the protocol."""
        return []


class Content:
    """Computes a digest of candidates that does not depend on the order of images."""

    def __init__(self) -> None:
        self._digests = dict[int, bytes]()

    def add(self, candidates: Candidates) -> None:
        """Add candidates, sorted by image and descending score; each image comes once."""
        c, image = candidates, candidates.image.numpy()
        columns = [c.labels.numpy(), c.scores.numpy(), *c.boxes.numpy().T]
        table = np.column_stack([column.astype(np.float64) for column in columns])
        bounds = [*np.flatnonzero(np.diff(image, prepend=-1)), len(image)]
        for start, end in pairwise(bounds):
            masks = b"" if c.masks is None else b" ".join(c.masks.counts[start:end])
            own = hashlib.sha256(table[start:end].tobytes() + masks)
            self._digests[int(image[start])] = own.digest()

    def digest(self) -> str:
        """Return the SHA-256 of everything that was added, in hex."""
        whole = hashlib.sha256()
        for image, part in sorted(self._digests.items()):
            whole.update(f"{image} ".encode() + part)
        return whole.hexdigest()


def _known(source: Source, annotations: Annotations) -> tuple[Sequence[str], Sequence[str]]:
    """Return the images and categories of annotations, as they are compared with a source's."""
    ids, names = annotations.truth.image_ids, annotations.names
    images = ids if all(isinstance(key, int) for key in source.images) else names
    pairs = zip(annotations.category_ids, annotations.truth.classes, strict=True)
    return [*map(str, images)], [f"{id_} {name}" for id_, name in pairs]
