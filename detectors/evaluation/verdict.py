"""Whether a detector needs NMS: the rule, in one place."""

from typing import Literal

Verdict = Literal["yes", "no", "undecided"]

NEED = 1.0
"""Points of AP that NMS must gain for a detector to need it: the limit of the claims "needs NMS" in
`experiments/claims.yaml`."""


def needs_nms(interval: tuple[float, float] | None, need: float = NEED) -> Verdict:
    """Decide whether a detector needs NMS, from the 95 % interval of its NMS gap.

    `yes` if the whole interval lies below -need, `no` if all of it lies at or above -need, and
    `undecided` if -need lies inside of it or there is no interval. In either direction the verdict
    is wrong with a probability of at most 2.5 %, as far as the choice of images matters.

    Args:
        interval: (low, high) of AP without NMS minus AP with NMS, in percent points; None for too
            few images.
        need: the smallest gain of AP by NMS, in percent points, that counts as a need; at least 0.

    Raises:
        ValueError: the interval is not finite or has low > high, or `need` is negative.
    """
    if not 0 <= need < float("inf"):
        raise ValueError(f"need {need}: must be at least 0")
    if interval is None:
        return "undecided"
    low, high = interval
    if not -float("inf") < low <= high < float("inf"):
        raise ValueError(f"interval [{low}, {high}]: must be finite, the lower limit first")
    if high < -need:
        return "yes"
    return "no" if low >= -need else "undecided"
