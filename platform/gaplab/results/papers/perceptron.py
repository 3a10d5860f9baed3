"""Quantities of 000 section 4, measured on perceptrons, and the claims about them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from detectors.perceptron import Course, train
from gaplab.errors import UserError
from gaplab.results.papers.claims import Claim, Finding, compared, decide
from gaplab.results.verdicts import Quantity
from gaplab.spec.perceptron import PerceptronSpec
from gaplab.spec.problems import suggest, unknown

MOST_SEEDS = 100
"""Largest number of seeds of one measurement."""
METRICS = {
    "updates": "updates until convergence; without it, all that were allowed",
    "converged": "percentage of images whose classifier converged",
    "positives": "samples with a positive score, over the second half of the updates",
    "score_gap": "score gap at the end, times 100",
    "separable": "percentage of updates before which delta_t of Proposition 4.2 was above 0",
    "margin": "smallest delta_t, times 100",
    "assumed": "percentage of updates for which the assumption of Theorem 4.3 holds",
    "bounded": "percentage of images with at most as many updates as Theorem 4.3 allows",
    "of_bound": "updates in percent of that bound, the largest of images where it is above 0",
}
"""Metrics of a row at one seed, and what they mean: means over its images."""

Values = dict[str, float | None]


class Outcome(NamedTuple):
    """What was measured of one row at one seed."""

    course: Course
    values: Values
    """By the names of METRICS; None if no image has the quantity."""


Outcomes = Mapping[str, Mapping[int, Outcome]]
"""By row and seed."""


def check_seeds(seeds: int) -> None:
    """Raise UserError if there are more seeds than MOST_SEEDS."""
    if seeds > MOST_SEEDS:
        raise UserError(f"--seeds {seeds}: must be at most {MOST_SEEDS} for perceptrons")


def measure(
    spec: PerceptronSpec, seeds: int, show: Callable[[str], None] = lambda line: None
) -> Outcomes:
    """Train the perceptrons of all rows at the seeds 0 to `seeds` - 1.

    Args:
        spec: the rows.
        seeds: number of seeds.
        show: called with a line of progress before each training.
    """
    found: dict[str, dict[int, Outcome]] = {}
    for row, options in spec.rows.items():
        found[row] = {}
        for seed in range(seeds):
            show(f"perceptrons: {row}, seed {seed + 1} of {seeds}")
            found[row][seed] = _outcome(train(options, seed))
    return found


def mean_over_seeds(found: Outcomes, row: str, metric: str) -> float | None:
    """Return the mean of a metric over the seeds that have it; None if there is none."""
    values = [each.values[metric] for each in found[row].values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def check_claims(claims: Mapping[str, Claim], specs: Mapping[str, PerceptronSpec]) -> None:
    """Raise UserError for claims on rows that their spec lacks, and on metrics of detectors."""
    problems = []
    for key, claim in claims.items():
        for term in claim.rows:
            metric = term.metric or claim.metric
            if term.row not in specs[claim.spec].rows:
                near = suggest(term.row, list(specs[claim.spec].rows))
                problems.append(f"{key}: rows: {claim.spec} has no row {term.row}; {near}")
            if metric not in METRICS:
                problems.append(f"{key}: metric: {unknown(metric, METRICS)}")
            if claim.protocol or term.branch:
                problems.append(f"{key}: a perceptron has no protocol and no branch; delete both")
    if problems:
        raise UserError(*dict.fromkeys(problems))


def perceptron_verdicts(
    claims: Mapping[str, Claim], found: Mapping[str, Outcomes]
) -> list[Finding]:
    """Return the verdict on each claim, in the order given.

    Args:
        claims: the claims by id, as `check_claims` accepts them.
        found: what was measured, by the `spec` of the claims.
    """

    def quantity(claim: Claim) -> list[Quantity | None]:
        columns = [
            [
                each.values[term.metric or claim.metric]
                for each in found[claim.spec][term.row].values()
            ]
            for term in claim.rows
        ]
        return [_difference(pair) for pair in compared(columns)]

    return decide(claims, quantity)


def _difference(pair: Sequence[Sequence[float | None]]) -> Quantity | None:
    """Return the first column minus the second one, if there is one; None without all values."""
    if any(value is None for column in pair for value in column):
        return None
    values = np.array(pair, dtype=float)
    return Quantity(tuple((values[0] - values[1] if len(pair) == 2 else values[0]).tolist()))


def _outcome(course: Course) -> Outcome:
    seen = np.arange(len(course.margin))[:, None] <= course.updates
    bounded = course.bound[np.isfinite(course.bound)]
    updates = course.updates[np.isfinite(course.bound)]
    share = 100 * updates[bounded > 0] / bounded[bounded > 0]
    assumed = course.met[np.isfinite(course.met)]
    values = {
        "updates": course.updates,
        "converged": 100 * course.converged,
        "positives": course.positives[len(course.positives) // 2 :],
        "score_gap": 100 * course.score_gap[-1],
        "separable": 100 * (course.margin > 0)[seen],
        "margin": 100 * course.margin.min(0),
        "assumed": 100 * assumed,
        "bounded": 100 * (updates <= bounded),
        "of_bound": share.max(keepdims=True) if len(share) else share,
    }
    means = {name: float(found.mean()) if found.size else None for name, found in values.items()}
    return Outcome(course, means)
