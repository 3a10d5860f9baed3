import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detectors import RESULTS_VERSION
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS, Coverage
from gaplab.records import Claim, SweepRecord, TrialRecord
from gaplab.results.comparison.leaderboard import leaderboard, settings
from gaplab.states import TrialState
from tests.builders import MACHINE, attempt_end, evaluation_record, trial_record


def trial(identity: str, name: str, seed: int, **options: Any) -> TrialRecord:
    """Build a trial of three epochs; `options` are those of the assignment, dataset, version."""
    version = options.pop("version", RESULTS_VERSION)
    dataset = options.pop("dataset", "shapes")
    return trial_record(
        identity,
        config={
            "assignment": {"name": name, **options},
            "training": {"epochs": 3, "augment": "hflip", "decay_at": [0.6, 0.9]},
            "seed": seed,
        },
        assignment=name,
        family="o2m" if name == "fcos" else "o2o",
        dataset=dataset,
        seed=seed,
        results_version=version,
    )


POTO_0 = trial("p0", "poto", 0, alpha=0.8)
POTO_1 = trial("p1", "poto", 1, alpha=0.8)
FCOS = trial("f0", "fcos", 0, radius=1.5)
OLD = trial("old", "poto", 0, alpha=0.8, version=RESULTS_VERSION - 1)
CELLS = trial("c0", "poto", 0, alpha=0.5, dataset="cells")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        yield ledger


@pytest.fixture
def ledger(empty: Ledger) -> Ledger:
    """Sweep one: four trials; two: POTO_1 again and CELLS. POTO_1 still runs, at epoch 2."""
    empty.add_sweep(SweepRecord("one-11", "one", "", (POTO_0, POTO_1, FCOS, OLD)))
    empty.add_sweep(SweepRecord("two-22", "two", "", (POTO_1, CELLS, trial("w", "date", 0))))
    run(empty, "one-11", POTO_0, [(10.0, 10.5), (32.0, 32.5), (30.0, 31.0)])
    run(empty, "one-11", POTO_1, [(20.0, 20.25), (25.0, 25.5)], end=False)
    run(empty, "one-11", FCOS, [(5.0, 40.0)] * 3)
    run(empty, "one-11", OLD, [(30.0, 31.0)] * 3)
    run(empty, "two-22", CELLS, [(1.0, 0.5)] * 3)
    return empty


def run(
    ledger: Ledger, sweep: str, trial: TrialRecord, aps: list[tuple[float, float]], end: bool = True
) -> None:
    """Record an attempt with one evaluation per epoch; the second branch is 1 point worse."""
    attempt = ledger.start_attempt(Claim(trial.id, sweep, machine=MACHINE))
    primary, other = ("o2m", "o2o") if trial.family == "o2m" else ("o2o", "o2m")
    for epoch, (ap, ap_nms) in enumerate(aps, start=1):
        for branch, less in ((primary, 0.0), (other, 1.0)):
            numbers = {"ap": ap - less, "ap_nms": ap_nms - less, "gap": ap - ap_nms}
            metrics = dict.fromkeys(METRICS, 50.0) | numbers
            record = evaluation_record(
                trial.id, epoch, branch=branch, primary=branch == primary, metrics=metrics
            )
            ledger.record(record, attempt)
    if end:
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))


def ids(ledger: Ledger, **query: Any) -> list[str]:
    return [row.trial for row in leaderboard(ledger, **query)]


def test_the_least_need_of_nms_comes_first(ledger: Ledger) -> None:
    rows = leaderboard(ledger, sort="gap")
    assert [(row.trial, row.gap) for row in rows] == [
        ("c0", 0.5),
        ("p1", -0.5),
        ("old", -1.0),
        ("p0", -1.0),
        ("f0", -35.0),
    ]


def test_other_orders(ledger: Ledger) -> None:
    assert ids(ledger) == ids(ledger, sort="ap") == ["old", "p0", "p1", "f0", "c0"]
    assert ids(ledger, sort="ap_nms") == ["f0", "old", "p0", "p1", "c0"]


