"""Sweeps submitted to a cluster of two nodes with a token, and controlled from outside."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sweeps.bench import FULL, TIMEOUT, Bench, Gate, Metrics, TwoNodes

Write = Callable[..., Path]
Undisturbed = Callable[[Path], Metrics]
FAST = {"lease_seconds": 5, "backoff_seconds": 0.2}
pytestmark = [
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(not FULL, reason="part of `make chaos`"),
]


@pytest.fixture
def cluster(bench: Bench, two_nodes: TwoNodes) -> TwoNodes:
    """A cluster whose token the commands of `bench` have."""
    bench.environment |= two_nodes.environment
    return two_nodes


def submit(bench: Bench, cluster: TwoNodes, spec: Path) -> str:
    """Submit a sweep; return the id of the job."""
    words = ("--address", cluster.dashboard, "--cluster-home", bench.home, "--json")
    out, err = bench.call("submit", spec, *words, home=False)
    assert err == ""
    return str(json.loads(out)["job"])


def ask(bench: Bench, cluster: TwoNodes, *words: str, code: int = 0) -> str:
    """Run a command about jobs; return what it printed, for other codes than 0 the error."""
    out, err = bench.call(*words, "--address", cluster.dashboard, code=code, home=False)
    return err if code else out


def test_a_submitted_sweep_is_followed_and_survives_a_node(
    write_spec: Write, bench: Bench, cluster: TwoNodes, gate: Gate, undisturbed: Undisturbed
) -> None:
    spec = write_spec(grid={"seed": [0, 1, 2]}, training={"epochs": 4, "batch": 4}, run=FAST)
    gate.close()
    expected, job = undisturbed(spec), submit(bench, cluster, spec)
    assert job.startswith("small-")
    bench.wait_for_evaluations(2)
    assert f"{job}: running" in ask(bench, cluster, "status", job)
    cluster("kill", "second")
    gate.open()
    logs = ask(bench, cluster, "logs", job, "--follow")
    assert "poto seed 2: succeeded" in logs
    assert "(raylet)" not in logs
    assert f"{job}: succeeded" in ask(bench, cluster, "status")
    assert "has already ended (SUCCEEDED)" in ask(bench, cluster, "cancel", job)
    assert bench.metrics() == expected
    assert set(bench.states()) == {"succeeded"}
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert token not in logs
    for path in bench.home.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


def test_a_cancelled_job_saves_what_it_has(
    write_spec: Write, bench: Bench, cluster: TwoNodes, gate: Gate, undisturbed: Undisturbed
) -> None:
    spec = write_spec(grid={"seed": [0, 1]}, training={"epochs": 4, "batch": 4}, run=FAST)
    gate.close()
    expected, job = undisturbed(spec), submit(bench, cluster, spec)
    bench.wait_for_evaluations(2)
    assert f"{job}: stopping" in ask(bench, cluster, "cancel", job)
    bench.wait_for(lambda: "running" not in bench.states())
    assert {each.state for each in bench.attempts()} <= {"preempted", "interrupted"}
    gate.open()
    bench.gaplab("resume", "--address", cluster.address)
    assert bench.metrics() == expected


def test_without_a_token_or_with_another_one_the_remedy_is_named(
    write_spec: Write, bench: Bench, cluster: TwoNodes, tmp_path: Path
) -> None:
    spec = write_spec()
    (tmp_path / "token").write_text("0" * 64)
    bench.environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    assert_one_line(ask(bench, cluster, "status", code=2), "RAY_AUTH_TOKEN_PATH")
    error = bench.gaplab("run", spec, "--address", cluster.address, code=2)
    ours = [line for line in error.splitlines() if "gcs_client.cc" not in line]  # Ray's C++ side
    assert_one_line("\n".join(ours), "RAY_AUTH_TOKEN_PATH")
    bench.environment = {}
    assert_one_line(ask(bench, cluster, "status", code=2), "RAY_AUTH_MODE is not set here")
    assert bench.states() == {}


def assert_one_line(text: str, part: str) -> None:
    assert part in text
    assert len(text.splitlines()) == 1
