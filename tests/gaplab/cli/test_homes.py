"""What commands do with `--home`, and with variables of Ray and MLflow that they do not use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.cli.environment import ignored
from gaplab.cli.mlflow import writable_copy
from gaplab.ledger import Ledger
from gaplab.storage.home import Home

Gaplab = Callable[..., str]
OPENERS = (
    *(("leaderboard",), ("compare",), ("show",), ("show", "x"), ("status",), ("logs", "x")),
    *(("explain", "x"), ("export", "out"), ("resume",), ("cancel", "x"), ("reevaluate", "x")),
    *(("mirror",), ("ui",)),
)
"""Commands, with their arguments, that need a ledger."""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", OPENERS, ids=" ".join)
class TestWrongHomes:
    def test_a_mistyped_home_is_named_and_not_created(
        self, gaplab: Gaplab, tmp_path: Path, words: tuple[str, ...]
    ) -> None:
        said = gaplab(*words, "--home", "tpyo", code=2)
        assert said.startswith(f"gaplab: --home {tmp_path}/tpyo: no such folder; correct the path")
        assert said.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_without_a_ledger(
        self, gaplab: Gaplab, tmp_path: Path, words: tuple[str, ...]
    ) -> None:
        (tmp_path / "empty").mkdir()
        said = gaplab(*words, "--home", "empty", code=2)
        assert said.startswith(f"gaplab: --home {tmp_path}/empty: holds no ledger; correct the")
        assert list((tmp_path / "empty").iterdir()) == []

    def test_an_address(self, gaplab: Gaplab, tmp_path: Path, words: tuple[str, ...]) -> None:
        said = gaplab(*words, "--home", "s3://bucket/x", code=2)
        assert said.startswith("gaplab: --home s3://bucket/x: is an address, but a home is a fold")
        assert "is empty; give" in gaplab(*words, "--home", "", code=2)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--home", "--cluster-home"])
def test_sweeps_do_not_start_at_an_address(
    gaplab: Gaplab, write_spec: Callable[..., Path], tmp_path: Path, option: str
) -> None:
    command = "run" if option == "--home" else "submit"
    words = [command, write_spec(), option, "s3://bucket/x"]
    words += ["--address", "http://127.0.0.1:1"] if command == "submit" else []
    assert gaplab(*words, code=2).startswith(f"gaplab: {option} s3://bucket/x: is an address")
    assert [each.name for each in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("environ", "address", "starts"),
    [
        ({}, "local", []),
        ({"RAY_ADDRESS": "", "MLFLOW_TRACKING_URI": ""}, "local", []),
        ({"RAY_ADDRESS": "head:1"}, None, []),
        ({"RAY_ADDRESS": "head:1"}, "auto", []),
        ({"RAY_ADDRESS": "head:1"}, "head:1", []),
        ({"RAY_ADDRESS": "head:1"}, "local", ["RAY_ADDRESS is ignored: this command uses a clus"]),
        ({"RAY_ADDRESS": "head:1"}, "b:1", ["RAY_ADDRESS is ignored: this command uses --addres"]),
        (
            {"RAY_ADDRESS": "head:1", "MLFLOW_TRACKING_URI": "http://me:hunter2@host"},
            "local",
            ["MLFLOW_TRACKING_URI is ignored: runs are copied to /x/mlflow.db; ", "RAY_ADDRESS is"],
        ),
    ],
)
def test_variables_that_have_no_effect(
    environ: dict[str, str], address: str | None, starts: list[str]
) -> None:
    lines = list(ignored(environ, Home(Path("/x")), address))
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert "hunter2" not in "".join(lines)


def test_the_mlflow_of_the_home_is_not_ignored() -> None:
    home = Home(Path("/x"))
    assert list(ignored({"MLFLOW_TRACKING_URI": home.mlflow_uri}, home, None)) == []


def test_pages_of_a_home_that_may_not_be_written_are_made_elsewhere(
    gaplab: Gaplab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the permission is simulated."""
    home = Home(tmp_path / "home").create()
    Ledger.open(home.ledger_url).close()
    before = sorted(home.path.iterdir())
    with writable_copy(home) as same:
        assert same is home
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with writable_copy(home) as other:
        assert home.path not in (other.path, *other.path.parents)
        assert other.path.is_dir()
    assert not other.path.exists()
    said = gaplab("mirror", "--home", home.path, code=2)
    assert said.startswith(f"gaplab: --home {home.path}: you have no permission to write MLflow's")
    assert sorted(home.path.iterdir()) == before
