"""The convergence analysis of one-to-one assignment in 000 section 4: a perceptron in a unit ball.

An image is a set of N samples with K coordinates; one of them is positive, all others are negative.
A linear classifier learns from one misclassified sample at a time, and labels are assigned again
after each update. D images are trained at once.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from detectors.options import Options

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_LARGEST = 2_000_000
"""Largest number of values in an array."""
_DOUBLINGS = 40
"""Number of step sizes that are tried, each twice the one before it."""


class PerceptronOptions(Options):
    """What is drawn, how labels are assigned and how the classifier is updated."""

    assignment: Literal["classification", "location"] = "classification"
    """Which sample is positive: the one with the highest score, which has the lowest classification
    cost (000 section 4.1), or always the same one, as if it were nearest to the object's centre."""
    step: Literal["fixed", "theorem"] = "fixed"
    """Step size of an update: `step_size`, or the first of `step_size` times 1, 2, 4 ... for which
    the assumption of 000 Theorem 4.3 holds (`step_size` if it holds for none of 40)."""
    step_size: float = Field(0.1, gt=0)
    """Step size (eta), with `theorem` the smallest one."""
    samples: int = Field(100, ge=2, le=10_000)
    """Number of samples per image, drawn uniformly from the unit ball."""
    dimensions: int = Field(2, ge=1, le=1000)
    """Dimension of the samples, without the coordinate of the bias."""
    updates: int = Field(1000, ge=2, le=100_000)
    """Number of updates after which a training ends without convergence."""
    draws: int = Field(50, ge=1, le=1000)
    """Number of images, each with a classifier drawn from a standard normal distribution."""

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        if self.draws * max(self.samples * self.dimensions, self.updates) > _LARGEST:
            raise ValueError(
                f"draws times samples times dimensions, and draws times updates, must be at most "
                f"{_LARGEST:,}"
            )
        return self


@dataclass(frozen=True)
class Course:
    """What happened to D classifiers in T updates. After convergence, values stay as they are.

    Attributes:
        updates: [D], number of updates; T without convergence.
        converged: [D], whether all samples are classified as they are labelled.
        positives: [T + 1, D], number of samples with a positive score.
        score_gap: [T + 1, D], highest minus second highest score (000 Definition 3.3).
        margin: [T + 1, D], delta_t of 000 Proposition 4.2: half of the score of the positive sample
            minus the highest score of the others. Above 0, another bias separates the labels.
        met: [D], fraction of the updates for which the assumption of 000 Theorem 4.3 holds; NaN
            without updates.
        bound: [D], the number of updates that 000 Theorem 4.3 allows, as printed; NaN without
            updates, or if delta_t was not always above 0. It may be negative: the theorem compares
            w_1 with w*_0, whose length it does not limit.
    """

    updates: Ints
    converged: Flags
    positives: Ints
    score_gap: Floats
    margin: Floats
    met: Floats
    bound: Floats


@dataclass(frozen=True)
class _Classifiers:
    """One classifier per image, and the labels that it gives.

    Attributes:
        sample: [D, N, K], coordinates.
        weight: [D, K].
        bias: [D].
        located: [D], the positive samples of a location cost; None with a classification cost.
    """

    sample: Floats
    weight: Floats
    bias: Floats
    located: Ints | None

    @classmethod
    def draw(cls, options: PerceptronOptions, rng: np.random.Generator) -> Self:
        """Draw images and first classifiers, the same for all assignments and steps."""
        shape = (options.draws, options.samples, options.dimensions)
        direction = rng.standard_normal(shape)
        direction /= np.linalg.norm(direction, axis=2, keepdims=True)
        radius = rng.random(shape[:2]) ** (1 / options.dimensions)
        weight = rng.standard_normal((options.draws, options.dimensions))
        bias = rng.standard_normal(options.draws)
        located = rng.integers(options.samples, size=options.draws)
        by_location = options.assignment == "location"
        return cls(direction * radius[..., None], weight, bias, located if by_location else None)

    @cached_property
    def score(self) -> Floats:
        """Scores without the bias: [D, N]."""
        return np.asarray(np.einsum("dnk,dk->dn", self.sample, self.weight))

    @cached_property
    def positive(self) -> Flags:
        """Which samples are labelled positive, one per image: [D, N]."""
        index = self.score.argmax(1) if self.located is None else self.located
        return np.equal.outer(index, np.arange(self.score.shape[1]))

    @cached_property
    def label(self) -> Floats:
        """1 for the positive sample, -1 for the others: [D, N]."""
        return np.where(self.positive, 1.0, -1.0)

    @cached_property
    def wrong(self) -> Flags:
        """Which samples are misclassified: [D, N]."""
        found: Flags = self.label * (self.score + self.bias[:, None]) <= 0
        return found

    @cached_property
    def best(self) -> tuple[Floats, Floats]:
        """gamma_t, the bias with the largest margin, and this margin, delta_t: [D] each."""
        own = np.where(self.positive, self.score, -np.inf).max(1)
        other = np.where(self.positive, -np.inf, self.score).max(1)
        return -(own + other) / 2, (own - other) / 2

    def moved(self, x: Floats, step: Floats) -> Self:
        """Return the classifiers after an update by `step` [D] times the samples `x` [D, K]."""
        return replace(self, weight=self.weight + step[:, None] * x, bias=self.bias + step)