def test_fields(ledger: Ledger) -> None:
    row = next(row for row in leaderboard(ledger) if row.trial == "p0")
    about = (row.sweep, row.sweep_name, row.assignment, row.family, row.dataset, row.seed)
    assert about == ("one-11", "one", "poto", "o2o", "shapes", 0)
    where = (row.epoch, row.epochs, row.branch, row.protocol, row.state, row.stale, row.chosen)
    assert where == (3, 3, "o2o", "default", TrialState.SUCCEEDED, False, "last")
    assert (row.ap, row.ap_nms, row.gap, row.ar, row.ap50_nms) == (30.0, 31.0, -1.0, 50.0, 50.0)


def test_a_running_trial_is_shown_at_its_last_evaluated_epoch(ledger: Ledger) -> None:
    [row] = leaderboard(ledger, where=("seed=1",))
    assert (row.trial, row.state, row.epoch, row.ap) == ("p1", TrialState.RUNNING, 2, 25.0)


def test_old_results_are_stale(ledger: Ledger) -> None:
    rows = leaderboard(ledger)
    assert {row.trial for row in rows if row.stale} == {"old"}


def test_epochs(ledger: Ledger) -> None:
    best = {row.trial: row for row in leaderboard(ledger, epoch="best")}
    assert (best["p0"].epoch, best["p0"].ap, best["p0"].chosen) == (2, 32.0, "best")
    first = leaderboard(ledger, epoch=1)
    assert {row.epoch for row in first} == {1}
    assert {row.chosen for row in first} == {"given"}
    assert len(first) == 5


def test_branches(ledger: Ledger) -> None:
    primary = {row.trial: row.branch for row in leaderboard(ledger)}
    assert primary == {"p0": "o2o", "p1": "o2o", "old": "o2o", "c0": "o2o", "f0": "o2m"}
    rows = leaderboard(ledger, branch="o2m", sort="ap")
    assert [(row.trial, row.ap) for row in rows][:2] == [("old", 29.0), ("p0", 29.0)]
    assert {row.branch for row in rows} == {"o2m"}


def test_a_trial_of_two_sweeps_appears_once(ledger: Ledger) -> None:
    both = {row.trial: row.sweep_name for row in leaderboard(ledger)}
    assert both == {"p0": "one", "p1": "two", "f0": "one", "old": "one", "c0": "two"}
    for name in ("one", "one-11", "one-1"):
        rows = leaderboard(ledger, sweep=name)
        assert {row.trial for row in rows} == {"p0", "p1", "f0", "old"}
        assert {row.sweep for row in rows} == {"one-11"}


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (("assignment.alpha=0.8",), {"p0", "p1", "old"}),
        (("assignment.alpha=8e-1", "seed=0"), {"p0", "old"}),
        (("assignment.name=fcos",), {"f0"}),
        (("family=o2o", "dataset=cells"), {"c0"}),
        (('assignment.family == "o2m" and ap > 0',), {"f0"}),
        (("training.augment=hflip", "seed = 1"), {"p1"}),
        (("training.decay_at=[0.6, 0.9]", "assignment.radius=1.5"), {"f0"}),
        ("seed = 1", {"p1"}),
        (("seed=0", "seed=1"), set()),
        (("assignment.alpha=0.7",), set()),
        (("seed=" + "9" * 5000,), set()),
        (("seed=" + "[" * 100_000,), set()),
        ((f"results_version={RESULTS_VERSION - 1}",), {"old"}),
    ],
)
def test_where(ledger: Ledger, where: str | tuple[str, ...], found: set[str]) -> None:
    assert set(ids(ledger, where=where)) == found


def test_unknown_keys_are_all_named(ledger: Ledger) -> None:
    with pytest.raises(UserError) as error:
        ids(ledger, where=("assignment.alhpa=1", "seed=0", "sede=1"))
    assert error.value.problems == (
        "assignment.alhpa: no such key; "
        "did you mean assignment.alpha or assignment.family or assignment.name?",
        "sede: no such key; did you mean seed?",
    )


@pytest.mark.parametrize("condition", ["seed", "=1", ""])
def test_not_a_condition(ledger: Ledger, condition: str) -> None:
    with pytest.raises(UserError, match="write KEY=VALUE"):
        ids(ledger, where=(condition,))


