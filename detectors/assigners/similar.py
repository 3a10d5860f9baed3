"""The base class of one-to-many assignments of the most similar predictions (DETA, MS-DETR)."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.ranking import best_object, best_points
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class SimilarRule(Assigner):
    """Selects the `topk` points most similar to an object, of those with a minimum similarity.

    Each point belongs to the object that it is most similar to. It is positive if the similarity is
    at least `threshold`, or if it is the most similar point of any object (`low_quality`). Of the
    positive points of an object, the `topk` most similar ones are kept.

    Deviations from the released codes of both papers: an object with c positive points gets the
    min(c, topk) most similar of all points there, also those that belong to other objects, so a
    point may have two objects. Positive points are drawn at random if they are more than a quarter
    of all there; here all stay. An object that no point is similar to gets none.
    """

    topk: int
    threshold: float
    low_quality: bool = True
    """Whether the most similar point of any object is positive at any similarity above 0, for the
    object that it belongs to (released codes, from detectron2)."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    @property
    def needs_positions(self) -> bool:
        """See `Strategy.needs_positions`."""
        return False

    @abstractmethod
    def similarity(self, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """Return the similarity of each pair of object and point: [B, G, N] in [0, 1].

        Rows of padding may have any values.
        """

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; positions of points and progress are not used."""
        value_BGN = self.similarity(predictions, targets) * targets.real[..., None]
        positive_BN = value_BGN.amax(1) >= self.threshold
        if self.low_quality:
            positive_BN |= (best_points(value_BGN, 1) & (value_BGN > 0)).any(1)
        owner_BN = best_object(value_BGN, positive_BN[:, None].expand_as(value_BGN)).object
        number = torch.arange(value_BGN.shape[1], device=owner_BN.device)
        own_BGN = owner_BN[:, None] == number[:, None]
        kept_BGN = own_BGN & best_points(torch.where(own_BGN, value_BGN, -1.0), self.topk)
        return best_object(value_BGN, kept_BGN)
