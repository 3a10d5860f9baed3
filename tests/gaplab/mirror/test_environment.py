"""A person's own MLflow and the mirror do not affect each other."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gaplab.errors import UserError
from gaplab.mirror.environment import OWN_SETTINGS, clean_environment, settings_of_mlflow
from gaplab.mirror.replay import Mirror
from tests.builders import LedgerBench
from tests.gaplab.mirror.mlflow_runs import damage_database, runs

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

SETTINGS = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9/",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9/",
    "MLFLOW_EXPERIMENT_NAME": "mine",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_ENABLE_WORKSPACES": "true",
    "MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NoSuchPool",
}
"""A person's settings; each of the last three makes a replay fail that reads it."""

PROGRAM = """
import logging, os, sys
from pathlib import Path
from gaplab.ledger import Ledger
from gaplab.mirror.replay import Mirror
from gaplab.storage.home import Home
assert "mlflow" not in sys.modules
home, before = Home(Path(sys.argv[1])), dict(os.environ)
with Ledger.open(home.ledger_url) as ledger:
    assert Mirror(home).replay(ledger, sys.argv[2]) > 0
assert dict(os.environ) == before
assert logging.getLogger("mlflow").level == logging.INFO  # as `import mlflow` sets it
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
"""


IMPORTING = """
import importlib.abc, sys, threading, time
from pathlib import Path
from gaplab.ledger import Ledger
from gaplab.mirror.replay import Mirror
from gaplab.storage.home import Home

class Pause(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "mlflow.version":
            half.set()
            go_on.wait()

def is_importing(thread):
    frame, names = sys._current_frames().get(thread.ident), []
    while frame is not None:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    return names[:1] == ["<frozen importlib._bootstrap>"]

def replay():
    home = Home(Path(sys.argv[1]))
    with Ledger.open(home.ledger_url) as ledger:
        written.append(Mirror(home).replay(ledger, sys.argv[2]))

half, go_on, written = threading.Event(), threading.Event(), []
sys.meta_path.insert(0, Pause())
person = threading.Thread(target=lambda: __import__("mlflow"))
person.start()
half.wait()
mirror = threading.Thread(target=replay)
mirror.start()
while mirror.is_alive() and not is_importing(mirror):
    time.sleep(0.01)
go_on.set()
person.join()
mirror.join()
assert written and written[0] > 0
"""


def run_program(code: str, bench: LedgerBench, sweep: str, folder: Path) -> None:
    """Run code in a process with a person's settings; it must succeed without any output."""
    command = [sys.executable, "-c", code, str(bench.home.path), sweep]
    env = os.environ | SETTINGS
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_that_is_just_importing_mlflow(bench: LedgerBench, tmp_path: Path) -> None:
    """The mirror waits for an import in another thread, instead of using half a module."""
    sweep, _, _ = bench.small()
    run_program(IMPORTING, bench, sweep, tmp_path)
    assert len(runs(bench)) == 3


def test_a_process_with_a_person_s_settings(bench: LedgerBench, tmp_path: Path) -> None:
    """Nothing leaks into the mirror, nothing changes in the process, and nothing is printed."""
    sweep, _, _ = bench.small()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    run_program(PROGRAM, bench, sweep, elsewhere)
    assert list(elsewhere.iterdir()) == []
    assert len(runs(bench)) == 3


def variables() -> dict[str, str]:
    """Return the environment, without what pytest changes in it during a test."""
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment with a person's settings, in a process that uses MLflow already."""
    import mlflow

    assert mlflow.__name__ in sys.modules
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(logging.getLogger("mlflow"), "level", logging.WARNING)
    return variables()


def test_a_process_that_uses_mlflow_itself(bench: LedgerBench, before: dict[str, str]) -> None:
    sweep, _, _ = bench.small()
    mirror = Mirror(bench.home)
    assert mirror.replay(bench.ledger, sweep) > 0
    assert mirror.experiment_id("paper") is not None
    assert variables() == before
    assert logging.getLogger("mlflow").level == logging.WARNING


def test_a_replay_that_fails_restores_everything(
    bench: LedgerBench, before: dict[str, str]
) -> None:
    sweep, _, _ = bench.small()
    damage_database(bench.home.path / "mlflow.db")
    with pytest.raises(UserError, match="file is not a database"):
        Mirror(bench.home).replay(bench.ledger, sweep)
    assert variables() == before
    assert logging.getLogger("mlflow").level == logging.WARNING


def test_variables_set_meanwhile_are_removed(before: dict[str, str]) -> None:
    with settings_of_mlflow({"MLFLOW_RUN_ID": "1"}):
        os.environ["_MLFLOW_NEW"] = "x"
        seen = {k: v for k, v in os.environ.items() if k.startswith(("MLFLOW_", "_MLFLOW_"))}
    assert seen == {"MLFLOW_RUN_ID": "1", "_MLFLOW_NEW": "x"}
    assert variables() == before


def test_programs_get_only_gaplab_s_own_settings(before: dict[str, str]) -> None:
    found = clean_environment()
    assert {k: v for k, v in found.items() if "MLFLOW" in k} == OWN_SETTINGS
    others = {k: v for k, v in before.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
    assert others.items() <= found.items()
    assert variables() == before
