"""Connecting to a cluster leaves the environment as it was. Ray itself is replaced."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

from gaplab.errors import UserError
from gaplab.launch.capacity import Node
from gaplab.launch.ray import cluster as module
from gaplab.launch.ray.address import RayProblem
from gaplab.launch.ray.cluster import LOCAL, changed_environment, cluster

NAMES = ("RAY_", "TUNE_", "GAPLAB_")


def environment() -> dict[str, str]:
    """Read all variables but the one that pytest changes between the phases of a test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@dataclass
class FakeRay:
    """Stands for `ray.init` and `ray.shutdown`; notes the environment of every call."""

    error: Exception | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    at_init: dict[str, str] = field(default_factory=dict)
    at_shutdown: list[dict[str, str]] = field(default_factory=list)
    reloads: list[dict[str, str]] = field(default_factory=list)
    connected: bool = False
    blocked: set[int] = field(default_factory=set)

    def init(self, **arguments: Any) -> None:
        self.arguments, self.at_init = arguments, environment()
        self.blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        os.environ["PYTHONBREAKPOINT"] = "ray.util.rpdb.set_trace"
        if self.error is not None:
            raise self.error

    def shutdown(self) -> None:
        self.at_shutdown.append(environment())

    def is_initialized(self) -> bool:
        return self.connected

    def reload(self) -> None:
        self.reloads.append(environment())

    def nodes(self) -> list[dict[str, Any]]:
        alive = {"Alive": True, "NodeID": "a", "Resources": {"CPU": 2.0}}
        return [alive, alive | {"NodeID": "leaving"}, alive | {"NodeID": "b", "Alive": False}]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    for name in ("init", "shutdown", "nodes", "is_initialized"):
        monkeypatch.setattr(ray, name, getattr(made, name))
    monkeypatch.setattr(module, "reload_settings", made.reload)
    monkeypatch.setattr(module, "draining_nodes", lambda: frozenset({"leaving"}))
    monkeypatch.setattr(module, "cluster_problem", lambda address: None)
    monkeypatch.setattr(module, "is_node", lambda: True)
    monkeypatch.setattr(module, "start_problems", lambda folder: [])
    return made


