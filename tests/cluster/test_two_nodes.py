"""Two Ray nodes on this machine, for real: started, killed, joined by another, ended."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NODES = """
import sys, time, ray
ray.init(logging_level="ERROR", log_to_driver=False)
wanted = sorted(sys.argv[1:])
for _ in range(240):
    alive = sorted(node["NodeName"] for node in ray.nodes() if node["Alive"])
    if alive == wanted:
        break
    time.sleep(0.25)
task = ray.remote(lambda: time.sleep(0.5) or ray.get_runtime_context().get_node_id())
places = set(ray.get([task.options(scheduling_strategy="SPREAD").remote() for _ in wanted * 2]))
print(*alive, len(places))
"""
JOB = "import time; open({!r}, 'w').close(); time.sleep(600)"

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("ray")]


class TwoNodes:
    """The script, in a folder of its own."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.script, self.folder = script, folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment |= {"GAPLAB_CLUSTER": str(folder), "PYTHON": sys.executable}
        self.environment |= {"OMP_NUM_THREADS": "1"}

    def call(self, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        environment = self.environment | more
        command = [str(self.script), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)

    def exports(self) -> dict[str, str]:
        said = self.call("env").stdout
        return dict(re.findall(r"^export (\w+)=(\S+)$", said, re.MULTILINE))

    def nodes(self, *wanted: str) -> str:
        """Names of living nodes, once they are as wanted, and on how many of them tasks ran."""
        command = [sys.executable, "-W", "ignore", "-c", NODES, *wanted]
        environment = self.environment | self.exports()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()[-1]


@pytest.fixture
def two_nodes(cluster: Path) -> Iterator[TwoNodes]:
    folder = Path(tempfile.mkdtemp(prefix="gl", dir="/tmp"))  # sockets have short paths
    case = TwoNodes(cluster / "local" / "two_nodes.sh", folder)
    try:
        yield case
    finally:
        case.call("down")
        shutil.rmtree(folder)


def processes(folder: Path) -> list[str]:
    """Command lines that name the folder, and processes that say so in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and int(path.name) != os.getpid():
            found.append(text.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def listening(folder: Path) -> set[str]:
    """Local addresses, in the kernel's notation, where processes of the cluster listen."""
    sockets = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() not in (path / "cmdline").read_bytes():
                continue
            links = [os.readlink(each) for each in (path / "fd").iterdir()]
        except OSError:
            continue
        sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_nodes_come_and_go_and_nothing_is_left(two_nodes: TwoNodes) -> None:
    done = two_nodes.call("up", "1")
    assert done.returncode == 0, done.stderr
    token = (two_nodes.folder / "token").read_text()
    assert (two_nodes.folder / "token").stat().st_mode & 0o077 == 0
    assert token not in done.stdout + done.stderr
    assert two_nodes.nodes("head", "second") == "head second 2"
    assert listening(two_nodes.folder) <= LOOPBACK
    assert len(listening(two_nodes.folder)) >= 1

    started = two_nodes.folder / "started"
    submit(two_nodes, JOB.format(str(started)))
    wait_until(started.exists)
    assert two_nodes.call("kill", "second").returncode == 0
    assert two_nodes.call("add", "third", "2").returncode == 0
    assert two_nodes.nodes("head", "third") == "head third 2"
    assert "second gone" in two_nodes.call("status").stdout

    assert two_nodes.call("down").returncode == 0
    assert processes(two_nodes.folder) == []
    assert not (two_nodes.folder / "token").exists()


def submit(two_nodes: TwoNodes, code: str) -> None:
    """A job outlives its node's session unless `down` looks for it."""
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


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("it never happened")


def test_a_start_that_fails_leaves_nothing(two_nodes: TwoNodes, tmp_path: Path) -> None:
    without_ray = tmp_path / "python"
    without_ray.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nexit 3\n')
    without_ray.chmod(0o755)
    done = two_nodes.call("up", PYTHON=str(without_ray))
    assert done.returncode == 1
    assert "didn't start" in done.stderr
    assert processes(two_nodes.folder) == []
    assert not (two_nodes.folder / "token").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "third"], "is not up"),
        (["kill", "second"], "no node second runs"),
        (["env"], "is not up"),
        (["up", "1", "2"], "two_nodes.sh up"),
        ([], "two_nodes.sh up"),
        (["stop"], "two_nodes.sh up"),
    ],
)
def test_what_can_t_be_done_is_said(two_nodes: TwoNodes, words: list[str], said: str) -> None:
    done = two_nodes.call(*words)
    assert done.returncode != 0
    assert said in done.stderr
    assert done.stdout == ""


def test_down_without_up_is_fine(two_nodes: TwoNodes) -> None:
    assert two_nodes.call("down").returncode == 0
    assert two_nodes.call("status").returncode == 1
