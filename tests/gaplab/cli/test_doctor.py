"""`gaplab doctor` on this machine."""

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gaplab.cli import main

Run = Callable[..., tuple[int, str]]
SETTINGS = (
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "GAPLAB_LEDGER"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"),
)


@pytest.fixture
def doctor(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command without the settings of this user; returns exit code and output."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": tmp_path / "person", "GAPLAB_HOME": home}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["gaplab", "doctor", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert err == ""
        return int(stop.value.code or 0), out

    return run


@pytest.fixture
def no_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what listens on this machine."""
    monkeypatch.setattr("gaplab.cli.doctor.command.listeners", list)


def problems(run: Run, *words: str) -> list[dict[str, Any]]:
    """Run the command with --json and return the problems, which decide the exit code."""
    code, output = run("--json", *words)
    found = json.loads(output)
    assert all(set(each) == {"level", "check", "what", "remedy"} for each in found)
    wrong = [each for each in found if each["level"] == "problem"]
    assert code == bool(wrong)
    return wrong


@pytest.mark.usefixtures("no_listeners")
def test_without_problems_the_exit_code_is_0_and_nothing_is_created(
    doctor: Run, home: Path
) -> None:
    code, output = doctor()
    assert code == 0
    assert len(output.splitlines()) > 15
    assert {line.split()[0] for line in output.splitlines()} <= {"ok", "warn"}
    assert not home.exists()


@pytest.mark.usefixtures("no_listeners")
def test_a_token_that_other_users_can_read(doctor: Run, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "ray.token").write_text("x")
    (home / "ray.token").chmod(0o644)
    [found] = problems(doctor)
    assert found["check"] == "token"
    assert found["what"] == f"other users can access {home}/ray.token (mode 0644)"
    assert found["remedy"].startswith(f"chmod 600 {home}/ray.token")
    (home / "ray.token").chmod(0o600)
    assert problems(doctor) == []


@pytest.mark.usefixtures("no_listeners")
def test_a_cluster_without_a_token(doctor: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        words = ("--address", f"127.0.0.1:{listener.getsockname()[1]}")
        assert [each["check"] for each in problems(doctor, *words)] == ["Ray", "Ray's token"]


def test_an_open_port_is_reported(doctor: Run) -> None:
    """Uses whichever of the usual ports is free on this machine."""
    for port in (10001, 5001, 8265, 5000, 6379):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("0.0.0.0", port))
            listener.listen()
            assert f"0.0.0.0:{port}, the usual port of" in doctor()[1]
            listener.close()
            assert f"0.0.0.0:{port}, the usual port of" not in doctor()[1]
            return
    pytest.skip("all of the usual ports are in use")
