"""Commands that read change nothing, and work for another user without permission to write."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic import command
from PIL import Image

from gaplab.ledger import Ledger
from gaplab.ledger.migrate import MIGRATE, WRITE, alembic_config
from gaplab.storage.home import Home
from tests.builders import sweep_record, trial_record

Gaplab = Callable[..., str]
NOBODY = 65534
PICTURE = "a.png"
"""Name of a picture beside the home that everybody may read."""
RUN = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from gaplab.cli import main

def run(words):
    sys.argv = ["gaplab", *words]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        return [end.code or 0, out.getvalue(), err.getvalue()]

calls = json.loads(sys.argv[1])
first = [run(words) for words in calls]  # also imports all modules, which nobody may not read
os.setgroups([])
os.setgid({nobody})
os.setuid({nobody})
json.dump([first, [run(words) for words in calls]], sys.stdout)
"""
"""Runs commands twice, as this user and as `nobody`, and prints exit codes and output."""


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time of change and content of everything in a folder and of the folder."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        about = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (about.st_mode, about.st_mtime_ns, content)
    return found


def words_of(home: Path, spec: Path) -> list[list[str]]:
    """Return all commands that read a home, with arguments."""
    with Ledger.read_only(Home(home).ledger_url) as ledger:
        trial = next(each for each in ledger.all_trials() if each.assignment == "dual").id
    every: list[list[str]] = [
        *(["leaderboard", "--json"], ["compare", "--json"], ["show"], ["show", trial]),
        *(["show", trial, "--json"], ["status"], ["logs", trial]),
        ["predict", trial, str(home.parent / PICTURE), "--json", "--threshold", "0"],
        *(["explain", trial, "--json"], ["protocols", "--json"], ["plan", str(spec), "--json"]),
    ]
    return [[*words, "--home", str(home)] for words in every]


@pytest.fixture
def spec(small: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


@pytest.fixture
def shared(trained: Path) -> Iterator[Path]:
    """A copy of the home that everybody may read, in a folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        home = folder / "home"
        shutil.copytree(trained, home)
        Image.new("RGB", (80, 60), "red").save(folder / PICTURE)
        for path in [home, *home.rglob("*"), folder / PICTURE]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield home


def test_reading_changes_nothing(gaplab: Gaplab, shared: Path, spec: Path) -> None:
    before = contents(shared)
    for words in words_of(shared, spec):
        assert gaplab(*words), words
        assert contents(shared) == before, words
    gaplab("export", spec.parent / "out", "--home", shared)
    assert contents(shared) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestAnotherUser:
    def run(self, calls: list[list[str]]) -> tuple[list[Any], list[Any]]:
        done = subprocess.run(
            [sys.executable, "-c", RUN.format(nobody=NOBODY), json.dumps(calls)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        first, second = json.loads(done.stdout)
        return first, second

    def test_gets_the_same_answers(self, shared: Path, spec: Path) -> None:
        spec_there = Path(shutil.copy(spec, shared.parent))
        spec_there.chmod(0o644)
        before = contents(shared)
        first, second = self.run(words_of(shared, spec_there))
        assert [code for code, _, _ in first] == [0] * len(first)
        assert second == first
        assert contents(shared) == before

    def test_sees_what_a_driver_is_writing(self, shared: Path) -> None:
        with Ledger.open(Home(shared).ledger_url) as ledger:
            ledger.add_sweep(sweep_record("fresh", trial_record("t9")))
            names = sorted(each.name for each in shared.glob("ledger.db*"))
            assert names == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
            first, second = self.run([["show", "--json", "--home", str(shared)]])
        assert first == second
        assert "fresh" in [each["id"] for each in json.loads(second[0][1])]

    def test_is_told_what_is_missing(self, shared: Path) -> None:
        unreadable, closed = shared.with_name("unreadable"), shared.with_name("closed")
        for home in (unreadable, closed):
            shutil.copytree(shared, home)
        (unreadable / "ledger.db").chmod(0o600)
        closed.chmod(0o700)
        expected = [
            (["show", "--home", unreadable], "can't be read (Permission denied); ask its owner"),
            (["cancel", "x", "--home", shared], "can't be written"),
            (["show", "--home", closed], f"--home {closed}: can't be read (Permission denied)"),
        ]
        _, found = self.run([[*map(str, words)] for words, _ in expected])
        for (code, _, said), (_, part) in zip(found, expected, strict=True):
            assert (code, said.count("\n")) == (2, 1)
            assert part in said


class TestOldLedgers:
    @pytest.fixture
    def old(self, shared: Path) -> Path:
        with Ledger.open(Home(shared).ledger_url) as ledger:
            engine = ledger._engine.execution_options(**{WRITE: MIGRATE})
            with engine.begin() as connection:
                command.downgrade(alembic_config(connection), "0004")
        return shared

    def test_reading_names_the_command_that_upgrades(self, gaplab: Gaplab, old: Path) -> None:
        before = contents(old)
        for words in (["show"], ["predict", "x", PICTURE]):
            said = gaplab(*words, "--home", old, code=2)
            assert said.count("\n") == 1
            assert "of an older gaplab (version 0004, this one reads" in said
            assert said.endswith(f"upgrades it with: gaplab upgrade --home {old}\n")
        assert contents(old) == before
        assert gaplab("upgrade", "--home", old).startswith("ledger upgraded to version")
        assert gaplab("upgrade", "--home", old).startswith("ledger is up to date (version")
        assert "small" in gaplab("show", "--home", old)


class TestBeforeTheFirstSweep:
    @pytest.mark.parametrize("name", ["plan", "protocols", "table"])
    def test_some_commands_answer_without_a_ledger(
        self,
        gaplab: Gaplab,
        spec: Path,
        table_spec: Path,
        home: Path,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        arguments: dict[str, list[Path]] = {"plan": [spec], "table": [table_spec]}
        for made in (False, True):
            assert gaplab(name, *arguments.get(name, []))
            assert list(home.iterdir()) == [] if made else not home.exists()
            home.mkdir(exist_ok=True)
