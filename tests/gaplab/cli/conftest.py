"""Commands run in this process, and a spec of a paper's table with results in the ledger."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaplab.cli import main
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.launch.recorder import Recorder
from gaplab.ledger import Ledger
from gaplab.records import Claim, Event
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from tests.builders import MACHINE, attempt_end, evaluation_record, row_ids

TABLE_SPEC: dict[str, Any] = {
    "name": "t1",
    "data": {"name": "shapes"},
    "detector": {"name": "fcos"},
    "training": {"epochs": 3},
    "rows": {
        "003-T1-01": {"assignment": {"name": "fcos"}},
        "003-T1-05": {"assignment": {"name": "poto"}},
        "own": {"assignment": {"name": "poto", "alpha": 0.3}},
    },
    "grid": {"seed": [0, 1]},
    "profiles": {"paper": {"training": {"epochs": 12}}},
}
PAPER = {
    "rows": [
        {"id": "003-T1-01", "row": "FCOS baseline", "metrics": {"ap": 12.1, "ap_nms": 40.5}},
        {"id": "003-T1-05", "row": "POTO|x", "metrics": {"ap": 38.0, "ap_nms": 38.6, "ar": 60.5}},
    ]
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of commands."""
    return tmp_path / "home"


@pytest.fixture
def gaplab(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command line in this process.

    Returns standard output, or standard error if another exit code than 0 is expected.
    """
    monkeypatch.setenv("GAPLAB_HOME", str(home))
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)

    def run(*words: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["gaplab", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert (stop.value.code or 0) == code, out + err
        assert "Traceback" not in err
        return err if code else out

    return run


def _emit_to(recorder: Recorder, attempt: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        recorder.handle(attempt, event)

    return emit


@pytest.fixture(scope="session")
def trained(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with one dual trial and one that stored no candidates; to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "tiny.yaml"
    spec = small | {
        "data": small["data"] | {"train_images": 8, "val_images": 5},
        "assignment": {"name": "dual"},
        "training": {"epochs": 2, "batch": 4, "warmup_steps": 2},
    }
    bare = {"assignment": {"name": "poto"}, "evaluation.candidates": "none"}
    grid = {"zip": {key: [spec.get(key, "last"), value] for key, value in bare.items()}}
    path.write_text(json.dumps(spec | grid))  # JSON is YAML without aliases
    return train(path, folder / "home")


@pytest.fixture(scope="session")
def queries(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with one trial of a detector whose points are queries; to be copied."""
    folder = tmp_path_factory.mktemp("queries")
    spec = small | {
        "data": small["data"] | {"train_images": 8, "val_images": 5},
        "detector": {"name": "detr", "channels": 16, "feedforward": 16, "queries": 9},
        "assignment": {"name": "min_cost"},
        "training": {"epochs": 1, "batch": 4},
    }
    (folder / "tiny.yaml").write_text(json.dumps(spec))
    return train(folder / "tiny.yaml", folder / "home")


def train(path: Path, folder: Path) -> Path:
    """Train the trials of a spec in this process; `folder` becomes their home folder."""
    sweep, home = expand(load_spec(path)), Home(folder)
    with Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(sweep)
        recorder = Recorder(ledger, [])
        for trial in sweep.trials:
            number = ledger.start_attempt(Claim(trial.id, sweep.id))
            recorder.add(number, trial.id)
            run_attempt(trial, Storage(str(home.path)), _emit_to(recorder, number), run_in_process)
    return home.path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes standard output a terminal without colors, as wide as the argument."""

    def make(width: int) -> None:
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    return make


@pytest.fixture
def table_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec with three rows of two seeds, and the paper's numbers of two rows in a folder above.

    The path is relative to the working directory.
    """
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tables" / "t1.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(TABLE_SPEC, sort_keys=False))
    (tmp_path / "paper_results.json").write_text(json.dumps(PAPER))
    return Path("tables/t1.yaml")


@pytest.fixture
def measured(table_spec: Path, home: Path) -> dict[str, tuple[str, ...]]:
    """One trial of the first row and both of the second are finished; ids of all rows' trials."""
    resolved = load_spec(table_spec)
    sweep, rows = expand(resolved), row_ids(resolved)
    finished = [rows["003-T1-01"][0], *rows["003-T1-05"]]
    with Ledger.open(Home(home).ledger_url) as ledger:
        ledger.add_sweep(sweep)
        numbers = [(18.0, 44.25), (42.5, 44.0), (43.5, 44.5)]
        for trial, (ap, nms) in zip(finished, numbers, strict=True):
            attempt = ledger.start_attempt(Claim(trial, sweep.id, machine=MACHINE))
            metrics = {"ap": ap, "ap_nms": nms, "gap": ap - nms, "ar": 70.0}
            ledger.record(evaluation_record(trial, 3, metrics=metrics), attempt)
            ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
    return rows
