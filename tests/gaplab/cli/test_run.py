"""`gaplab run` and `resume` around the training: announcements, results and exit codes."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detectors.evaluation.protocol import PROTOCOLS
from gaplab.ledger import Ledger
from gaplab.records import Claim, SweepRecord
from gaplab.spec.files import stored_spec
from gaplab.states import TrialState
from gaplab.storage.home import Home
from gaplab.trial.control import Stop
from tests.builders import MACHINE, attempt_end, evaluation_record

ONENET: dict[str, Any] = {"evaluation": {"protocol": "onenet"}}
Gaplab = Callable[..., str]
Write = Callable[..., Path]
Sweeps = list[SweepRecord]


class NoMirror:
    """Stands for the thread that copies results to MLflow."""

    def __init__(self, *_: object) -> None: ...

    def notify(self, event: object) -> None: ...

    def close(self) -> str | None:
        return None


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweeps]:
    """Replaces training: trials end in `state` with one evaluation, or `stop` ends the sweep.

    Returns the list to which the trained sweeps are appended.
    """
    monkeypatch.setattr("gaplab.cli.run.MirrorThread", NoMirror)

    def replace(
        state: TrialState = TrialState.SUCCEEDED, stop: Stop | None = None, measure: bool = True
    ) -> Sweeps:
        trained: Sweeps = []

        def run_sweep(_: Home, ledger: Ledger, sweep: SweepRecord, *__: Any) -> Stop | None:
            trained.append(sweep)
            ledger.add_sweep(sweep)
            for trial in () if stop else ledger.unfinished(sweep):
                attempt = ledger.start_attempt(Claim(trial.id, sweep.id, machine=MACHINE))
                record = evaluation_record(trial.id, trial.epochs, protocol=trial.protocol)
                if measure:
                    ledger.record(record, attempt)
                ledger.end_attempt(attempt, attempt_end(state, "loss is not finite"))
            return stop

        monkeypatch.setattr("gaplab.launch.driver.run_sweep", run_sweep)
        return trained

    return replace


def test_a_sweep_is_trained_once(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    trained, spec = train(), write_spec(grid={"seed": [0, 1]})
    first = gaplab("run", spec)
    assert ": 2 trials, 0 already done, 2 to train\n" in first
    assert first.count(" poto ") == 2, "a row per trial"
    for command in ("compare --sweep small-", "report small-", "show ", "ui "):
        assert f"\n  gaplab {command}" in first
    for again in (gaplab("run", spec), gaplab("resume")):
        assert ": 2 trials, 2 already done, nothing to train\n" in again
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("address", "words"), [("local", "starting Ray ..."), ("auto", "connecting to auto ...")]
)
def test_what_will_be_started_is_said_before_the_spec_is_read(
    gaplab: Gaplab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    said: list[str] = []

    @contextmanager
    def progress_line(text: str) -> Iterator[Callable[[str], None]]:
        said.append(text)
        yield said.append

    monkeypatch.setattr("gaplab.cli.run.progress_line", progress_line)
    gaplab("run", tmp_path / "missing.yaml", "--address", address, code=2)
    assert said == [f"{words} reading {tmp_path}/missing.yaml first"]


OF_BOXES = [name for name, each in PROTOCOLS.items() if each.evaluator != "masks"]


@pytest.mark.parametrize("protocols", [[name] for name in OF_BOXES] + [["onenet", "defcn"]])
def test_results_are_those_of_the_sweep_s_own_protocols(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps], protocols: list[str]
) -> None:
    train()
    shown = gaplab("run", write_spec(grid={"evaluation.protocol": protocols}))
    tables = [name for name in PROTOCOLS if f"protocol {name}" in shown]
    assert sorted(tables) == sorted(protocols)
    assert shown.count(" poto ") == len(protocols)
    lines = [each for each in shown.splitlines() if each.startswith("  gaplab ")]
    for command, line in zip(("compare", "report"), lines, strict=False):
        assert line.startswith(f"  gaplab {command} ")
        assert (f" --protocol {protocols[0]}  " in line) == (len(protocols) > 1)


def test_the_table_at_the_end_shows_what_was_swept(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    train()
    shown = gaplab("run", write_spec(grid={"assignment.alpha": [0.3, 0.8], "seed": [0, 1]}))
    heading = next(line for line in shown.splitlines() if "assignment" in line)
    assert heading.split()[:3] == ["trial", "assignment", "alpha"]
    assert sum(line.split()[1:3] == ["poto", "0.3"] for line in shown.splitlines()) == 2


def test_a_sweep_without_evaluations_has_an_empty_table(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    train(TrialState.CANCELLED, measure=False)
    assert "nothing yet" in gaplab("run", write_spec(**ONENET))


def test_failures_are_shown_under_any_protocol(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    train(TrialState.FAILED, measure=False)
    assert gaplab("run", write_spec(**ONENET), code=1) == "", "no error about a protocol"


def test_a_search_goes_on_after_its_known_trials_have_finished(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    """As after a driver that was killed before it asked for the next sample."""
    pytest.importorskip("optuna")
    space = {"training.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    search = {"method": "optuna", "trials": 3, "startup": 2, "space": space}
    trained = train()
    spec = write_spec(search=search)
    assert "2 trials, 0 already done, 2 to train" in gaplab("run", spec)
    assert "2 trials, 2 already done, the search goes on" in gaplab("resume")
    assert len(trained) == 2


def test_one_trial_is_written_in_the_singular(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    train()
    assert ": 1 trial, 0 already done, 1 to train\n" in gaplab("run", write_spec())


def test_failed_trials(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps], home: Path
) -> None:
    train(TrialState.FAILED)
    gaplab("run", write_spec(), "--json", code=1)
    with Ledger.open(Home(home).ledger_url) as ledger:
        [sweep] = ledger.sweeps()
    error = gaplab("resume", "--json", code=1)
    assert "failed (error): loss is not finite" in error
    assert error.endswith(f"Retry with: gaplab resume {sweep.id}\n")


def test_json_ends_with_the_states(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    train()
    last = json.loads(gaplab("run", write_spec(), "--json").splitlines()[-1])
    assert last["kind"] == "sweep"
    assert list(last["states"].values()) == ["succeeded"]


@pytest.mark.parametrize(
    ("received", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 1)]
)
def test_exit_code_of_a_sweep_that_is_stopped(
    gaplab: Gaplab,
    write_spec: Write,
    train: Callable[..., Sweeps],
    received: int | None,
    code: int,
) -> None:
    """The code depends on the signal that the driver received, not on the wording of the reason."""
    train(stop=Stop(TrialState.INTERRUPTED, "any reason", received))
    error = gaplab("run", write_spec(), "--json", code=code)
    assert "stopped: any reason; progress is saved. Continue with: gaplab resume small-" in error


def test_rerun(gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps], home: Path) -> None:
    train()
    spec = write_spec(grid={"seed": [0, 1]})
    gaplab("run", spec)
    output = gaplab("run", spec, "--rerun", "all")
    assert output.startswith(
        "rerun: 2 finished trials will be trained again; earlier results are kept in "
        f"{home}/trials/TRIAL/replaced\n"
    )
    assert "2 to train" in output


def test_notes_of_a_grid_are_printed(
    gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
) -> None:
    """On standard error if standard output is for JSON."""
    spec = write_spec(grid={"training.lr": [1, 1.0], "seed": [0, 1]}, exclude=[{"seed": 7}])
    notes = (
        "exclude[0]: {seed: 7} holds for no combination\n4 combinations give 2 different trials\n"
    )
    train(TrialState.FAILED)
    assert gaplab("run", spec, "--json", code=1).startswith(f"{notes}sweep small-")
    train()
    assert gaplab("run", spec).startswith(f"{notes}sweep small-")


class TestSettings:
    """Settings that are no part of a trial's id: edited, printed, used by the next resume."""

    @pytest.fixture
    def stopped(
        self, gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps]
    ) -> tuple[Gaplab, Write, Sweeps]:
        """A sweep of two trials that was stopped before it trained any."""
        trained = train(stop=Stop(TrialState.INTERRUPTED, "reason", signal.SIGINT))
        gaplab("run", write_spec(grid={"seed": [0, 1]}, run={"at_once": 2}), code=130)
        return gaplab, write_spec, trained

    def used(self, trained: Sweeps) -> tuple[int | None, list[int]]:
        """Return `at_once` and the workers of each trial of the last training."""
        policy = stored_spec(trained[-1]).run
        return policy.at_once, [t.config["resources"]["workers"] for t in trained[-1].trials]

    def test_resume_uses_those_of_the_last_run(
        self, stopped: tuple[Gaplab, Write, Sweeps], home: Path
    ) -> None:
        gaplab, write_spec, trained = stopped
        settings = {"run": {"at_once": 4}, "resources": {"workers": 3}}
        error = gaplab("run", write_spec(grid={"seed": [0, 1]}, **settings), "--json", code=130)
        assert error.startswith("run.at_once: 2 -> 4\nresources.workers: 1 -> 3\nsweep small-")
        assert self.used(trained) == (4, [3, 3])
        assert "->" not in gaplab("resume", "--json", code=130)
        assert self.used(trained) == (4, [3, 3])
        with Ledger.open(Home(home).ledger_url) as ledger:
            [sweep] = ledger.sweeps()
        shown = gaplab("show", sweep.id)
        assert "at_once: 4" in shown
        assert "workers: 3" in shown

    def test_resume_sets_them(self, stopped: tuple[Gaplab, Write, Sweeps]) -> None:
        gaplab, _, trained = stopped
        words = ("resume", "--set", "run.at_once=8", "--set", "resources.workers=2", "--json")
        error = gaplab(*words, code=130)
        assert error.startswith("run.at_once: 2 -> 8\nresources.workers: 1 -> 2\nsweep small-")
        gaplab("resume", "--json", code=130)
        assert self.used(trained) == (8, [2, 2])

    def test_resume_refuses_to_change_trials(self, stopped: tuple[Gaplab, Write, Sweeps]) -> None:
        gaplab, _, trained = stopped
        error = gaplab("resume", "--set", "training.epochs=9", "--set", "run.at_once=1", code=2)
        assert error.startswith("gaplab: --set training.epochs: is part of the ids of trials")
        assert len(trained) == 1

    def test_finished_trials_show_what_they_ran_with(
        self, gaplab: Gaplab, write_spec: Write, train: Callable[..., Sweeps], home: Path
    ) -> None:
        train()
        gaplab("run", write_spec())
        output = gaplab("run", write_spec(resources={"workers": 2}))
        assert output.startswith("resources.workers: 1 -> 2\nsweep small-")
        assert "nothing to train" in output
        with Ledger.open(Home(home).ledger_url) as ledger:
            [trial] = ledger.all_trials()
        assert trial.config["resources"]["workers"] == 2, "for `--rerun`"
        shown = gaplab("show", trial.id)
        assert "workers: 1\n" in shown
        assert "workers: 2" not in shown
