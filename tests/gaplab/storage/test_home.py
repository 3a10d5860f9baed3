"""The home folder."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.engine import URL

from gaplab.errors import UserError
from gaplab.results.opened import open_home
from gaplab.storage.home import Home, check_is_path

ODD = [
    "a b",
    "a?b",
    "a%20b",
    "a%3Fb",
    "a#b",
    "größe",
    "日本",
    "a&b=c",
    "a+b",
    "a'b",
    'a"b',
    "$HOME",
]
"""Names of folders with characters that have a meaning in URLs or in shells."""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GAPLAB_HOME", "GAPLAB_LEDGER"):
        monkeypatch.delenv(name, raising=False)


class TestFolders:
    def test_only_create_creates_the_folder(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "a" / "b")
        with pytest.raises(UserError, match="no such folder"):
            home.check()
        assert home.missing
        assert list(tmp_path.iterdir()) == []
        assert home.create().path.is_dir()
        assert home.check() is home.create()
        assert not home.missing

    def test_a_folder_without_a_ledger(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = Home(tmp_path)
        with pytest.raises(UserError, match=f"^--home {tmp_path}: holds no ledger; correct the"):
            home.check_ledger()
        home.ledger_path.touch()
        assert home.check_ledger() is home
        monkeypatch.setenv("GAPLAB_LEDGER", "postgresql+psycopg://somewhere/else")
        nowhere = Home(tmp_path / "nowhere")
        assert nowhere.check_ledger() is nowhere, "the ledger is elsewhere"

    @staticmethod
    def make_file(path: Path) -> None:
        path.write_text("")

    @staticmethod
    def make_dangling_link(path: Path) -> None:
        path.symlink_to(path.parent / "unmounted")

    @pytest.mark.parametrize(
        ("make", "what"),
        [(make_file, "is a file; give"), (make_dangling_link, "is a link to .*/unmounted, which")],
    )
    def test_what_is_no_folder(
        self, tmp_path: Path, make: Callable[[Path], None], what: str
    ) -> None:
        path = tmp_path / "home"
        make(path)
        for use in (Home.create, Home.check, Home.check_ledger):
            with pytest.raises(UserError, match=f"^--home {path}: {what}"):
                use(Home(path))
        assert sorted(each.name for each in tmp_path.iterdir()) == ["home"]

    def test_a_folder_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        home = Home(tmp_path / "file" / "home")
        with pytest.raises(UserError, match="no such folder"):
            home.check()
        with pytest.raises(UserError, match=r"can't be created \(Not a directory\); choose"):
            home.create()

    def test_a_link_to_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert Home(tmp_path / "link").check().path == tmp_path / "real"


class TestUrls:
    def test_the_ledger_may_be_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert Home(tmp_path).ledger_url == f"sqlite:///{tmp_path}/ledger.db"
        monkeypatch.setenv("GAPLAB_LEDGER", "postgresql+psycopg://somewhere/else")
        assert Home(tmp_path).ledger_url == "postgresql+psycopg://somewhere/else"

    @pytest.mark.parametrize("name", ODD)
    def test_urls_lead_to_the_files_in_the_folder(self, tmp_path: Path, name: str) -> None:
        home = Home(tmp_path / name)
        assert make_url(home.ledger_url) == URL.create("sqlite", database=str(home.ledger_path))
        mlflow = make_url(home.mlflow_uri)
        assert (mlflow.get_backend_name(), mlflow.database) == ("sqlite", str(home.mlflow_path))

    @given(st.lists(st.text(min_size=1).filter(lambda s: "/" not in s and "\0" not in s)))
    def test_urls_of_any_path(self, parts: list[str]) -> None:
        home = Home(Path("/", *parts))
        assert make_url(home.ledger_url).database == f"{str(home.path).rstrip('/')}/ledger.db"

    def test_two_slashes_are_one(self, tmp_path: Path) -> None:
        assert Home(Path(f"/{tmp_path}//a")).path == tmp_path / "a"


@pytest.mark.parametrize("home", ["s3://bucket/x", "gs://b", "file:///x", "http://head/x", "s3:/x"])
def test_addresses_are_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (check_is_path, open_home, lambda each: Home(Path(each))):
        with pytest.raises(UserError, match=r"is an address, but a home is a folder; mount the"):
            use(home)
    assert list(tmp_path.iterdir()) == []


class TestCommands:
    def test_they_name_the_folder_unless_it_is_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert Home(Path(".gaplab")).command("resume", "x-1") == "gaplab resume x-1"
        monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv/bin/gaplab")])
        assert Home(Path(".gaplab")).command("ui", "") == ".venv/bin/gaplab ui"
        monkeypatch.setattr("sys.argv", ["/opt/env/bin/gaplab"])
        assert Home(Path(".gaplab")).command("ui") == "/opt/env/bin/gaplab ui"
        monkeypatch.setattr("sys.argv", ["-c"])
        other = Home(tmp_path / "other")
        assert other.command("resume", "x-1") == f"gaplab resume x-1 --home {tmp_path}/other"

    def test_they_name_another_folder_than_that_of_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.argv", ["-c"])
        monkeypatch.setenv("GAPLAB_HOME", str(tmp_path / "mine"))
        assert Home(tmp_path / "mine").command("resume", "x-1") == "gaplab resume x-1"
        other = Home(tmp_path / "other")
        assert other.command("resume", "x-1") == f"gaplab resume x-1 --home {tmp_path}/other"

    @pytest.mark.parametrize("name", ODD)
    def test_a_shell_reads_the_words_that_were_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr("sys.argv", ["-c"])
        home = Home(tmp_path / name)
        words = shlex.split(home.command("show", "a b"))
        assert words == ["gaplab", "show", "a b", "--home", str(home.path)]
        with pytest.raises(UserError) as error:
            home.check()
        command = str(error.value).partition("start a sweep there with: ")[2]
        assert shlex.split(command) == ["gaplab", "run", "SPEC", "--home", str(home.path)]


def test_the_default_is_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_home().path == tmp_path / ".gaplab"
    monkeypatch.setenv("GAPLAB_HOME", str(tmp_path / "mine"))
    assert open_home().path == tmp_path / "mine"
    assert open_home(tmp_path / "other").path == tmp_path / "other"
    assert sorted(os.listdir(tmp_path)) == [".gaplab", "mine", "other"]


def test_a_home_can_be_opened_without_creating_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_home(tmp_path / "typo", create=False)
    with pytest.raises(UserError, match="holds no ledger"):
        open_home(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the permission is simulated."""
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    assert open_home(tmp_path).path == tmp_path
    with pytest.raises(UserError, match="you have no permission to write there; ask its owner"):
        Home(tmp_path).create()
