"""Ray Jobs: a driver that runs on the cluster; the machine it was started from may leave."""

import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaplab.errors import UserError
from gaplab.trial.provenance import ROOTS

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_MARK = "gaplab_sweep"
_POLL = 1.0
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""Loggers of Ray that tell of every file that is shipped."""


@dataclass(frozen=True)
class Order:
    """What a job is to do: train the sweep that `spec` (YAML, complete) stands for.

    name: of the sweep; home: the folder on the cluster that all its nodes share.
    """

    name: str
    spec: str
    home: str


@dataclass(frozen=True)
class Job:
    """A driver on the cluster, as Ray Jobs knows it. state: PENDING, RUNNING or one of ENDED."""

    id: str
    sweep: str
    state: str
    message: str


class Jobs:
    """The Jobs API of the cluster whose dashboard is at `address` (http://head:8265).

    A token is read from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH when RAY_AUTH_MODE is
    `token`; it is in no argument. Every method raises UserError where the cluster says no.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise UserError(
                f"--address {address}: not a dashboard; write it as http://HEAD:8265 (an address "
                "of Ray itself, HOST:6379, is for `gaplab run`)"
            )
        self._address = address
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient

        self._errors = (RayError, ConnectionError, RuntimeError, ValueError, OSError)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = self._asked(lambda: JobSubmissionClient(address))

    def submit(self, order: Order) -> str:
        """Ship the code and the spec and start a driver with them; the job's id."""
        identity = f"{order.name}-{secrets.token_hex(4)}"
        run = ["gaplab", "run", "spec.yaml", "--address", "auto", "--home", order.home]
        with tempfile.TemporaryDirectory(prefix="gaplab-submit-") as folder:
            (Path(folder) / "spec.yaml").write_text(order.spec)
            environment = {
                "working_dir": folder,
                "py_modules": [str(root) for root in ROOTS],
                "excludes": ["__pycache__"],
                "env_vars": _ENVIRONMENT,
            }
            self._asked(
                lambda: self._client.submit_job(
                    entrypoint=f"python -m {shlex.join(run)}",
                    submission_id=identity,
                    runtime_env=environment,
                    metadata={_MARK: order.name},
                )
            )
        return identity

    def all(self) -> list[Job]:
        """The jobs of gaplab on this cluster, newest first."""
        found = self._asked(self._client.list_jobs)
        ours = [each for each in found if _MARK in (each.metadata or {}) and each.submission_id]
        return [_job(each) for each in sorted(ours, key=lambda job: -(job.start_time or 0))]

    def find(self, text: str) -> Job:
        """The job whose id is `text` or begins so, or the newest of the sweep of that name."""
        known = self.all()
        named = [job for job in known if text in (job.id, job.sweep)][:1]
        found = named or [job for job in known if job.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(job.id for job in (found or known)[:5]) or "none"
        what = "begins several jobs" if found else "no such job of gaplab there"
        raise UserError(f"job {text!r}: {what} ({names}) at {self._address}")

    def logs(self, job: Job) -> str:
        """What the driver has printed so far."""
        return str(self._asked(lambda: self._client.get_job_logs(job.id)))

    def follow(self, job: Job) -> Iterator[str]:
        """What the driver prints, until it ends."""
        seen = 0
        while True:
            state = self.find(job.id).state
            text = self.logs(job)
            yield text[seen:]
            seen = len(text)
            if state in ENDED:
                return
            time.sleep(_POLL)

    def stop(self, job: Job) -> bool:
        """End the driver, by SIGTERM and soon after SIGKILL; False if it had ended."""
        return bool(self._asked(lambda: self._client.stop_job(job.id)))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._errors as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--address {self._address}: {first}{_advice(str(error))}") from error


def _job(details: Any) -> Job:
    state, message = str(details.status.value), (details.message or "").strip()
    return Job(details.submission_id, details.metadata[_MARK], state, " ".join(message.split()))


def _advice(text: str) -> str:
    if "401" in text or "403" in text or "authenticat" in text.lower():
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        return (
            f"; RAY_AUTH_MODE is {mode} here: set it to token and RAY_AUTH_TOKEN_PATH to the file "
            "of the cluster's token"
        )
    return ""
