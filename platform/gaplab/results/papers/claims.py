"""Claims of papers, checked against our evaluations: a file of sentences, and a verdict on each.

A claim compares rows of a spec. Its verdict is computed from the evaluations of these rows at
several seeds, see `verdicts`; the claims on one spec are corrected together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from detectors.assigners.base import Branch
from detectors.evaluation.metrics import NAMES
from detectors.evaluation.protocol import Protocol
from detectors.options import Options
from gaplab.errors import UserError
from gaplab.formatting import plural
from gaplab.ledger import Reader
from gaplab.ledger.views import ResultRow
from gaplab.records import TrialRecord
from gaplab.results.intervals import MIN_IMAGES, Interval, Metric, Resampled, alike
from gaplab.results.papers.paper_table import Line, table_lines, value_of
from gaplab.results.verdicts import MIN_SEEDS, Evidence, Limit, Quantity, Verdict, judge
from gaplab.spec.models import Reading, Spec
from gaplab.spec.problems import problems_of, suggest, unknown
from gaplab.spec.yaml_text import YamlError, parse_yaml, read_text

Resample = Callable[[ResultRow], Resampled | None]
"""Returns AP of an evaluation on resamples of its images, or None if it is not known."""
_Column = TypeVar("_Column")
_BOOTSTRAPPED: tuple[Metric, ...] = ("ap", "ap_nms", "gap")


class Term(Options):
    """One row of the claim's spec, and what is read from it."""

    row: str
    """Name of the row."""
    metric: str | None = None
    """Name of a metric; null: that of the claim."""
    branch: Branch | None = None
    """Branch of the detector; null: the one that the row shows."""


class Claim(Options):
    """A sentence of a paper as a condition on rows of a spec. Exactly one limit is given."""

    source: str = Field(min_length=1)
    """Where the sentence stands: paper, section, table."""
    sentence: str = Field(min_length=1)
    """The sentence, in our words."""
    spec: str
    """Path of the spec, relative to the file of claims."""
    rows: list[Annotated[Term, BeforeValidator(lambda v: {"row": v} if isinstance(v, str) else v)]]
    """One row: its metric is limited. Several: that of each minus that of the next one is."""
    metric: str = "ap"
    """Name of the metric, in percent points."""
    protocol: str | None = None
    """Name of a protocol preset; null: the one that the rows show."""
    above: float | None = None
    """The claim holds above this value."""
    below: float | None = None
    """The claim holds below this value."""
    within: float | None = Field(None, gt=0)
    """The claim holds between minus this value and this value."""

    @model_validator(mode="after")
    def _one_limit(self) -> "Claim":
        given = [each for each in (self.above, self.below, self.within) if each is not None]
        if len(given) != 1:
            raise ValueError("above, below, within: give exactly one of them")
        if not self.rows:
            raise ValueError("rows: give at least one")
        return self

    @property
    def limit(self) -> Limit:
        """The values that the claim allows."""
        if self.within is not None:
            return Limit(-self.within, self.within)
        return Limit(low=self.above) if self.above is not None else Limit(high=self.below or 0.0)


@dataclass(frozen=True)
class Finding:
    """The verdict on one claim.

    Attributes:
        id: id of the claim.
        claim: the claim.
        verdict: `holds`, `fails` or `undecided`.
        value: the mean over seeds of the quantity that decides; None if nothing was measured.
        interval: its 95 % interval; None without a verdict.
        p: p value of the verdict's opposite, corrected over the claims on the same spec.
        seeds: number of seeds.
        images: whether the interval covers the choice of images besides the seeds.
        reason: why the claim is undecided without a p value; else empty.
    """

    id: str
    claim: Claim
    verdict: Verdict
    value: float | None = None
    interval: Interval | None = None
    p: float | None = None
    seeds: int = 0
    images: bool = False
    reason: str = ""

    @property
    def as_claimed(self) -> bool:
        """Whether the mean is one of the values that the claim allows."""
        low, high = self.claim.limit
        return self.value is not None and low < self.value < high


@dataclass(frozen=True)
class ClaimSpec:
    """A spec that claims refer to, with the trials of each of its rows at all seeds."""

    spec: Spec
    rows: Mapping[str, tuple[TrialRecord, ...]]


