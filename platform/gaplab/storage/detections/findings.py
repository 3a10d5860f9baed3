"""Recognise what kind of detections an input holds: suppressed, cut, with a score floor, repeated.

`Findings` are facts about the rows. They are collected from candidates part by part, so that the
input need not fit into memory.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.evaluation.claims import claims
from detectors.evaluation.padding import padded, rank_in_group
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

BEST = 100
"""Number of detections of an image, those with the highest scores, whose overlaps are computed."""
_PAIRS = 1 << 20
"""Number of pairs whose overlap is computed at once."""
_BINS = 100
"""Number of bins of the histogram of overlaps."""
_CLIFF = 10
"""Bins below the largest overlap whose pairs show whether larger ones were removed."""
_ENOUGH = 20
"""Smallest number of pairs from which suppression is recognised."""
_MOST = 0.9
"""Largest overlap that suppression leaves: thresholds of NMS are not higher."""
_SAME_NUMBER = 0.9
"""Part of the images with detections that have the largest number of them if that is a limit."""
_DISAGREE = 0.2
"""Part of the objects below which the classes of detections are not those of the annotations."""
_FLOOR = 5e-4
"""Smallest score above which lower ones must have been removed."""


@dataclass(frozen=True)
class Findings:
    """Facts about detections.

    Attributes:
        rows: number of detections.
        images: number of annotated images.
        images_without: number of these without a detection.
        per_image: largest number of detections of an image.
        cut: number of detections of every image, or of nine of ten images with detections, if no
            image has more: the input was cut there; None: it was not.
        floor: smallest score.
        overlap: largest IoU of two detections of one class among the 100 best of an image.
        suppressed: IoU at which detections of one class seem to be suppressed already; None: they
            don't. See `suppression`.
        agnostic: whether that holds for detections of any class, too.
        repeats: number of rows that are equal to an earlier one.
        agreement: of the objects that a detection of any class overlaps by an IoU of 0.5, the part
            whose best such detection has their class; None for fewer than 20 of them, and for
            candidates that gaplab stored.
    """

    rows: int
    images: int
    images_without: int
    per_image: int
    cut: int | None
    floor: float
    overlap: float
    suppressed: float | None
    agnostic: bool
    repeats: int
    agreement: float | None = None

    @property
    def floored(self) -> bool:
        """Whether low scores have been removed."""
        return self.floor > _FLOOR

    def lines(self) -> tuple[str, ...]:
        """Return what was recognised, one line each."""
        found = []
        if self.suppressed is not None:
            among = "detections" if self.agnostic else "detections of one class"
            found.append(
                f"looks suppressed already: no two {among} of an image overlap by an IoU above "
                f"{self.suppressed:.2f}"
            )
        if self.cut is not None:
            found.append(
                f"cut: no image has more than {self.cut} detections, and most have as many"
            )
        if self.floored and self.cut is None:  # a cut leaves no low scores either
            found.append(f"has a score floor: the smallest score is {self.floor:.3g}")
        if self.images_without:
            found.append(f"{self.images_without} of {self.images} images have no detection")
        if self.agreement is not None and self.agreement < _DISAGREE:
            found.append(
                f"classes look exchanged: of the objects with a detection, only "
                f"{100 * self.agreement:.0f} % have one of their class; if categories have another "
                "numbering, give it with --categories"
            )
        if self.repeats:
            found.append(f"repeated: {self.repeats} of {self.rows} rows are equal to another one")
        return tuple(found)


class Facts:
    """Collects facts from candidates of whole images; every image comes once.

    Args:
        images: number of annotated images.
    """

    def __init__(self, images: int) -> None:
        self._counts = np.zeros(images, dtype=np.int64)
        self._floor, self._repeats = np.inf, 0
        self._same, self._all = (np.zeros(_BINS + 1, dtype=np.int64) for _ in range(2))
        self._overlap = 0.0

    def add(self, candidates: Candidates) -> None:
        """Add candidates, sorted by image and descending score."""
        if not len(candidates):
            return
        self._counts += np.bincount(candidates.image.numpy(), minlength=len(self._counts))
        self._floor = min(self._floor, float(candidates.scores.min()))
        self._repeats += int(repeated(candidates).sum())
        self._add_overlaps(candidates.take(rank_in_group(candidates.image) < BEST))

    def findings(self) -> Findings:
        """Return the facts about everything that was added."""
        found = self._counts[self._counts > 0]
        most = int(found.max()) if len(found) else 0
        full = float((found == most).mean()) if len(found) else 0.0
        suppressed = suppression(self._same)
        return Findings(
            rows=int(self._counts.sum()),
            images=len(self._counts),
            images_without=len(self._counts) - len(found),
            per_image=most,
            cut=most if most > 1 and len(found) > 1 and full >= _SAME_NUMBER else None,
            floor=float(self._floor) if len(found) else 0.0,
            overlap=self._overlap,
            suppressed=suppressed,
            agnostic=suppressed is not None and suppression(self._all) == suppressed,
            repeats=self._repeats,
        )

    def _add_overlaps(self, best: Candidates) -> None:
        """Count the overlaps of all pairs of an image, in float32."""
        boxes, labels = best.boxes.float(), best.labels
        for rows in padded(best.image, int(best.image[-1]) + 1, max(1, _PAIRS // BEST)):
            there = boxes[rows] * (rows >= 0)[:, :, None]
            overlap = pairwise_iou(there, there).triu(diagonal=1)
            image, first, second = (overlap > 0).nonzero(as_tuple=True)
            iou = overlap[image, first, second]
            same = iou[labels[rows[image, first]] == labels[rows[image, second]]]
            self._same += _histogram(same.numpy())
            self._all += _histogram(iou.numpy())
            self._overlap = max(self._overlap, float(same.max()) if len(same) else 0.0)


class Agreement:
    """Compares the classes of detections with those of the objects that they are on.

    Args:
        truth: the annotations.
    """

    def __init__(self, truth: GroundTruth) -> None:
        self._truth, self._objects, self._alike = truth, 0, 0

    def add(self, candidates: Candidates) -> None:
        """Add candidates, sorted by image and descending score; each image comes once."""
        best = candidates.take(rank_in_group(candidates.image) < BEST)
        claim = claims(best, self._truth, class_wise=False)
        best, claim = best.take(claim >= 0), claim[claim >= 0]
        first = rank_in_group(claim) == 0
        alike = best.labels[first] == self._truth.labels[claim[first]]
        self._objects += len(alike)
        self._alike += int(alike.sum())

    def share(self) -> float | None:
        """Return the part of the objects with a detection whose best one has their class."""
        return self._alike / self._objects if self._objects >= _ENOUGH else None


def suppression(counts: NDArray[np.int64]) -> float | None:
    """Return the IoU at which detections seem to be suppressed; None: they don't.

    The overlaps of detections that nothing has removed become rarer steadily up to 1. Suppression
    removes all above its threshold, so the largest overlap is just below it, in the middle of many
    others: at least 20 pairs are at most 0.1 below, at least half as many as in the 0.1 below
    those. Detections that overlap too rarely are not recognised.

    Args:
        counts: [101] number of pairs by IoU, in bins of 0.01 from 0; the last is for 1.
    """
    found = np.flatnonzero(counts)
    if not len(found) or found[-1] >= round(_MOST * _BINS):
        return None
    end = int(found[-1]) + 1
    near = counts[max(1, end - _CLIFF) : end].sum()
    before = counts[max(1, end - 2 * _CLIFF) : max(1, end - _CLIFF)].sum()
    if near < max(_ENOUGH, before / 2):
        return None
    return end / _BINS


def repeated(candidates: Candidates) -> Tensor:
    """Return which candidates, sorted as usual, are equal to an earlier one: [M] bool.

    Only candidates with the score of a neighbour are compared.
    """
    image, scores = candidates.image.numpy(), candidates.scores.numpy()
    tie = np.zeros(len(image) + 1, dtype=bool)
    tie[1:-1] = (image[1:] == image[:-1]) & (scores[1:] == scores[:-1])
    at = np.flatnonzero(tie[1:] | tie[:-1])
    columns = [image, candidates.labels.numpy(), scores, *candidates.boxes.numpy().T]
    rows = np.column_stack([column[at].astype(np.float64) for column in columns])
    _, first = np.unique(rows, axis=0, return_index=True)
    again = np.ones(len(rows), dtype=bool)
    again[first] = False
    found = torch.zeros(len(image), dtype=torch.bool)
    found[torch.from_numpy(at[again])] = True
    return found


def _histogram(iou: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.bincount((iou * _BINS).astype(np.int64).clip(0, _BINS), minlength=_BINS + 1)
