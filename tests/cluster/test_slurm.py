"""The batch script: its options, and its behaviour with stand-ins for Slurm and Ray."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

SBATCH = """
account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint
container contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline
delay-boot dependency distribution error exclude exclusive export export-file extra-node-info
get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags
hint hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodefile nodelist nodes
ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit
oversubscribe parsable partition power prefer priority profile propagate qos quiet reboot requeue
reservation segment signal sockets-per-node spread-job switches test-only thread-spec
threads-per-core time time-min tmp tres-per-task uid use-min-nodes verbose wait wait-all-nodes wckey
wrap
"""
"""Long options of sbatch (Slurm 24.11)."""

STAND_INS = {
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "ray": 'echo "$@" >"$LOG/ray"; while [[ $1 != -- ]]; do shift; done; shift; exec "$@"',
    "gaplab": (
        'echo "$@" >"$LOG/gaplab"; cp "$RAY_AUTH_TOKEN_PATH" "$LOG/token"; '
        'trap \'echo stopped >"$LOG/driver"; exit 130\' TERM; echo running >"$LOG/driver"; '
        'while [[ $BUSY == yes ]]; do sleep 0.1; done; exit "$CODE"'
    ),
    "scontrol": 'echo "$@" >>"$LOG/scontrol"; echo "JobId=7 JobState=$STATE Requeue=1"',
    "hostname": "echo 192.0.2.7 198.51.100.7",
}

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def script(cluster: Path) -> Path:
    return cluster / "slurm" / "sweep.sbatch"


@pytest.fixture
def start(script: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the script as Slurm would.

    `gaplab run` exits with CODE; if BUSY is yes, it runs until it is stopped.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        write_program(programs / name, body)
    jobs: list[subprocess.Popen[bytes]] = []

    def start(**settings: str) -> "subprocess.Popen[bytes]":
        given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4"}
        given |= {"GAPLAB_HOME": str(tmp_path / "home"), "LOG": str(tmp_path), "STATE": "RUNNING"}
        given |= {"CODE": "0", "BUSY": "no"}
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        environment = os.environ | given | settings | path
        command = ["bash", str(script), "spec.yaml", "--profile", "paper"]
        jobs.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return jobs[-1]

    yield start
    for job in jobs:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def wait_for(job: "subprocess.Popen[bytes]", *files: Path) -> None:
    """Wait until every file has content; fail if the job ends before."""
    while not all(file.exists() and file.stat().st_size for file in files):
        assert job.poll() is None, f"ended with {job.returncode}"
        time.sleep(0.05)


def directives(script: Path) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE)
    return dict(found)


def test_every_directive_is_an_option_of_sbatch(script: Path) -> None:
    text = script.read_text()
    assert len(directives(script)) == text.count("#SBATCH") > 8
    assert directives(script).keys() <= set(SBATCH.split())


def test_only_the_script_is_signalled_and_the_job_can_be_requeued(script: Path) -> None:
    found = directives(script)
    assert found["signal"] == "B:TERM@120"
    assert "requeue" in found
    assert "exclusive" in found  # the final `ray stop` ends all Ray processes of the user
    assert found["ntasks-per-node"] == "1"
    assert found["open-mode"] == "append"


def test_programs_have_the_options(script: Path, check_flags: Callable[[str, str], None]) -> None:
    text = script.read_text().replace("\\\n", " ")
    call = re.search(r" ray symmetric-run (.*?) -- ", text)
    assert call is not None
    own, started = call[1].split(" --num-cpus")
    check_flags("ray symmetric-run", f" {own}")
    check_flags("ray start", f" --num-cpus{started}")
    check_flags("gaplab run", ' "$@" --address "$ADDRESS"')


def test_a_finished_sweep_ends_the_job_with_success(start: Start, tmp_path: Path) -> None:
    assert start().wait() == 0
    assert (tmp_path / "gaplab").read_text().split() == [
        *("run", "spec.yaml", "--profile", "paper", "--address", "192.0.2.7:20007")
    ]
    assert "--address 192.0.2.7:20007 --min-nodes 2 --num-cpus=4" in (tmp_path / "ray").read_text()
    assert not (tmp_path / "scontrol").exists()


def test_each_job_has_a_new_token_that_is_deleted_at_the_end(start: Start, tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        start().wait()
        tokens.append((tmp_path / "token").read_text())
        assert (tmp_path / "token").stat().st_mode & 0o077 == 0
    assert len(tokens[0]) == 64
    assert tokens[0] != tokens[1]
    assert list((tmp_path / "home").rglob("token")) == []
    assert tokens[0] not in (tmp_path / "ray").read_text()


def test_failed_trials_fail_the_job_without_a_requeue(start: Start, tmp_path: Path) -> None:
    assert start(CODE="1").wait() == 1
    assert not (tmp_path / "scontrol").exists()


def test_a_cluster_that_does_not_start_fails_the_job(start: Start, tmp_path: Path) -> None:
    """`ray symmetric-run` exits with 0 in that case."""
    write_program(tmp_path / "bin" / "ray", "exit 0")
    assert start().wait() == 1


def test_a_signal_stops_the_driver_and_requeues_the_job(start: Start, tmp_path: Path) -> None:
    job = start(BUSY="yes")
    wait_for(job, tmp_path / "driver", tmp_path / "home/slurm/7/driver")
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 130
    assert (tmp_path / "driver").read_text() == "stopped\n"
    assert "requeue 7" in (tmp_path / "scontrol").read_text()


def test_a_signal_before_the_driver_is_known_stops_the_step(start: Start, tmp_path: Path) -> None:
    """The driver's file exists, but its process id has not been written yet."""
    body = (
        ': >"$RUN/driver"; trap \'echo stopped >"$LOG/step"; exit 143\' TERM; '
        'echo running >"$LOG/step"; while true; do sleep 0.1; done'
    )
    write_program(tmp_path / "bin" / "ray", body)
    job = start()
    wait_for(job, tmp_path / "step")
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 1
    assert (tmp_path / "step").read_text() == "stopped\n"
    assert "requeue 7" in (tmp_path / "scontrol").read_text()


@pytest.mark.parametrize("state", ["PREEMPTED", "CANCELLED", "COMPLETING"])
def test_a_job_that_slurm_requeues_itself_is_not_requeued_again(
    start: Start, tmp_path: Path, state: str
) -> None:
    job = start(BUSY="yes", STATE=state)
    wait_for(job, tmp_path / "driver", tmp_path / "home/slurm/7/driver")
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 130
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_a_home_folder_is_required(start: Start) -> None:
    assert start(GAPLAB_HOME="").wait() != 0
