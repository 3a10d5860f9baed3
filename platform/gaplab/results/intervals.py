"""How surely a number is known: over seeds (Student's t) or over images (bootstrap).

All intervals are of 95 %. NumPy and SciPy are imported where they are needed: reading results
without intervals starts without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from detectors.evaluation.bootstrap import Replicates

Over = Literal["seeds", "images"]
"""What an interval is over: what would have to be drawn again to see the number vary so."""
Metric = Literal["ap", "ap_nms", "gap", "ar"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_ON_IMAGES: tuple[Metric, ...] = ("ap", "ap_nms", "gap")

_ROUNDING = 1e-9
"""Percent points that arithmetic alone may make."""


class Interval(NamedTuple):
    """In percent points."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is real, beyond what rounding makes."""
        return self.low > _ROUNDING or self.high < -_ROUNDING


@dataclass(frozen=True)
class Difference:
    """Of two groups or trials, percent points.

    p: of the two-sided paired t-test over seeds; None for an interval over images.
    """

    mean: float
    interval: Interval | None = None
    p: float | None = None


@dataclass(frozen=True)
class Resampled:
    """One evaluation measured on resamples of its images.

    images: a digest of the images; replicates of two evaluations of equal ones are paired.
    """

    images: str
    replicates: "Replicates"

    def intervals(self, less: "Resampled | None" = None) -> dict[Metric, Interval]:
        """Percentile interval of each metric, or of its difference to that of `less`.

        Empty where `less` is of other images.
        """
        from detectors.evaluation.bootstrap import interval

        if less is None:
            return {m: Interval(*interval(getattr(self.replicates, m))) for m in _ON_IMAGES}
        if less.images != self.images:
            return {}
        pairs = {m: [getattr(each.replicates, m) for each in (self, less)] for m in _ON_IMAGES}
        return {m: Interval(*interval(mine - theirs)) for m, (mine, theirs) in pairs.items()}


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The t-interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def paired(mine: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of the differences of two or more pairs, with its t-interval and p value.

    Where all differences are equal the interval has no width, and p is 0, or 1 if they are 0.
    """
    from scipy.special import stdtr

    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean, error = fmean(differences), stdev(differences) / sqrt(len(differences))
    beyond = abs(mean) / error if error else inf if mean else 0.0
    p = 2 * float(stdtr(len(differences) - 1, -beyond))
    return Difference(mean, mean_interval(differences), p)
