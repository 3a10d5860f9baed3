"""The template for two Ray nodes on this machine, with real nodes."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

NODES = """
import sys, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(logging_level="ERROR", log_to_driver=False)
nodes = {}
while nodes.keys() != set(sys.argv[1:]):
    time.sleep(0.25)
    nodes = {node["NodeName"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
task = ray.remote(lambda: ray.get_runtime_context().get_node_id())
ids = list(nodes.values())
ran = ray.get([task.options(scheduling_strategy=On(each, soft=False)).remote() for each in ids])
assert ran == ids
print(*sorted(nodes))
"""
JOB = "import time; open({!r}, 'w').close(); time.sleep(600)"

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]


class TwoNodes:
    """Calls the script with its own folder."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.script, self.folder = script, folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment |= {"GAPLAB_CLUSTER": str(folder), "PYTHON": sys.executable}
        self.environment |= {"OMP_NUM_THREADS": "1", "GAPLAB_TIMEOUT": "900"}

    def call(self, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        environment = self.environment | more
        command = [str(self.script), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def exports(self) -> dict[str, str]:
        output = self.call("env").stdout
        return dict(re.findall(r"^export (\w+)=(\S+)$", output, re.MULTILINE))

    def nodes(self, *expected: str) -> list[str]:
        """Wait until exactly these nodes are alive, run a task on each, and return their names."""
        command = [sys.executable, "-W", "ignore", "-c", NODES, *expected]
        environment = self.environment | self.exports()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()[-1].split()


@pytest.fixture
def two_nodes(cluster: Path) -> Iterator[TwoNodes]:
    folder = Path(tempfile.mkdtemp(prefix="gl", dir="/tmp"))  # paths of sockets must be short
    case = TwoNodes(cluster / "local" / "two_nodes.sh", folder)
    try:
        yield case
    finally:
        case.call("down")
        shutil.rmtree(folder)


def processes(folder: Path) -> list[str]:
    """Return command lines of processes with the folder in command line or environment."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        command, environ = process.info["cmdline"] or [], process.info["environ"] or {}
        named = any(str(folder) in word for word in [*command, *environ.values()])
        if named and process.pid != os.getpid():
            found.append(" ".join(command)[:200])
    return found


def listening(folder: Path) -> set[str]:
    """Return the local addresses where processes of the cluster listen."""
    found = set()
    for process in psutil.process_iter(["cmdline", "net_connections"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            sockets = process.info["net_connections"] or []
            found |= {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    return found


LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_nodes_can_be_lost_and_added_and_no_process_is_left(two_nodes: TwoNodes) -> None:
    done = two_nodes.call("up", "1")
    assert done.returncode == 0, done.stderr
    token = (two_nodes.folder / "token").read_text()
    assert (two_nodes.folder / "token").stat().st_mode & 0o077 == 0
    assert token not in done.stdout + done.stderr
    assert two_nodes.nodes("head", "second") == ["head", "second"]
    assert listening(two_nodes.folder) <= LOOPBACK
    assert len(listening(two_nodes.folder)) >= 1

    started = two_nodes.folder / "started"
    submit(two_nodes, JOB.format(str(started)))
    while not started.exists():
        time.sleep(0.2)
    assert two_nodes.call("kill", "second").returncode == 0
    assert two_nodes.call("add", "third", "2").returncode == 0
    assert two_nodes.nodes("head", "third") == ["head", "third"]
    assert "second not running" in two_nodes.call("status").stdout

    assert two_nodes.call("down").returncode == 0
    assert processes(two_nodes.folder) == []
    assert not (two_nodes.folder / "token").exists()


def submit(two_nodes: TwoNodes, code: str) -> None:
    """Submit a job, which runs in a session of its own and must be stopped by `down`, too."""
    exports = two_nodes.exports()
    script = two_nodes.folder / "job.py"
    script.write_text(code)
    text = (
        "from ray.job_submission import JobSubmissionClient as C; import sys;"
        "C(sys.argv[1]).submit_job(entrypoint=sys.argv[2])"
    )
    entrypoint = f"{sys.executable} {script}"
    command = [sys.executable, "-W", "ignore", "-c", text, exports["RAY_API_SERVER_ADDRESS"]]
    environment = two_nodes.environment | exports
    subprocess.run([*command, entrypoint], env=environment, check=True, capture_output=True)


def test_a_failed_start_leaves_no_process_and_no_token(two_nodes: TwoNodes, tmp_path: Path) -> None:
    without_ray = tmp_path / "python"
    without_ray.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nexit 3\n')
    without_ray.chmod(0o755)
    done = two_nodes.call("up", PYTHON=str(without_ray))
    assert done.returncode == 1
    assert "did not start" in done.stderr
    assert processes(two_nodes.folder) == []
    assert not (two_nodes.folder / "token").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "third"], "no cluster is running"),
        (["kill", "second"], "no node second is running"),
        (["env"], "no cluster is running"),
        (["up", "1", "2"], "two_nodes.sh up"),
        ([], "two_nodes.sh up"),
        (["stop"], "two_nodes.sh up"),
    ],
)
def test_errors_and_usage(two_nodes: TwoNodes, words: list[str], message: str) -> None:
    done = two_nodes.call(*words)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stdout == ""


def test_down_without_up_succeeds(two_nodes: TwoNodes) -> None:
    assert two_nodes.call("down").returncode == 0
    assert two_nodes.call("status").returncode == 1
