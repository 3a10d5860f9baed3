"""The names of metrics, and the records that hold their values. Imports no PyTorch.

A metric `m` is stored under three names: `m` without NMS, `m_nms` with it, and the difference of
the two, `m_gap`. The gap of `ap` is the NMS gap and is called `gap`.
"""

from dataclasses import dataclass

SIZES = ("small", "medium", "large")
_COCO = (
    *("ap", "ap50", "ap75", *(f"ap_{size}" for size in SIZES)),
    *("ar1", "ar10", "ar", *(f"ar_{size}" for size in SIZES)),
)
MEASURED: dict[str, tuple[str, ...]] = {
    "coco": _COCO,
    "crowd": ("ap", "mmr", "recall"),
    "masks": _COCO,
}
"""The metrics that each evaluator (`Protocol.evaluator`) returns."""
DUPLICATES = ("duplicates", "duplicates_nms")
"""Duplicates per object, without NMS and with it: detections with a score of at least
`DUPLICATES_SCORE` that overlap an object of their class by an IoU of at least 0.5, minus one,
averaged over the objects with such a detection. Undefined without any. No percent points."""
DUPLICATES_SCORE = 0.25
LOWER_IS_BETTER = frozenset({"mmr", "duplicates", "objects_unassigned"})
TRAINING = ("positives_per_object", "objects_unassigned")
"""Metrics of an epoch's assignments: positive points per object, and the percentage of objects
without any."""
POSITIVES = ("score", "iou", "rank", "first", "relative", "score_gap")
"""What is recorded about the positive points of an epoch, see `detectors.positives.measure`. Means:
the rank from 1, the others in [0, 1]."""
LABELS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    **{f"ap_{size}": f"AP {size}" for size in SIZES},
    "ar1": "AR@1",
    "ar10": "AR@10",
    "ar": "AR",
    **{f"ar_{size}": f"AR {size}" for size in SIZES},
    "mmr": "mMR",
    "recall": "recall",
    "duplicates": "duplicates",
    **{name: name.replace("_", " ") for name in TRAINING},
}
"""The usual name of each metric, in the order of a table."""


def names_of(metric: str) -> tuple[str, str, str]:
    """Return the names of a metric without NMS, with NMS, and of its gap."""
    return metric, f"{metric}_nms", "gap" if metric == "ap" else f"{metric}_gap"


NAMES = tuple(
    dict.fromkeys(
        [
            *(name for kind in MEASURED.values() for metric in kind for name in names_of(metric)),
            *DUPLICATES,
            *TRAINING,
        ]
    )
)
"""The names of all metrics that an evaluation may have."""


def label(name: str) -> str:
    """Return the heading of a column: `AP`, `AP NMS`, `gap`; an unknown name is its own heading."""
    if name.endswith("_nms"):
        return f"{label(name.removesuffix('_nms'))} NMS"
    return LABELS.get(name, name)


@dataclass(frozen=True)
class Metrics:
    """What an evaluator returns for one set of detections: fractions in [0, 1]."""

    values: dict[str, float | None]
    """By name. None if the metric is undefined (there is no object of that size); `ap` is always
    defined."""
    per_class: tuple[float | None, ...]
    """AP of each class in label order; None for a class without objects."""


@dataclass(frozen=True)
class ClassGap:
    """AP of one class in percent points; None for a class without objects."""

    name: str
    ap: float | None
    ap_nms: float | None
    gap: float | None
