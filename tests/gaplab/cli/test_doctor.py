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
THEIRS = (
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "GAPLAB_LEDGER"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"),
)


@pytest.fixture
def doctor(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command without a person's own settings; its exit code, and what it printed."""
    for name in THEIRS:
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
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else listens here."""
    monkeypatch.setattr("gaplab.cli.doctor.listeners", list)


def problems(run: Run, *words: str) -> list[dict[str, Any]]:
    """The problems, from a run that has some."""
    code, said = run("--json", *words)
    found = json.loads(said)
    assert all(set(each) == {"level", "check", "what", "remedy"} for each in found)
    wrong = [each for each in found if each["level"] == "problem"]
    assert code == bool(wrong)
    return wrong


@pytest.mark.usefixtures("alone")
def test_a_sound_machine_has_exit_code_0_and_nothing_is_made(doctor: Run, home: Path) -> None:
    code, said = doctor()
    assert code == 0
    assert len(said.splitlines()) > 15
    assert {line.split()[0] for line in said.splitlines()} <= {"ok", "warn"}
    assert not home.exists()


@pytest.mark.usefixtures("alone")
def test_a_token_that_others_may_read(doctor: Run, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "ray.token").write_text("x")
    (home / "ray.token").chmod(0o644)
    [found] = problems(doctor)
    assert found["check"] == "token"
    assert f"{home}/ray.token is open to others (mode 0644)" in found["what"]
    assert found["remedy"].startswith(f"chmod 600 {home}/ray.token")
    (home / "ray.token").chmod(0o600)
    assert problems(doctor) == []


@pytest.mark.usefixtures("alone")
def test_a_cluster_without_a_token(doctor: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        words = ("--address", f"127.0.0.1:{listener.getsockname()[1]}")
        assert [each["check"] for each in problems(doctor, *words)] == ["Ray's token"]
    assert [each["check"] for each in problems(doctor, *words)] == ["Ray", "Ray's token"]


def test_an_open_port_is_named(doctor: Run) -> None:
    """One of the usual ports, whichever is free here."""
    for port in (10001, 5001, 8265, 5000, 6379):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("0.0.0.0", port))
            listener.listen()
            assert f"0.0.0.0:{port}, the usual port of" in doctor()[1]
            listener.close()
            assert f"0.0.0.0:{port}, the usual port of" not in doctor()[1]
            return
    pytest.skip("every port that is looked for is taken")