def read_claims(path: Path) -> dict[str, Claim]:
    """Read claims by id from the YAML file at `path`: a mapping of specs to their claims by id.

    Raises:
        UserError: the file can't be read, or claims are not valid; one line per problem.
    """
    try:
        content = parse_yaml(read_text(path))
    except (OSError, YamlError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: {why}") from None
    if not isinstance(content, dict) or not all(isinstance(c, dict) for c in content.values()):
        raise UserError(f"{path}: must be a mapping of specs to mappings of ids to claims")
    found, problems = dict[str, Claim](), list[str]()
    for spec, claims in content.items():
        for key, keys in claims.items():
            where = f"{path}: {spec}: {key}: "
            if key in found:
                problems.append(f"{where}this id is used before")
            try:
                found[key] = _read_claim(keys, spec)
            except UserError as error:
                problems += [f"{where}{problem}" for problem in error.problems]
    if problems or not found:
        raise UserError(*(problems or [f"{path}: holds no claim; add one below a spec"]))
    return found


def _read_claim(keys: Any, spec: str) -> Claim:
    """Validate a claim that stands below `spec`. Raises UserError."""
    given = isinstance(keys, dict) and "spec" in keys
    wrong = ["spec: unknown key; a claim is on the spec it stands below"] if given else []
    try:
        claim = Claim.model_validate({**keys, "spec": spec} if isinstance(keys, dict) else keys)
    except ValidationError as error:
        raise UserError(*wrong, *map(str, problems_of(error, Claim))) from None
    if wrong:
        raise UserError(*wrong)
    return claim


def check_rows(claims: Mapping[str, Claim], specs: Mapping[str, ClaimSpec]) -> None:
    """Raise UserError for unknown rows or metrics, or rows with several trials per seed."""
    problems = []
    for key, claim in claims.items():
        for term in claim.rows:
            metric, rows = term.metric or claim.metric, specs[claim.spec].rows
            if metric not in NAMES:
                problems.append(f"{key}: metric: {unknown(metric, NAMES)}")
            trials = rows.get(term.row)
            if trials is None:
                near = suggest(term.row, list(rows))
                problems.append(f"{key}: rows: {claim.spec} has no row {term.row}; {near}")
            elif len({trial.seed for trial in trials}) < len(trials):
                problems.append(f"{key}: rows: {term.row} has several trials per seed")
    if problems:
        raise UserError(*dict.fromkeys(problems))


def find_verdicts(
    claims: Mapping[str, Claim],
    specs: Mapping[str, ClaimSpec],
    ledger: Reader,
    resample: Resample,
) -> list[Finding]:
    """Return the verdict on each claim, in the order given.

    Args:
        claims: the claims by id.
        specs: the spec of each claim, by its `spec`.
        ledger: an open ledger.
        resample: measures an evaluation on resamples of its images.

    Raises:
        UserError: as `check_rows` and `paper_table.table_lines` raise it.
    """
    check_rows(claims, specs)

    def measure(claim: Claim) -> list[Quantity | None]:
        spec = specs[claim.spec]
        rows = [_by_seed(claim, term, spec, ledger) for term in claim.rows]
        columns = zip(rows, (term.metric or claim.metric for term in claim.rows), strict=True)
        return [_quantity(pair, resample) for pair in compared(list(columns))]

    return decide(claims, measure)


def compared(columns: Sequence[_Column]) -> list[Sequence[_Column]]:
    """Return what a claim limits: its only column, or each with the one subtracted from it."""
    return [columns] if len(columns) == 1 else list(pairwise(columns))


def decide(
    claims: Mapping[str, Claim], measure: Callable[[Claim], Sequence[Quantity | None]]
) -> list[Finding]:
    """Return the verdict on each claim, in the order given. Claims on one spec are corrected.

    Args:
        claims: the claims by id.
        measure: returns the quantities of a claim, None for each that was not measured.
    """
    found = {key: _gather(key, claim, measure(claim)) for key, claim in claims.items()}
    for name in dict.fromkeys(claim.spec for claim in claims.values()):
        keys = [key for key in claims if claims[key].spec == name and found[key][1]]
        evidence = [each for key in keys if (each := found[key][1])]
        for key, (verdict, p), each in zip(keys, judge(evidence), evidence, strict=True):
            found[key] = (_decided(found[key][0], verdict, p, each), each)
    return [finding for finding, _ in found.values()]


def other_protocols(
    claims: Mapping[str, Claim], specs: Mapping[str, ClaimSpec]
) -> dict[Protocol, list[str]]:
    """Return the ids of trials that claims read under another protocol than their own, by protocol.

    Training does not measure these evaluations; `reevaluate` does.
    """
    found: dict[Protocol, dict[str, None]] = {}
    for claim in claims.values():
        spec = specs[claim.spec]
        for term in claim.rows:
            protocol = Reading.of(_settings(claim, term, spec)).protocol
            ids = [t.id for t in spec.rows[term.row] if protocol and t.protocol != protocol.preset]
            if protocol and ids:
                found.setdefault(protocol, {}).update(dict.fromkeys(ids))
    return {protocol: list(ids) for protocol, ids in found.items()}


def _decided(finding: Finding, verdict: Verdict, p: float, evidence: Evidence) -> Finding:
    deciding = evidence.deciding
    return Finding(
        finding.id,
        finding.claim,
        verdict,
        deciding.mean,
        deciding.interval(),
        p,
        len(deciding.values),
        all(each.image_error is not None for each in evidence.quantities),
    )


def _gather(
    key: str, claim: Claim, quantities: Sequence[Quantity | None]
) -> tuple[Finding, Evidence | None]:
    """Return a finding without a verdict, and the evidence for one if there is enough."""
    known = [each for each in quantities if each is not None]
    seeds = min((len(each.values) for each in known), default=0)
    if len(known) < len(quantities) or seeds < MIN_SEEDS:
        measured = seeds if len(known) == len(quantities) else 0
        reason = f"{plural(measured, 'seed')} measured, {MIN_SEEDS} are needed"
        return Finding(key, claim, "undecided", seeds=measured, reason=reason), None
    if not all(each.error for each in known):
        reason = "equal at all seeds, and images were not resampled"
        return Finding(key, claim, "undecided", known[0].mean, seeds=seeds, reason=reason), None
    return Finding(key, claim, "undecided"), Evidence(tuple(known), claim.limit)


def _by_seed(claim: Claim, term: Term, spec: ClaimSpec, ledger: Reader) -> dict[int, ResultRow]:
    """Return the selected evaluation of each seed of a row."""
    one = spec.spec.model_copy(update={"rows": {term.row: _settings(claim, term, spec)}})
    line: Line
    (line,) = table_lines(one, {term.row: spec.rows[term.row]}, {}, ledger)
    return {row.seed: row for row in line.found}


def _settings(claim: Claim, term: Term, spec: ClaimSpec) -> dict[str, Any]:
    """Return the settings of a row, with those evaluations selected that the claim is about."""
    settings: dict[str, Any] = dict(spec.spec.rows[term.row])
    settings |= {"read.protocol": claim.protocol} if claim.protocol else {}
    return settings | ({"read.branch": term.branch} if term.branch else {})


def _quantity(
    pair: Sequence[tuple[Mapping[int, ResultRow], str]], resample: Resample
) -> Quantity | None:
    """Return the quantity of one row, or of the first minus the second; None without values."""
    seeds = sorted(set.intersection(*(set(rows) for rows, _ in pair)))
    columns = [[value_of(rows[seed], metric) for seed in seeds] for rows, metric in pair]
    if not seeds or any(value is None for column in columns for value in column):
        return None
    values = np.array(columns, dtype=float)
    difference = values[0] - values[1] if len(pair) == 2 else values[0]
    return Quantity(tuple(map(float, difference)), _image_error(pair, seeds, resample))


def _image_error(
    pair: Sequence[tuple[Mapping[int, ResultRow], str]], seeds: Sequence[int], resample: Resample
) -> float | None:
    """Return the standard deviation, over resamples of the images, of the mean over seeds."""
    if any(metric not in _BOOTSTRAPPED for _, metric in pair):
        return None
    found = [
        (resample(rows[seed]), metric, sign)
        for (rows, metric), sign in zip(pair, (1, -1), strict=False)
        for seed in seeds
    ]
    made = [each for each, _, _ in found if each is not None]
    few = any(each.count < MIN_IMAGES for each in made)
    if few or len(made) < len(found) or not alike(made):
        return None
    parts = [sign * getattr(each.replicates, metric) for each, metric, sign in found if each]
    return float(np.nanstd(np.sum(parts, axis=0) / len(seeds), ddof=1))
