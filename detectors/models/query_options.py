"""Options that DETR, Deformable DETR and Sparse R-CNN share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from detectors.assigners.base import Strategy
from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.base import DetectorOptions
from detectors.models.predictor import BranchShape
from detectors.options import LATER, OneOf, UnfitError


@dataclass(frozen=True)
class QuerySet:
    """The queries at which branches predict."""

    count: int
    groups: int = 1
    """Number of groups of equal size whose queries do not attend to those of other groups."""


class QueryOptions(DetectorOptions):
    """A detector that predicts at queries, which attend to each other."""

    located: ClassVar[bool] = False
    backbone: Annotated[BackboneOptions, OneOf(BACKBONES)] = Tiny()
    """The network that computes feature maps from images."""
    channels: int = Field(64, ge=8, multiple_of=8)
    """Channels of the maps and of the queries."""
    attention_heads: int = Field(4, ge=1)
    """Heads of every attention; must divide `channels`."""
    feedforward: int = Field(128, ge=1)
    """Hidden channels of the feed-forward part of a layer."""
    queries: int = Field(25, ge=1)
    """Number of queries: the maximum number of objects of an image."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of values that are set to 0 in training, in attention and after every part."""

    o2m_queries: int = Field(0, ge=0, json_schema_extra=LATER)
    """Number of additional queries, at which the one-to-many branch of a dual assignment predicts
    (H-DETR: 1500 beside 300; Group DETR: ten times as many as `queries`). They share all layers
    with the other queries but have no influence on them, and are not needed at inference. 0: both
    branches predict at the same queries and share their boxes; each has class scores of its own
    (MS-DETR; see `o2m_from` of `deformable_detr`)."""
    o2m_groups: int = Field(1, ge=1, json_schema_extra=LATER)
    """Number of groups of equal size into which the additional queries are divided: queries attend
    to those of their group only, and every group is assigned on its own (Group DETR: 10)."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        problems = []
        if self.channels % self.attention_heads:
            problems.append(
                f"attention_heads must divide channels ({self.channels}), "
                f"got {self.attention_heads}"
            )
        if self.o2m_groups > 1 and not self.o2m_queries:
            problems.append("o2m_groups: only used with o2m_queries; set it, or leave this out")
        if self.o2m_queries % self.o2m_groups:
            problems.append(
                f"o2m_groups must divide o2m_queries ({self.o2m_queries}), got {self.o2m_groups}"
            )
        if problems:
            raise UnfitError(*problems)
        return self

    def unfit(self, assignment: Strategy) -> list[str]:
        """See `DetectorOptions.unfit`: additional queries need a branch that predicts at them."""
        if not self.o2m_queries or self.extra(tuple(assignment.branches())):
            return []
        return [
            "detector.o2m_queries: needs an assignment with a one-to-one and a one-to-many branch; "
            "choose assignment {name: dual}, or set it to 0"
        ]

    def extra(self, branches: Sequence[str]) -> tuple[str, ...]:
        """Return those of the branches, first one first, that predict at additional queries."""
        return tuple(name for name in branches[1:] if name == "o2m" and self.o2m_queries)

    def sets(self, branches: Sequence[str]) -> dict[str, QuerySet]:
        """Return the queries of each branch, by name."""
        sets = dict.fromkeys(branches, QuerySet(self.queries))
        more = dict.fromkeys(self.extra(branches), QuerySet(self.o2m_queries, self.o2m_groups))
        return sets | more

    def branch(self, name: str) -> BranchShape:
        """See `DetectorOptions.branch`; queries have no anchors."""
        return BranchShape((), "relative")
