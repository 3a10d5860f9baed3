"""Perceptrons with one-to-one assignment, against loops over images and samples."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.perceptron import PerceptronOptions, train


class Seen(NamedTuple):
    """What the loop found of one image."""

    updates: int
    delta: float
    met: float
    bound: float


def drawn(options: PerceptronOptions, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    d, n, k = options.draws, options.samples, options.dimensions
    points = rng.standard_normal((d, n, k))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    points *= (rng.random((d, n)) ** (1 / k))[..., None]
    weights, biases = rng.standard_normal((d, k)), rng.standard_normal(d)
    return points, weights, biases, rng.integers(n, size=d)


class Image:
    """One image; vectors have the coordinate of the bias, as in 000 section 4.1."""

    def __init__(self, points: np.ndarray, weight: np.ndarray, fixed: int | None) -> None:
        self.points = np.column_stack([points, np.ones(len(points))])
        self.weight, self.fixed = weight, fixed
        self.count, self.met, self.sizes, self.deltas = 0, 0, list[float](), list[float]()
        self.first = float("nan")
        self.start = float(weight @ self.wished(weight))

    def scores(self, weight: np.ndarray) -> list[float]:
        return [float(point[:-1] @ weight[:-1]) for point in self.points]

    def positive(self, weight: np.ndarray) -> int:
        return int(np.argmax(self.scores(weight))) if self.fixed is None else self.fixed

    def threshold(self, weight: np.ndarray) -> tuple[float, float]:
        """gamma and delta of Proposition 4.2."""
        score, best = self.scores(weight), self.positive(weight)
        other = max(s for j, s in enumerate(score) if j != best)
        return -(score[best] + other) / 2, (score[best] - other) / 2

    def wished(self, weight: np.ndarray) -> np.ndarray:
        """w* of Proposition 4.2."""
        return np.append(weight[:-1], self.threshold(weight)[0])

    def wrong(self) -> list[bool]:
        best = self.positive(self.weight)
        signs = [1 if j == best else -1 for j in range(len(self.points))]
        return [y * float(x @ self.weight) <= 0 for x, y in zip(self.points, signs, strict=True)]

    def assumed(self, x: np.ndarray, y: float, eta: float) -> bool:
        """The assumption of Theorem 4.3, from the step of its proof in which it is used."""
        after, old = self.weight + eta * y * x, self.wished(self.weight)
        return bool(after @ (self.wished(after) - old) > eta * y * (x @ old))

    def update(self, j: int, options: PerceptronOptions) -> None:
        x, y = self.points[j], 1.0 if j == self.positive(self.weight) else -1.0
        tried = [options.step_size * 2.0**k for k in range(40 if options.step == "theorem" else 1)]
        eta = next((each for each in tried if self.assumed(x, y, each)), tried[0])
        self.met += self.assumed(x, y, eta)
        before, self.weight = self.weight, self.weight + eta * y * x
        if not self.count:
            self.first = float(self.weight @ self.wished(before)) - float(np.linalg.norm(before))
        self.count += 1
        self.sizes.append(eta)

    def seen(self) -> Seen:
        delta = min(self.deltas)
        if not self.count:
            return Seen(0, delta, float("nan"), float("nan"))
        low, high = min(self.sizes), max(self.sizes)
        top = high**2 - 2 * low * delta * (self.first - high)
        bound = top / (2 * low**2 * delta**2) if delta > 0 else float("nan")
        return Seen(self.count, delta, self.met / self.count, bound)


def loop(options: PerceptronOptions, seed: int) -> list[Image]:
    rng = np.random.default_rng(seed)
    points, weights, biases, fixed = drawn(options, rng)
    images = [
        Image(p, np.append(w, b), int(f) if options.assignment == "location" else None)
        for p, w, b, f in zip(points, weights, biases, fixed, strict=True)
    ]
    for step in range(options.updates + 1):
        for image in images:
            image.deltas.append(image.threshold(image.weight)[1])
        wrong = [image.wrong() for image in images]
        if step == options.updates or not any(map(any, wrong)):
            break
        chance = rng.random(points.shape[:2])
        for image, misses, order in zip(images, wrong, chance, strict=True):
            if any(misses):
                image.update(int(np.where(misses, order, -1).argmax()), options)
    return images


OPTIONS = st.fixed_dictionaries(
    {
        "assignment": st.sampled_from(["classification", "location"]),
        "step": st.sampled_from(["fixed", "theorem"]),
        "step_size": st.sampled_from([0.01, 0.1, 1.0]),
        "samples": st.integers(2, 8),
        "dimensions": st.integers(1, 3),
        "draws": st.integers(1, 4),
        "updates": st.just(30),
    }
)


@settings(max_examples=20, deadline=None)
@given(OPTIONS, st.integers(0, 9))
def test_a_loop_gives_the_same(values: dict[str, Any], seed: int) -> None:
    options = PerceptronOptions(**values)
    course = train(options, seed)
    images = loop(options, seed)
    expected = np.array([image.seen() for image in images])
    assert course.updates.tolist() == expected[:, 0].tolist()
    np.testing.assert_allclose(course.margin.min(0), expected[:, 1], atol=1e-12)
    np.testing.assert_allclose(course.met, expected[:, 2])
    np.testing.assert_allclose(course.bound, expected[:, 3], rtol=1e-6)
    best = [sorted(image.scores(image.weight))[-2:] for image in images]
    np.testing.assert_allclose(course.score_gap[-1], [a - b for b, a in best], atol=1e-12)
    assert course.converged.tolist() == [not any(image.wrong()) for image in images]


@settings(max_examples=20, deadline=None)
@given(OPTIONS, st.integers(0, 9))
def test_a_classification_cost_gives_separable_labels(values: dict[str, Any], seed: int) -> None:
    """Proposition 4.2, and one positive sample per image that has converged (Theorem 4.3)."""
    course = train(PerceptronOptions(**(values | {"assignment": "classification"})), seed)
    assert (course.margin > 0).all()
    assert (course.positives[-1][course.converged] == 1).all()


@settings(max_examples=20, deadline=None)
@given(OPTIONS, st.integers(0, 9))
def test_steps_as_assumed_turn_weights_to_those_that_separate(
    values: dict[str, Any], seed: int
) -> None:
    """The step of the proof: if every update is as assumed, w . w* grows by 2 eta delta in each."""
    options = PerceptronOptions(**(values | {"assignment": "classification", "step": "theorem"}))
    for image in loop(options, seed):
        if image.count and image.met == image.count:
            end = float(image.weight @ image.wished(image.weight))
            growth = 2 * image.count * min(image.sizes) * min(image.deltas)
            assert end >= image.start + growth - 1e-9 * abs(image.start)


def test_with_steps_as_assumed_the_bound_holds() -> None:
    course = train(PerceptronOptions(step="theorem", draws=20, samples=30), 0)
    assert course.converged.all()
    moved = course.updates > 0
    assert (course.met[moved] == 1).all()
    assert (course.updates <= course.bound)[moved].all()


def test_with_short_steps_the_printed_bound_can_be_negative() -> None:
    """It has no term for the length of w*_0, so long first weights are beyond it."""
    course = train(PerceptronOptions(step="theorem", step_size=1e-4, updates=20), 0)
    beyond = (course.met == 1) & (course.bound < 0)
    assert beyond.any()
    assert (course.updates[beyond] > 0).all()


def test_a_location_cost_leaves_several_positive_samples() -> None:
    course = train(PerceptronOptions(assignment="location", draws=10, updates=300), 0)
    assert course.converged.mean() < 0.5
    assert course.positives[150:].mean() > 2


def test_arrays_keep_their_last_values_after_convergence() -> None:
    course = train(PerceptronOptions(draws=3, samples=5, updates=200), 0)
    assert course.converged.all()
    assert course.margin.shape == course.score_gap.shape == course.positives.shape == (201, 3)
    for image, end in enumerate(course.updates):
        assert (course.margin[end:, image] == course.margin[-1, image]).all()


def test_sizes_are_limited() -> None:
    with pytest.raises(ValueError, match="must be at most 2,000,000"):
        PerceptronOptions(draws=1000, updates=100_000)
