"""Claims on rows of a spec, from a ledger with recorded evaluations."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detectors.evaluation.bootstrap import Replicates
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import ResultRow
from gaplab.records import Claim as AttemptClaim
from gaplab.results.intervals import Resampled
from gaplab.results.papers.claims import Claim, ClaimSpec, Finding, find_verdicts, read_claims
from gaplab.results.papers.paper_table import read_paper
from gaplab.results.papers.perceptron import check_claims
from gaplab.spec.models import Spec
from gaplab.spec.perceptron import is_perceptron, read_perceptron
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, row_records
from gaplab.states import TrialState
from tests.builders import MACHINE, SECTIONS, attempt_end, evaluation_record

ROWS: dict[str, Any] = {
    "a": {"assignment": {"name": "center"}},
    "b": {},
    "c": {"assignment": {"name": "dual"}},
    "o2m": {"assignment": {"name": "dual"}, "read.branch": "o2m"},
}
CLAIM = {"source": "a paper", "sentence": "It is so.", "spec": "t.yaml"}


def no_images(row: ResultRow) -> None:
    """No evaluation has matches."""


class Bench:
    """A ledger with the trials of ROWS at four seeds."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger.open(url)
        content = {"name": "test", "base": SECTIONS, "rows": ROWS, "grid": {"seed": [0, 1, 2, 3]}}
        resolved = resolve(Spec.model_validate(content))
        self.sweep = expand(resolved)
        self.ledger.add_sweep(self.sweep)
        self.specs = {"t.yaml": ClaimSpec(resolved.spec, row_records(resolved))}
        self._attempts: dict[str, int] = {}

    def measure(self, row: str, aps: Sequence[float], gap: float = 0.0, **key: Any) -> None:
        """Record AP of a row at the seeds 0, 1, ..."""
        trials = {trial.seed: trial for trial in self.specs["t.yaml"].rows[row]}
        for seed, ap in enumerate(aps):
            trial = trials[seed]
            if trial.id not in self._attempts:
                claim = AttemptClaim(trial.id, self.sweep.id, machine=MACHINE)
                self._attempts[trial.id] = self.ledger.start_attempt(claim)
            metrics = {"ap": ap, "ap_nms": ap - gap, "gap": gap, "recall": 2 * ap}
            values = {"epoch": trial.epochs, "metrics": metrics, **key}
            attempt = self._attempts[trial.id]
            self.ledger.record(evaluation_record(trial.id, **values), attempt)
        for trial in (trials[seed] for seed in range(len(aps))):
            end = attempt_end(TrialState.SUCCEEDED)
            self.ledger.end_attempt(self._attempts[trial.id], end)

    def verdicts(self, resample: Any = no_images, **claims: dict[str, Any]) -> dict[str, Finding]:
        known = {key: Claim.model_validate(CLAIM | keys) for key, keys in claims.items()}
        found = find_verdicts(known, self.specs, self.ledger, resample)
        assert [each.id for each in found] == list(claims)
        return {each.id: each for each in found}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.ledger.close()


def test_one_row_two_rows_and_a_chain(bench: Bench) -> None:
    bench.measure("a", [10.0, 10.1, 10.2, 10.3])
    bench.measure("b", [12.0, 12.1, 12.3, 12.2])
    bench.measure("c", [15.0, 15.2, 15.1, 15.3])
    found = bench.verdicts(
        level={"rows": ["a"], "above": 9},
        less={"rows": ["a", "b"], "below": 0},
        wrong={"rows": ["a", "b"], "above": 0},
        chain={"rows": ["c", "b", "a"], "above": 0},
        same={"rows": ["a", "b"], "within": 1},
    )
    verdicts = {key: each.verdict for key, each in found.items()}
    assert verdicts == {
        "level": "holds",
        "less": "holds",
        "wrong": "fails",
        "chain": "holds",
        "same": "fails",
    }
    less = found["less"]
    assert less.value == pytest.approx(-2.0)
    assert less.interval is not None
    assert less.interval.low < -2.0 < less.interval.high < 0
    assert (less.seeds, less.images, less.reason) == (4, False, "")


def test_seeds_are_paired(bench: Bench) -> None:
    """A difference that is the same at every seed shows, however much the seeds differ."""
    bench.measure("a", [10.0, 30.0, 50.0, 20.0])
    bench.measure("b", [11.0, 31.1, 51.1, 21.0])
    assert bench.verdicts(x={"rows": ["b", "a"], "above": 0})["x"].verdict == "holds"