@pytest.fixture(
    params=[
        {},
        {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/a/token", "GAPLAB_LEDGER": "pg"},
        {"RAY_DEDUP_LOGS": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
    ]
)
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment before the call: only these variables of Ray and gaplab are set."""
    for name in [each for each in os.environ if each.startswith(NAMES)]:
        monkeypatch.delenv(name)
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return environment()


@pytest.mark.parametrize(
    "address", [LOCAL, "127.0.0.1:6379", "localhost:6379", "[::1]:6379", "head:6379"]
)
def test_the_environment_is_restored(
    fake: FakeRay, before: dict[str, str], tmp_path: Path, address: str
) -> None:
    with cluster(address, tmp_path) as nodes:
        inside = environment()
    assert environment() == before
    assert nodes == (Node(2.0, 0.0),)
    assert fake.at_shutdown == [inside], "settings stay until Ray has shut down"
    set_by_ray = {"PYTHONBREAKPOINT"}
    settings = {name: value for name, value in inside.items() if name not in set_by_ray}
    assert fake.reloads == [settings, before], "Ray reads its token again, before and after"
    secret = {"GAPLAB_LEDGER"}
    assert fake.at_init == {name: v for name, v in settings.items() if name not in secret}


@pytest.mark.parametrize("address", [LOCAL, "127.0.0.1:6379", "head:6379"])
def test_the_settings_of_a_session(
    fake: FakeRay, before: dict[str, str], tmp_path: Path, address: str
) -> None:
    with cluster(address, tmp_path):
        inside = environment()
    assert inside["RAY_DEDUP_LOGS"] == before.get("RAY_DEDUP_LOGS", "0"), "a given value counts"
    token = tmp_path / "ray.token"
    assert token.exists() == (address == LOCAL)
    expected = {name: value for name, value in before.items() if name.startswith("RAY_AUTH")}
    if address == LOCAL:
        expected = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    assert {name: value for name, value in inside.items() if "RAY_AUTH" in name} == expected
    one_machine = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    given = before.get(one_machine)
    assert inside.get(one_machine) == (given if address == "head:6379" else "0")


@dataclass(frozen=True)
class Situation:
    """An address, and what is true about it and this machine."""

    address: str
    current: str = "10.0.0.1:6379"
    problem: str | None = None
    node: bool = True


@pytest.mark.parametrize(
    ("situation", "line"),
    [
        (
            Situation("auto", current=""),
            "--address auto: no cluster runs on this machine; start one with `ray start --head`, "
            "or give its HOST:PORT",
        ),
        (
            Situation("auto", problem="can't connect; why"),
            "--address auto (10.0.0.1:6379): can't connect; why",
        ),
        (Situation("head:1", problem="can't connect; why"), "--address head:1: can't connect; why"),
        (
            Situation("head:1", node=False),
            "--address head:1: this machine is not a node of the cluster; run `ray start "
            "--address=head:1` here first, or use `gaplab submit`",
        ),
    ],
)
def test_an_address_is_checked_before_ray_connects(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, situation: Situation, line: str
) -> None:
    asked = list[str]()

    def check(address: str) -> str | None:
        asked.append(address)
        return situation.problem

    monkeypatch.setattr(module, "current_cluster", lambda: situation.current)
    monkeypatch.setattr(module, "is_node", lambda: situation.node)
    monkeypatch.setattr(module, "cluster_problem", check)
    with pytest.raises(UserError) as raised, cluster(situation.address, tmp_path):
        pass
    assert raised.value.problems == (line,)
    assert fake.arguments == {}, "Ray would retry for minutes"
    assert set(asked) <= {situation.current, situation.address} - {"auto"}


def test_a_machine_on_which_ray_cannot_start(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [RayProblem("the disk is full", "free some"), RayProblem("no memory", "mount it")]
    monkeypatch.setattr(module, "start_problems", lambda folder: found)
    with pytest.raises(UserError) as raised, cluster(LOCAL, tmp_path):
        pass
    assert raised.value.problems == (
        "--address local: the disk is full; free some",
        "--address local: no memory; mount it",
    )
    assert fake.arguments == {}


# What ray.init of 2.60 raises where processes or folders of a cluster can't be created.
@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("nobody there"),
        RuntimeError("Timed out waiting for file /tmp/ray/session/gcs_server_port"),
        PermissionError(13, "Permission denied", "/tmp/ray"),
        OSError(30, "Read-only file system", "/tmp/ray"),
        OSError(24, "Too many open files"),
        Exception("The current node timed out during startup.\nMore lines"),
        AssertionError(),
    ],
)
@pytest.mark.parametrize(
    ("address", "start", "end"),
    [
        (
            LOCAL,
            "Ray can't start on this machine (",
            "; its logs are in /t/ray/session_latest/logs",
        ),
        ("head:1", "can't connect to a Ray cluster (", " here if it needs a token"),
    ],
)
def test_an_error_of_ray_is_one_line_and_restores_the_environment(
    fake: FakeRay,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
    address: str,
    start: str,
    end: str,
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/t")
    before, fake.error = environment(), error
    with pytest.raises(UserError) as raised, cluster(address, tmp_path):
        pass
    (line,) = raised.value.problems
    reason = (str(error).splitlines() or ["AssertionError"])[0]
    assert line.startswith(f"--address {address}: {start}{reason})")
    assert line.endswith(end)
    assert environment() == before
    assert fake.reloads[-1] == before
    assert fake.at_shutdown == []


def test_a_connection_that_somebody_else_has_opened_is_left_alone(
    fake: FakeRay, before: dict[str, str], tmp_path: Path
) -> None:
    fake.connected = True
    with (
        pytest.raises(UserError, match="connected to a Ray cluster already"),
        cluster(LOCAL, tmp_path),
    ):
        pass
    assert (fake.arguments, fake.reloads, fake.at_shutdown) == ({}, [], [])
    assert environment() == before


def test_an_error_of_the_sweep_restores_the_environment(
    fake: FakeRay, before: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError), cluster(LOCAL, tmp_path):
        raise ZeroDivisionError
    assert environment() == before
    assert len(fake.at_shutdown) == 1


def test_changes_to_other_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLAB_TEST_OTHER", "1")
    with changed_environment({"GAPLAB_TEST_ONE": "1"}):
        monkeypatch.setenv("GAPLAB_TEST_OTHER", "2")
    assert os.environ["GAPLAB_TEST_OTHER"] == "2"
    assert "GAPLAB_TEST_ONE" not in os.environ


def test_a_local_cluster_has_a_private_token_that_stays(fake: FakeRay, tmp_path: Path) -> None:
    with cluster(LOCAL, tmp_path / "home"):
        pass
    token = tmp_path / "home" / "ray.token"
    assert token.stat().st_mode & 0o077 == 0
    text = token.read_text()
    assert len(text) == 64
    with cluster(LOCAL, tmp_path / "home"):
        pass
    assert token.read_text() == text
    assert [each.name for each in token.parent.iterdir()] == ["ray.token"]
    assert fake.arguments["_node_ip_address"] == "127.0.0.1"


def test_processes_of_ray_outlive_a_terminal_that_is_closed(fake: FakeRay, tmp_path: Path) -> None:
    """They inherit the mask, so that they live until the driver has saved its trials."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with cluster(LOCAL, tmp_path):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert fake.blocked == {*before, signal.SIGHUP}


@pytest.mark.parametrize("found", ["127.0.0.1:6379", "10.0.0.1:6379"])
def test_a_cluster_on_loopback_that_auto_finds_is_not_left(
    fake: FakeRay,
    before: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: str,
) -> None:
    """Otherwise Ray would try the machine's own address, on which nobody listens, for minutes."""
    monkeypatch.setattr(module, "current_cluster", lambda: found)
    one_machine = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    with cluster("auto", tmp_path):
        inside = environment()
    expected = "0" if found.startswith("127.") else before.get(one_machine)
    assert fake.at_init.get(one_machine) == expected
    assert fake.reloads[-2].get(one_machine) == expected, "Ray has read it"
    assert fake.at_shutdown == [inside]
    assert environment() == before
