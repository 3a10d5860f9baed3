"""Commands run in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.cli import main


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of commands."""
    return tmp_path / "home"


@pytest.fixture
def gaplab(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command line in this process; standard output, or standard error for a failure."""
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