def test_other_metrics_branches_and_protocols(bench: Bench) -> None:
    bench.measure("c", [10.0, 10.1, 10.2])
    bench.measure("o2m", [3.0, 3.1, 3.2], gap=-8, branch="o2m", primary=False)
    bench.measure("c", [11.0, 11.2, 11.4], gap=-1, protocol="defcn")
    found = bench.verdicts(
        head={"rows": ["c", {"row": "o2m", "metric": "ap_nms"}], "within": 3},
        branch={"rows": [{"row": "c", "branch": "o2m", "metric": "gap"}], "below": -7},
        protocol={"rows": ["c"], "protocol": "defcn", "above": 10.5},
        recall={"rows": ["c"], "metric": "recall", "above": 19},
    )
    assert found["head"].value == pytest.approx(-1.0)
    assert found["branch"].value == pytest.approx(-8.0)
    assert found["protocol"].value == pytest.approx(11.2)
    assert found["recall"].value == pytest.approx(20.2)


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_too_few_seeds_are_undecided(bench: Bench, seeds: int) -> None:
    bench.measure("a", [10.0, 10.1, 10.2, 10.3])
    bench.measure("b", [20.0, 20.1, 20.3][:seeds])
    found = bench.verdicts(
        x={"rows": ["b", "a"], "above": 0}, y={"rows": ["a", "b", "c"], "above": 0}
    )
    assert {each.verdict for each in found.values()} == {"undecided"}
    plural = "" if seeds == 1 else "s"
    assert found["x"].reason == f"{seeds} seed{plural} measured, 3 are needed"
    assert found["x"].p is None


def test_a_metric_that_was_not_measured(bench: Bench) -> None:
    bench.measure("a", [10.0, 10.1, 10.2])
    found = bench.verdicts(x={"rows": ["a"], "metric": "mmr", "above": 0})["x"]
    assert (found.verdict, found.value, found.seeds) == ("undecided", None, 0)


def test_equal_seeds_without_images(bench: Bench) -> None:
    bench.measure("a", [10.0, 10.0, 10.0])
    found = bench.verdicts(x={"rows": ["a"], "above": 0})["x"]
    assert (found.verdict, found.reason) == (
        "undecided",
        "equal at all seeds, and images were not resampled",
    )


def resampled(noise: float, count: int = 50, digest: str = "images") -> Any:
    """Resamples that move all evaluations of the same seed of rows alike, or not."""

    def resample(row: ResultRow) -> Resampled:
        shared = np.random.default_rng(0).normal(0, 5.0, 400)
        own = np.random.default_rng(row.seed).normal(0, noise, 400) * (row.assignment == "poto")
        ap = row.ap + shared + own
        return Resampled(digest, count, Replicates(ap, ap - row.gap))

    return resample


def test_images_count_and_are_paired(bench: Bench) -> None:
    bench.measure("a", [10.0, 10.1, 10.2])
    bench.measure("b", [12.0, 12.1, 12.3])
    claims: dict[str, Any] = {
        "one": {"rows": ["a"], "above": 5},
        "both": {"rows": ["b", "a"], "above": 0},
    }
    alone = bench.verdicts(**claims)
    found = bench.verdicts(resampled(0.2), **claims)
    assert [each.verdict for each in alone.values()] == ["holds", "holds"]
    assert found["one"].verdict == "undecided", "its images alone vary by 5 points"
    assert found["both"].verdict == "holds", "the same images for both rows"
    assert found["both"].images
    wide = bench.verdicts(resampled(20.0), **claims)["both"]
    assert wide.verdict == "undecided"
    assert wide.interval is not None
    expected = np.std(
        sum(np.random.default_rng(seed).normal(0, 20.0, 400) for seed in range(3)) / 3, ddof=1
    )
    assert wide.interval.high - wide.interval.low == pytest.approx(2 * 1.96 * expected, rel=0.02)


def test_few_images_are_not_resampled(bench: Bench) -> None:
    bench.measure("a", [10.0, 10.1, 10.2])
    found = bench.verdicts(resampled(1.0, count=19), x={"rows": ["a"], "above": 5})["x"]
    assert (found.verdict, found.images) == ("holds", False)


def test_other_annotations_of_the_same_images_are_not_paired(bench: Bench) -> None:
    bench.measure("a", [10.0, 10.1, 10.2])
    bench.measure("b", [12.0, 12.1, 12.3])

    def resample(row: ResultRow) -> Resampled:
        made: Resampled = resampled(0.2)(row)
        return replace(made, truth="old" if row.ap < 11 else "new")

    claims: dict[str, Any] = {"both": {"rows": ["b", "a"], "above": 0}}
    assert bench.verdicts(resampled(0.2), **claims)["both"].images
    assert not bench.verdicts(resample, **claims)["both"].images