def test_data_set_and_assignment(ledger: Ledger) -> None:
    assert ids(ledger, dataset="cells") == ["c0"]
    assert ids(ledger, assignment="fcos") == ["f0"]
    assert ids(ledger, dataset="cells", assignment="fcos") == []
    with pytest.raises(UserError) as error:
        ids(ledger, dataset="shape", assignment="pooto")
    assert error.value.problems == (
        "dataset 'shape': no evaluations; did you mean shapes?",
        "assignment 'pooto': no evaluations; did you mean poto?",
    )


SO_FAR = "default/o2m (epochs 1 to 3), default/o2o (epochs 1 to 3)"


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({"branch": "o2f"}, "protocol 'default', branch o2f, epoch last"),
        ({"epoch": 9}, "protocol 'default', branch primary, epoch 9"),
    ],
)
def test_another_branch_or_epoch_was_evaluated(
    ledger: Ledger, query: dict[str, Any], asked: str
) -> None:
    with pytest.raises(UserError) as error:
        leaderboard(ledger, **query)
    choice = f"choose one of protocol/branch {SO_FAR}"
    assert str(error.value) == f"{asked}: no evaluations; {choice}"


@pytest.mark.parametrize(
    ("query", "remedy"),
    [
        (
            {"protocol": "onenet"},
            "Not measured under 'onenet' yet. Run: gaplab reevaluate SWEEP --protocol onenet",
        ),
        (
            {"protocol": "defcn", "sweep": "one"},
            "Not measured under 'defcn' yet. Run: gaplab reevaluate one-11 --protocol defcn",
        ),
        ({"protocol": "onenett"}, "protocol 'onenett': no evaluations; did you mean onenet?"),
    ],
)
def test_another_protocol_was_evaluated(ledger: Ledger, query: dict[str, Any], remedy: str) -> None:
    with pytest.raises(UserError) as error:
        leaderboard(ledger, **query)
    assert str(error.value) == f"{remedy} (protocol/branch measured so far: {SO_FAR})"


def test_few_of_many_protocols_are_named_presets_first(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("custom-1", *(f"custom-{at}" for at in range(2, 9)), "o2f", "onenet")
    found = [Coverage(name, "o2o", 1, 3) for name in names]
    monkeypatch.setattr(ledger, "coverage", lambda query: found)
    with pytest.raises(UserError) as error:
        leaderboard(ledger, protocol="defcn")
    text = str(error.value)
    assert "far: o2f/o2o (epochs 1 to 3), onenet/o2o (epochs 1 to 3), custom-1/o2o" in text
    assert text.endswith("custom-6/o2o (epochs 1 to 3) and 2 more)")


def test_protocols_never_mix(ledger: Ledger) -> None:
    attempt = ledger.attempts("p0")[0].id
    metrics = dict.fromkeys(METRICS, 1.0)
    ledger.record(evaluation_record("p0", 3, protocol="defcn", metrics=metrics), attempt)
    assert {row.protocol for row in leaderboard(ledger)} == {"default"}
    [row] = leaderboard(ledger, protocol="defcn")
    assert (row.trial, row.protocol, row.ap) == ("p0", "defcn", 1.0)


def test_empty(empty: Ledger) -> None:
    assert ids(empty) == ids(empty, where=("nothing=1",), dataset="x", protocol="y") == []
    empty.add_sweep(SweepRecord("s", "s", "", (POTO_0,)))
    assert ids(empty, sweep="s") == []
    with pytest.raises(UserError, match="sweep 't': not in the ledger; there are s"):
        ids(empty, sweep="t")


def test_settings(ledger: Ledger) -> None:
    [row] = leaderboard(ledger, dataset="cells")
    assert settings(row) == {
        "assignment": "poto",
        "assignment.name": "poto",
        "assignment.alpha": 0.5,
        "training.epochs": 3,
        "training.augment": "hflip",
        "training.decay_at": [0.6, 0.9],
        "seed": 0,
        "family": "o2o",
        "dataset": "cells",
        "epochs": 3,
        "results_version": RESULTS_VERSION,
    }


def test_tables_are_imported_without_torch() -> None:
    modules = ["torch", "ray", "mlflow", "alembic", "pydantic"]
    code = (
        f"import sys, gaplab.cli.render.tables; print([m for m in {modules} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
