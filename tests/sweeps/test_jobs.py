"""Sweeps submitted to a cluster of two nodes with a token, and asked about from outside."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("CHAOS") == "full"
Write = Callable[..., Path]
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FULL, reason="part of `make chaos`"),
]


@pytest.fixture
def cluster(bench: Any, two_nodes: Any) -> Any:
    """Whose commands of `bench` have the token, and no ledger but that of --home."""
    bench.more |= two_nodes.environment
    return two_nodes


def submit(bench: Any, cluster: Any, spec: Path) -> str:
    words = ("--address", cluster.dashboard, "--cluster-home", bench.home)
    with bench.start_bare("submit", spec, *words, "--json") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    job: str = json.loads(out)["job"]
    return job


def ask(bench: Any, cluster: Any, *words: str, code: int = 0) -> str:
    with bench.start_bare(*words, "--address", cluster.dashboard) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == code, out + err
    assert "Traceback" not in out + err
    return str(err if code else out)


def test_a_submitted_sweep_is_followed_and_survives_a_node(
    write_spec: Write, bench: Any, cluster: Any, undisturbed: Any
) -> None:
    spec = write_spec(grid={"seed": [0, 1, 2]}, training={"epochs": 40, "batch": 4}, run=FAST)
    wanted, job = undisturbed(spec), submit(bench, cluster, spec)
    assert job.startswith("small-")
    bench.wait_for(lambda: bench.ready() and len(bench.evaluations()) >= 2)
    assert f"{job}: running" in ask(bench, cluster, "status", job)
    cluster("kill", "second")
    said = ask(bench, cluster, "logs", job, "--follow")
    assert "poto seed 2: succeeded" in said
    assert "(raylet)" not in said
    assert f"{job}: succeeded" in ask(bench, cluster, "status")
    assert "has already ended (SUCCEEDED)" in ask(bench, cluster, "cancel", job)
    assert bench.metrics() == wanted
    assert set(bench.states()) == {"succeeded"}
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert token not in said
    for path in bench.home.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


FAST = {"lease_seconds": 5, "backoff_seconds": 0.2}


def test_a_cancelled_job_saves_what_it_has(
    write_spec: Write, bench: Any, cluster: Any, undisturbed: Any
) -> None:
    spec = write_spec(grid={"seed": [0, 1]}, training={"epochs": 60, "batch": 4}, run=FAST)
    wanted, job = undisturbed(spec), submit(bench, cluster, spec)
    bench.wait_for(lambda: bench.ready() and len(bench.evaluations()) >= 2)
    assert f"{job}: stopping" in ask(bench, cluster, "cancel", job)
    bench.wait_for(lambda: "running" not in bench.states())
    assert {each.state for each in bench.attempts()} <= {"preempted", "interrupted", "succeeded"}
    bench.gaplab("resume", "--address", cluster.address)
    assert bench.metrics() == wanted


def test_who_has_no_token_or_another_one_is_told_what_to_set(
    write_spec: Write, bench: Any, cluster: Any, tmp_path: Path
) -> None:
    spec = write_spec()
    (tmp_path / "token").write_text("0" * 64)
    bench.more["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    assert_one_line(ask(bench, cluster, "status", code=2), "RAY_AUTH_TOKEN_PATH")
    said = bench.gaplab("run", spec, "--address", cluster.address, code=2)
    ours = [line for line in said.splitlines() if "gcs_client.cc" not in line]  # Ray's C++ side
    assert_one_line("\n".join(ours), "RAY_AUTH_TOKEN_PATH")
    bench.more = {}
    assert_one_line(ask(bench, cluster, "status", code=2), "RAY_AUTH_MODE is not set here")
    assert bench.states() == {}


def assert_one_line(said: str, what: str) -> None:
    assert what in said
    assert len(said.splitlines()) == 1