def test_rows_that_a_spec_lacks(bench: Bench) -> None:
    with pytest.raises(UserError) as caught:
        bench.verdicts(x={"rows": ["a", "z"], "above": 0}, y={"rows": ["q"], "above": 0})
    assert caught.value.problems == (
        "x: rows: t.yaml has no row z; choose one of a, b, c, o2m",
        "y: rows: t.yaml has no row q; choose one of a, b, c, o2m",
    )


def test_metrics_that_nothing_measures(bench: Bench) -> None:
    with pytest.raises(UserError) as caught:
        bench.verdicts(x={"rows": ["a"], "metric": "gapp", "above": 0})
    assert caught.value.problems == ('x: metric: unknown "gapp"; did you mean "gap"?',)


SOUND = {"source": "a paper", "sentence": "It is so.", "rows": ["a"], "above": 1}


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("a: [", ["line 1: expected the node content"]),
        ("", ["must be a mapping of specs to mappings of ids to claims"]),
        ("- a", ["must be a mapping of specs"]),
        ("{}", ["holds no claim"]),
        ({"t.yaml": {}}, ["holds no claim"]),
        ("t.yaml: [1]", ["must be a mapping of specs"]),
        ({"t.yaml": {"x": 3}}, ["t.yaml: x: must be a mapping"]),
        (
            {"t.yaml": {"x": {**SOUND, "below": 0}}},
            ["t.yaml: x: above, below, within: give exactly one of them"],
        ),
        ({"t.yaml": {"x": {**SOUND, "rows": []}}}, ["x: rows: give at least one"]),
        ({"t.yaml": {"x": {**SOUND, "within": 0}}}, ["x: within: must be greater than 0"]),
        (
            {"t.yaml": {"x": {"rows": ["a"], "above": 1}}, "u.yaml": {"y": {**SOUND, "over": 1}}},
            ["t.yaml: x: source", "t.yaml: x: sentence", "u.yaml: y: over"],
        ),
        ({"t.yaml": {"x": SOUND}, "u.yaml": {"x": SOUND}}, ["u.yaml: x: this id is used before"]),
        (
            {"t.yaml": {"x": {**SOUND, "spec": "u.yaml"}}},
            ["t.yaml: x: spec: unknown key; a claim is on the spec it stands below"],
        ),
        ("t.yaml: {}\nt.yaml: {}", ['line 2: key "t.yaml" is repeated']),
        ("t.yaml:\n  x: {above: 1, above: 2}", ['line 2: key "above" is repeated']),
    ],
)
def test_wrong_files(tmp_path: Path, content: Any, problems: list[str]) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_claims(path)
    assert all(each.startswith(f"{path}: ") for each in caught.value.problems)
    for expected in problems:
        assert any(expected in each for each in caught.value.problems), caught.value.problems


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_claims(tmp_path / "claims.yaml")


EXPERIMENTS = Path(__file__).parents[4] / "experiments"


def test_the_claims_of_the_papers_agree_with_the_papers_numbers() -> None:
    """Each sentence is checked as ours will be: on the published numbers of its rows.

    The paper has no numbers about perceptrons.
    """
    claims = {
        key: claim
        for key, claim in read_claims(EXPERIMENTS / "claims.yaml").items()
        if not is_perceptron(EXPERIMENTS / claim.spec)
    }
    paper = read_paper(EXPERIMENTS / "paper_results.json")
    assert len(claims) >= 40
    assert {key.split("-")[0] for key in claims} == {"000", "001", "002", "003", "004"}
    for key, claim in claims.items():
        numbers = [paper[term.row].number(term.metric or claim.metric) for term in claim.rows]
        known = [number for number in numbers if number is not None]
        assert len(known) == len(numbers), key
        steps = [a - b for a, b in pairwise(known)] if len(known) > 1 else known
        assert all(claim.limit.low < step < claim.limit.high for step in steps), (key, steps)


def test_the_rows_of_the_claims_are_in_their_specs() -> None:
    claims = read_claims(EXPERIMENTS / "claims.yaml")
    for name in {claim.spec for claim in claims.values()}:
        rows = yaml.safe_load((EXPERIMENTS / name).read_text())["rows"]
        used = {t.row for claim in claims.values() if claim.spec == name for t in claim.rows}
        assert used <= set(rows), name


def test_the_claims_on_perceptrons_name_their_rows_and_metrics() -> None:
    claims = read_claims(EXPERIMENTS / "claims.yaml")
    path = EXPERIMENTS / "000" / "s4_perceptron.yaml"
    own = {key: claim for key, claim in claims.items() if is_perceptron(EXPERIMENTS / claim.spec)}
    assert {claim.spec for claim in own.values()} == {"000/s4_perceptron.yaml"}
    check_claims(own, {"000/s4_perceptron.yaml": read_perceptron(path)})
