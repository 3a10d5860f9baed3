"""The home folder."""

from pathlib import Path

import pytest

from gaplab.errors import UserError
from gaplab.storage.home import Home, open_home


def test_the_folder_is_created(tmp_path: Path) -> None:
    assert Home(tmp_path / "a" / "b").path.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be created"):
        Home(tmp_path / "file" / "home")


def test_the_ledger_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    assert Home(tmp_path).ledger_url == f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("GAPLAB_LEDGER", "postgresql+psycopg://somewhere/else")
    assert Home(tmp_path).ledger_url == "postgresql+psycopg://somewhere/else"


def test_commands_name_the_folder_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GAPLAB_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Home(Path(".gaplab")).command("resume", "x-1") == "gaplab resume x-1"
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv/bin/gaplab")])
    assert Home(Path(".gaplab")).command("ui") == ".venv/bin/gaplab ui"
    monkeypatch.setattr("sys.argv", ["/opt/env/bin/gaplab"])
    assert Home(Path(".gaplab")).command("ui") == "/opt/env/bin/gaplab ui"
    monkeypatch.setattr("sys.argv", ["-c"])
    other = Home(tmp_path / "other")
    assert other.command("resume", "x-1") == f"gaplab resume x-1 --home {tmp_path}/other"


def test_commands_name_another_folder_than_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["-c"])
    monkeypatch.setenv("GAPLAB_HOME", str(tmp_path / "mine"))
    assert Home(tmp_path / "mine").command("resume", "x-1") == "gaplab resume x-1"
    other = Home(tmp_path / "other")
    assert other.command("resume", "x-1") == f"gaplab resume x-1 --home {tmp_path}/other"


def test_the_default_is_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GAPLAB_HOME", raising=False)
    assert open_home().path == tmp_path / ".gaplab"
    monkeypatch.setenv("GAPLAB_HOME", str(tmp_path / "mine"))
    assert open_home().path == tmp_path / "mine"
    assert open_home(tmp_path / "other").path == tmp_path / "other"
