"""A home folder that was moved, copied or renamed: everything answers from the new place."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import update

from gaplab.launch.rerun import rerun
from gaplab.ledger import Ledger
from gaplab.ledger.migrate import MIGRATE, WRITE, alembic_config
from gaplab.ledger.models import Checkpoint, Evaluation
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home

Gaplab = Callable[..., str]


def make_absolute(home: Path, shown: Path) -> None:
    """Turn the ledger of a home into one of version 0007, written when the home was at `shown`."""
    with Ledger.open(f"sqlite:///{home}/ledger.db") as ledger:
        engine = ledger._engine.execution_options(**{WRITE: MIGRATE})
        with engine.begin() as connection:
            for column in (Evaluation.candidates, Evaluation.matches, Checkpoint.uri):
                change = update(column.class_).where(column != "")
                connection.execute(change.values({column.key: f"{shown}/" + column}))
        with engine.begin() as connection:
            command.downgrade(alembic_config(connection), "0007")


@pytest.fixture(params=["this version", "absolute paths"])
def moved(
    request: pytest.FixtureRequest, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A home folder moved from `old`, of this version or of one that stored absolute paths."""
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    old, new = tmp_path / "old", tmp_path / "el?se where%20#ü"
    shutil.copytree(trained, old)
    if request.param == "absolute paths":
        make_absolute(old, old)
    old.rename(new)
    Ledger.open(Home(new).ledger_url).close()  # as `gaplab upgrade` does
    monkeypatch.chdir(tmp_path)
    yield new
    assert not old.exists(), "a command has written to the old folder"


def trial_of(home: Path) -> str:
    """Return the id of the trial that stored its candidates."""
    return next(each.parent.name for each in (home / "trials").glob("*/candidates"))


def test_every_answer_comes_from_the_new_folder(gaplab: Gaplab, moved: Path) -> None:
    trial, home = trial_of(moved), ("--home", moved)
    gaplab("reevaluate", trial, "--protocol", "onenet", *home)
    assert json.loads(gaplab("explain", trial, "--json", *home))["trial"] == trial
    shown = gaplab("show", trial, *home)
    assert f"candidates: {moved}/trials/{trial}/candidates/" in shown.replace("\n", "")
    found = json.loads(gaplab("show", trial, "--json", *home))["evaluations"]
    files = {e[name] for e in found for name in ("candidates", "matches")} - {""}
    assert len(files) >= 4
    assert all((moved / each).exists() and not os.path.isabs(each) for each in files)
    compared = json.loads(gaplab("compare", "--json", *home))
    assert len(compared) == 2


def test_a_trial_is_trained_again_in_the_new_folder(gaplab: Gaplab, moved: Path) -> None:
    trial, home = trial_of(moved), ("--home", moved)
    before = json.loads(gaplab("show", trial, "--json", *home))["evaluations"]
    with Ledger.open(Home(moved).ledger_url) as ledger:
        assert rerun(ledger, Storage(str(moved)), [trial]) == [trial]
    aside = f"trials/{trial}/replaced/attempt=0001"
    kept = json.loads((moved / aside / "evaluations.json").read_text())
    assert len(kept) == len(before)
    files = {e[name] for e in kept for name in ("candidates", "matches")} - {""}
    assert files
    assert all(each.startswith(f"{aside}/") and (moved / each).exists() for each in files)


def test_missing_files_are_named_in_the_folder_that_is_open(gaplab: Gaplab, moved: Path) -> None:
    trial = trial_of(moved)
    shutil.rmtree(moved / "trials" / trial / "candidates")
    said = gaplab("explain", trial, "--home", moved, code=2)
    assert said.startswith(f"gaplab: {moved}/trials/{trial}/candidates/")
    assert "name the --home that the trial was trained in" in said
