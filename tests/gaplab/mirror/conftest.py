"""What tests of the mirror share: a home with MLflow's tables, and a small ledger in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detectors.evaluation.metrics import ClassGap
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS
from gaplab.mirror.database import turn
from gaplab.records import (
    AttemptEnd,
    Claim,
    Cost,
    EvaluationRecord,
    Machine,
    SweepRecord,
    TrialRecord,
)
from gaplab.states import TrialState
from gaplab.storage.home import Home

MACHINE = Machine("node", "cpu", 1, 0.0)


class Bench:
    """A ledger with a sweep of trials, and what a driver would write into it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ledger = Ledger.open(home.ledger_url)
        self.attempts: dict[str, int] = {}

    @staticmethod
    def trial(number: int, **config: Any) -> TrialRecord:
        protocol = {"evaluation": {"protocol": {"preset": "default"}, "every": 1}}
        options = {"assignment": {"name": "dual", "alpha": 0.5}, "seed": number}
        return TrialRecord(
            id=f"{number:012x}",
            config=protocol | options | config,
            assignment="dual",
            family="hybrid",
            dataset="shapes",
            seed=number,
            epochs=3,
            results_version=1,
        )

    def add(self, sweep: str, *trials: TrialRecord, name: str = "paper") -> str:
        self.ledger.add_sweep(SweepRecord(sweep, name, f"name: {name}\n", trials))
        return sweep

    def start(self, trial: TrialRecord, sweep: str) -> None:
        self.attempts[trial.id] = self.ledger.start_attempt(Claim(trial.id, sweep, machine=MACHINE))

    def epoch(
        self, trial: TrialRecord, epoch: int, protocol: str = "default", **more: float | None
    ) -> None:
        """Both branches, every number differs from every other; but for the metrics in `more`."""
        for primary, branch in ((True, "o2o"), (False, "o2m")):
            first = trial.seed + epoch / 10 + (0 if primary else 50) + len(protocol) / 1000
            self.ledger.record(
                EvaluationRecord(
                    trial=trial.id,
                    epoch=epoch,
                    branch=branch,
                    primary=primary,
                    protocol=protocol,
                    metrics={name: first + i / 3e5 for i, name in enumerate(METRICS)} | more,
                    classes=(
                        ClassGap("circle", first, first + 1, -1.0),
                        ClassGap("star", None, None, None),
                    ),
                ),
                self.attempts[trial.id],
            )

    def end(self, trial: TrialRecord, state: Any, reason: str = "") -> None:
        self.ledger.end_attempt(self.attempts[trial.id], AttemptEnd(state, reason, Cost()))

    def small(self, sweep: str = "paper-00000001") -> tuple[str, TrialRecord, TrialRecord]:
        """Two trials: one succeeded after three epochs, one failed in its second."""
        good, bad = self.trial(1), self.trial(2)
        self.add(sweep, good, bad)
        self.start(good, sweep)
        for epoch in (1, 2, 3):
            self.epoch(good, epoch)
        self.end(good, TrialState.SUCCEEDED)
        self.start(bad, sweep)
        self.epoch(bad, 1)
        self.end(bad, TrialState.FAILED, "loss is not finite at step 7")
        return sweep, good, bad


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database after its migrations, which take seconds; to be copied."""
    home = Home(tmp_path_factory.mktemp("mlflow"))
    with turn(home):
        return home.path / "mlflow.db"


@pytest.fixture
def bench(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    home = Home(tmp_path / "home")
    shutil.copy(mlflow_database, home.path)
    made = Bench(home)
    yield made
    made.ledger.close()
