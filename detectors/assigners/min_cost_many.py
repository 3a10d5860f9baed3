"""Minimum cost, several times: one-to-many assignment as in H-DETR and Group DETR."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Branch, Family
from detectors.assigners.matching import one_to_one
from detectors.assigners.min_cost import CostRule
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class MinCostMany(CostRule):
    """Assigns `repeats` points to every object, with the lowest total cost (H-DETR section 3.2).

    The objects of an image are repeated, and the matching of `min_cost` is solved for all of them.
    If there are fewer points than repeated objects, each point is assigned.

    H-DETR, hybrid branch: `repeats` 6 at `detector.o2m_queries` 1500 beside 300 queries, as the
    branch `o2m` of `dual` with both weights 1, `training.o2m_loss` with `normalizer: positives`
    (its released code divides by the number of repeated objects). The hybrid epochs of H-DETR are
    `hybrid`.

    Group DETR, K groups: `repeats` 1 at K - 1 times as many additional queries as `queries`, with
    `detector.o2m_groups` K - 1. Its loss is the mean over the groups, the first one included:
    `lambda_o2o` 1 / K and `lambda_o2m` (K - 1) / K, with the same normalizer. K is 11.

    Deviation: with `two_stage`, the additional queries are the next best cells of the encoder, as
    in H-DETR. LW-DETR, the released code with the groups of Group DETR, selects the best cells once
    per group, each with a predictor of its own.
    """

    name: Literal["min_cost_many"] = "min_cost_many"
    repeats: int = Field(6, ge=1)
    """Number of points per object and group of queries."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        return one_to_one(-self.cost(points, predictions, targets), targets, self.repeats)
