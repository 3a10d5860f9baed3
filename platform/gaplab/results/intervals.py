"""95 % confidence intervals of metrics: over seeds (Student's t) or over images (bootstrap).

NumPy and SciPy are imported inside functions, so that reading results without intervals starts
faster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from detectors.evaluation.metrics import names_of

if TYPE_CHECKING:
    from detectors.evaluation.bootstrap import Replicates

Over = Literal["seeds", "images"]
"""The source of variation that an interval covers."""
Metric = Literal["ap", "ap_nms", "gap", "ar"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_ON_IMAGES: tuple[Metric, ...] = tuple(each for each in METRICS if each in names_of("ap"))
"""The metrics that a bootstrap over images measures."""

MIN_IMAGES = 20
"""Number of images below which there is no interval over images: resamples of a few images are too
much alike, and those of a single one are all the same."""
_ROUNDING = 1e-9
"""Largest difference, in percent points, that may come from rounding alone."""


class Interval(NamedTuple):
    """A 95 % confidence interval, in percent points."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside of the interval, by more than rounding errors."""
        return self.low > _ROUNDING or self.high < -_ROUNDING


@dataclass(frozen=True)
class Difference:
    """The difference of two groups or trials, in percent points."""

    mean: float
    interval: Interval | None = None
    p: float | None = None
    """p value of the two-sided paired t-test over seeds; None without an interval over seeds."""
    corrected: float | None = None
    """The same, corrected by Holm's method for all differences that are compared; None without."""


@dataclass(frozen=True)
class Resampled:
    """One evaluation, measured on resamples of its images."""

    images: str
    """A digest of the images. Replicates of two evaluations with the same digest are paired."""
    count: int
    """Number of images."""
    replicates: "Replicates"
    truth: str = ""
    """A digest of the ground truth, which must be the same for a pair; empty if it is unknown."""

    def intervals(
        self, around: Mapping[Metric, float], less: "Resampled | None" = None
    ) -> dict[Metric, Interval]:
        """Return the interval of each metric, or of its difference to that of `less`.

        Empty for fewer than `MIN_IMAGES` images, and if `less` was measured on other images or
        against other ground truth.

        Args:
            around: what was measured on all images, in percent points. The intervals lie around
                these values, because AP on resamples is biased where classes have few objects.
            less: another evaluation.
        """
        from detectors.evaluation.bootstrap import interval

        if self.count < MIN_IMAGES or (less is not None and not alike((self, less))):
            return {}
        found = {m: getattr(self.replicates, m) for m in _ON_IMAGES if m in around}
        if less is not None:
            found = {m: mine - getattr(less.replicates, m) for m, mine in found.items()}
        return {m: Interval(*interval(each, around=around[m])) for m, each in found.items()}


def alike(evaluations: Sequence[Resampled]) -> bool:
    """Return whether all were measured on the same images against the same ground truth.

    Older ones, whose ground truth is unknown, are compared by their images.
    """
    truths = {each.truth for each in evaluations} - {""}
    return len({each.images for each in evaluations}) <= 1 and len(truths) <= 1


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the t interval of the mean.

    None for fewer than two values, and for equal ones, whose spread says nothing about other seeds.
    """
    if len(values) < 2 or max(values) - min(values) <= _ROUNDING:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def paired(mine: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean difference of two or more pairs, with its t interval and p value.

    Both are None if all differences are equal.
    """
    from scipy.special import stdtr

    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean, interval = fmean(differences), mean_interval(differences)
    if interval is None:
        return Difference(mean)
    error = stdev(differences) / sqrt(len(differences))
    return Difference(mean, interval, 2 * float(stdtr(len(differences) - 1, -abs(mean) / error)))