def train(options: PerceptronOptions, seed: int) -> Course:
    """Train classifiers on `draws` images until they converge, at most `updates` updates each.

    Images, first weights and the order of samples are the same for all assignments and steps.
    """
    rng = np.random.default_rng(seed)
    now, record = _Classifiers.draw(options, rng), _Record()
    rows = np.arange(options.draws)
    for _ in range(options.updates):
        record.observe(now)
        moving = np.any(now.wrong, axis=1)
        if not moving.any():
            break
        chosen = np.where(now.wrong, rng.random(now.wrong.shape), -1.0).argmax(1)
        x, y = now.sample[rows, chosen], now.label[rows, chosen]
        size, met = _step_sizes(options, now, x, y, moving)
        after = now.moved(x, np.where(moving, size, 0.0) * y)
        record.move(now, after, np.where(moving, size, np.nan), met & moving)
        now = after
    record.observe(now)
    return record.course(options.updates, ~np.any(now.wrong, axis=1))


def _step_sizes(
    options: PerceptronOptions, now: _Classifiers, x: Floats, y: Floats, moving: Flags
) -> tuple[Floats, Flags]:
    """Return the step size of each image, and whether it meets the assumption of Theorem 4.3."""
    size = np.full(len(y), options.step_size)
    met = _is_met(now, x, y, size)
    for doubling in range(1, _DOUBLINGS if options.step == "theorem" else 1):
        if (met | ~moving).all():
            break
        larger = np.full(len(y), options.step_size * 2.0**doubling)
        found = ~met & _is_met(now, x, y, larger)
        size, met = np.where(found, larger, size), met | found
    return size, met


def _is_met(now: _Classifiers, x: Floats, y: Floats, size: Floats) -> Flags:
    """Return whether step sizes meet the assumption of 000 Theorem 4.3: [D]."""
    gamma, after = now.best[0], now.moved(x, size * y).best[0]
    left = (x**2).sum(1) * size**2 + y * (after - 2 * gamma) * size
    return np.asarray(left + now.bias * (after - gamma) > 0)


@dataclass
class _Record:
    """Collects what a `Course` consists of."""

    seen: list[tuple[Ints, Floats, Floats]] = field(default_factory=list)
    """Before each update and at the end: samples above 0, score gap, margin."""
    sizes: list[Floats] = field(default_factory=list)
    """Step sizes of each update, NaN for images without one."""
    met: list[Flags] = field(default_factory=list)
    start: Floats | float = np.nan
    """w_1 . w*_0 - |w_0| of Theorem 4.3."""

    def observe(self, now: _Classifiers) -> None:
        second, first = np.partition(now.score, -2, axis=1)[:, -2:].T
        positives = (now.score + now.bias[:, None] > 0).sum(1)
        self.seen.append((positives, first - second, now.best[1]))

    def move(self, now: _Classifiers, after: _Classifiers, size: Floats, met: Flags) -> None:
        if not self.sizes:
            dot = (after.weight * now.weight).sum(1) + after.bias * now.best[0]
            self.start = dot - np.hypot(np.linalg.norm(now.weight, axis=1), now.bias)
        self.sizes.append(size)
        self.met.append(met)

    def course(self, updates: int, converged: Flags) -> Course:
        missing = updates + 1 - len(self.seen)
        positives, gap, margin = (
            np.concatenate([np.array(values), np.repeat([values[-1]], missing, 0)])
            for values in zip(*self.seen, strict=True)
        )
        sizes = np.array([*self.sizes, np.full(len(converged), np.nan)])
        count = np.isfinite(sizes).sum(0)
        met = np.array([*self.met, np.zeros(len(converged), dtype=bool)]).sum(0)
        least, largest = np.fmin.reduce(sizes), np.fmax.reduce(sizes)
        with np.errstate(divide="ignore", invalid="ignore"):
            over, part = least * margin.min(0), met / count
            bound = (largest**2 - 2 * over * (self.start - largest)) / (2 * over**2)
        bound = np.where(margin.min(0) > 0, bound, np.nan)
        return Course(count, converged, positives, gap, margin, part, bound)
