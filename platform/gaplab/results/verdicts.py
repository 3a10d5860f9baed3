"""Verdicts on claims about means: holds, fails or undecided, corrected for several claims.

A claim says on which side of a limit each of one or more quantities lies. A quantity is the mean
over seeds of a metric, or of a difference of two metrics. Its standard error has two parts: the
spread over seeds, s / sqrt(n), and the error from the choice of validation images, which all seeds
share and which a paired bootstrap measures. Critical values are those of Cochran and Cox: the mean
of Student's t for the seeds and of the normal distribution for the images, weighted by the two
variances. They are conservative. SciPy is imported inside functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import fmean, variance
from typing import Literal, NamedTuple

from gaplab.results.intervals import Interval

Verdict = Literal["holds", "fails", "undecided"]
MIN_SEEDS = 3
"""Number of seeds below which a claim is undecided."""
LEVEL = 0.05
"""Probability, over all claims of a table together, that a verdict is wrong in either direction."""

_TINIEST = 1e-100
"""Smaller p values are given as this one."""


class Limit(NamedTuple):
    """The values that a claim allows: above `low` and below `high`."""

    low: float = -inf
    high: float = inf


@dataclass(frozen=True)
class Quantity:
    """A metric, or a difference of two, measured once per seed.

    Attributes:
        values: one value per seed, in percent points.
        image_error: standard error of the mean that comes from the choice of images; None if it is
            not known, for a metric that the bootstrap does not measure.
    """

    values: tuple[float, ...]
    image_error: float | None = None

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return sqrt(self._seed_variance + (self.image_error or 0.0) ** 2)

    @property
    def _seed_variance(self) -> float:
        return variance(self.values) / len(self.values)

    def above(self, limit: float) -> float:
        """Return the p value of the hypothesis that the mean is at most `limit`."""
        return self._tail((self.mean - limit) / self.error)

    def below(self, limit: float) -> float:
        """Return the p value of the hypothesis that the mean is at least `limit`."""
        return self._tail((limit - self.mean) / self.error)

    def interval(self) -> Interval:
        """Return the 95 % interval of the mean."""
        half = self._critical(0.025) * self.error
        return Interval(self.mean - half, self.mean + half)

    def _critical(self, p: float) -> float:
        """Return the number of standard errors that chance exceeds with probability `p`."""
        from scipy.special import ndtri, stdtrit

        of_seeds = self._seed_variance / self.error**2
        seeds = float(stdtrit(len(self.values) - 1, p)) if of_seeds else 0.0
        return -(of_seeds * seeds + (1 - of_seeds) * float(ndtri(p)))

    def _tail(self, errors: float) -> float:
        """Return the probability that chance exceeds this number of standard errors."""
        from scipy.optimize import brentq

        if errors < 0:
            return 1 - self._tail(-errors)
        if errors >= self._critical(_TINIEST):
            return _TINIEST
        ends = log(_TINIEST), log(0.5)
        return exp(brentq(lambda p: self._critical(exp(p)) - errors, *ends, xtol=1e-12))


@dataclass(frozen=True)
class Evidence:
    """What was measured for one claim.

    Attributes:
        quantities: the quantities of the claim; each must respect `limit`.
        limit: what the claim allows.
    """

    quantities: tuple[Quantity, ...]
    limit: Limit

    @property
    def deciding(self) -> Quantity:
        """The quantity with the least evidence for the claim."""
        return max(self.quantities, key=lambda each: _against(each, self.limit))

    def p_holds(self) -> float:
        """Return the p value of the hypothesis that one of the quantities breaks the limit."""
        return max(_against(each, self.limit) for each in self.quantities)

    def p_fails(self) -> float:
        """Return the p value of the hypothesis that all quantities respect the limit."""
        return min(1.0, len(self.quantities) * min(_for(e, self.limit) for e in self.quantities))


def judge(evidence: Sequence[Evidence]) -> list[tuple[Verdict, float]]:
    """Return the verdict on each claim of a table, with its corrected p value.

    A claim holds or fails if the p value of the opposite, corrected by Holm's method over all
    claims given, is at most LEVEL / 2; otherwise it is undecided.

    Raises:
        ValueError: a quantity has fewer than two values, or a standard error of 0.
    """
    for each in (quantity for found in evidence for quantity in found.quantities):
        if len(each.values) < 2 or not each.error:
            raise ValueError("a quantity needs two different values, or an error from the images")
    sides = [(found.p_holds(), found.p_fails()) for found in evidence]
    corrected = holm([min(side) for side in sides])
    return [
        ("undecided" if p > LEVEL / 2 else "holds" if holds <= fails else "fails", p)
        for p, (holds, fails) in zip(corrected, sides, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method, in the order given."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    corrected, largest = [1.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def _against(quantity: Quantity, limit: Limit) -> float:
    """Return the p value of the hypothesis that the quantity breaks the limit."""
    return max(quantity.above(limit.low), quantity.below(limit.high))


def _for(quantity: Quantity, limit: Limit) -> float:
    """Return the p value of the hypothesis that the quantity respects the limit."""
    sides = [quantity.below(limit.low)] if limit.low > -inf else []
    sides += [quantity.above(limit.high)] if limit.high < inf else []
    return min(1.0, len(sides) * min(sides))
