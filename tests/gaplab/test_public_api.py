"""The names that `import gaplab` offers: imported lazily, documented, with examples that run."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import gaplab
from gaplab.errors import UserError
from gaplab.records import Claim
from gaplab.states import TrialState
from tests.builders import MACHINE, attempt_end, sweep_record, trial_record
from tests.doctests import check_public_names, run_examples

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "mlflow", "sqlalchemy", "alembic", "pydantic", "numpy", "pyarrow", "typer")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without results, but with the experiments of this checkout."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name in ("GAPLAB_HOME", "GAPLAB_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_gaplab_imports_nothing_heavy() -> None:
    code = f"import sys, gaplab; print([name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_public_names_are_those_of_their_modules() -> None:
    check_public_names(gaplab, "__version__")


def test_version() -> None:
    assert gaplab.__version__ == version("gaplab")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gaplab' has no attribute 'leaderbord'"):
        gaplab.leaderbord  # type: ignore[attr-defined]  # noqa: B018


def test_examples_that_train_nothing(folder: Path) -> None:
    """The other functions have examples that run a sweep: `tests/sweeps/test_examples.py`."""
    for subject in (gaplab, gaplab.load_spec, gaplab.expand, gaplab.open_home, gaplab.Ledger):
        assert run_examples(subject) > 0


def test_a_finished_sweep_is_not_run_again(folder: Path) -> None:
    """It needs no cluster, and its id and states are in the ledger afterwards."""
    trial, sweep = trial_record(), sweep_record("s1", trial_record())
    home = gaplab.open_home()
    with gaplab.Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(sweep_record("before", trial))
        attempt = ledger.start_attempt(Claim(trial.id, "before", machine=MACHINE))
        ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
    assert gaplab.run_sweep(sweep) == {trial.id: TrialState.SUCCEEDED}
    with gaplab.Ledger.open(home.ledger_url) as ledger:
        assert ledger.find_sweep("s1").total == 1


def test_data_that_cannot_be_used_is_refused_before_the_start(folder: Path) -> None:
    few = ["data.train_images=3", "data.val_images=1", "data.max_objects=0", "data.min_objects=0"]
    sweep = gaplab.expand(gaplab.load_spec("experiments/quickstart.yaml", overrides=few))
    with pytest.raises(UserError) as caught:
        gaplab.run_sweep(sweep)
    train, val, batch = caught.value.problems
    assert "no object in split train (images: 3)" in train
    assert "no object in split val (images: 1)" in val
    assert "training.batch: 8 is more than the 3 training images of shapes" in batch
