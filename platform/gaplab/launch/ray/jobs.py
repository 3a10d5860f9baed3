"""Ray Jobs: drivers that run on the cluster, so that the submitting machine may be switched off."""

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
from gaplab.launch.ray.address import dashboard_problem
from gaplab.launch.ray.private import UPLOAD_LOGGERS, log_level
from gaplab.trial.provenance import ROOTS

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
"""States of a job that has ended."""
_MARK = "gaplab_sweep"
"""Metadata key of gaplab's jobs; the value is the name of the sweep."""
_POLL = 1.0
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class JobRequest:
    """What a job is to do: run a sweep.

    Attributes:
        name: name of the sweep.
        spec: the complete spec in YAML.
        home: the home folder on the cluster, which all its nodes share.
    """

    name: str
    spec: str
    home: str


@dataclass(frozen=True)
class Job:
    """A driver on the cluster, as Ray Jobs reports it.

    Attributes:
        id: the submission id.
        sweep: name of the sweep.
        state: PENDING, RUNNING or one of ENDED.
        message: what Ray says about the state.
    """

    id: str
    sweep: str
    state: str
    message: str


class Jobs:
    """A client of the Jobs API of a cluster.

    A token is read from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH when RAY_AUTH_MODE is
    `token`; it is never an argument. Every method raises UserError if the cluster reports an error.

    Args:
        address: the dashboard of the cluster, `http://HEAD:8265`.
    """

    def __init__(self, address: str) -> None:
        if problem := dashboard_problem(address):
            raise UserError(f"--address {address}: {problem}")
        self._address = address
        from ray.exceptions import RayError  # slow to import
        from ray.job_submission import JobSubmissionClient

        self._errors = (RayError, ConnectionError, RuntimeError, ValueError, OSError)
        self._client = self._call(lambda: JobSubmissionClient(address))

    def submit(self, request: JobRequest) -> str:
        """Ship the code and the spec, start a driver with them, and return the id of the job."""
        identity = f"{request.name}-{secrets.token_hex(4)}"
        run = ["gaplab", "run", "spec.yaml", "--address", "auto", "--home", request.home]
        with tempfile.TemporaryDirectory(prefix="gaplab-submit-") as folder:
            (Path(folder) / "spec.yaml").write_text(request.spec)
            environment = {
                "working_dir": folder,
                "py_modules": [str(root) for root in ROOTS],
                "excludes": ["__pycache__"],
                "env_vars": _ENVIRONMENT,
            }
            self._call(
                lambda: self._client.submit_job(
                    entrypoint=f"python -m {shlex.join(run)}",
                    submission_id=identity,
                    runtime_env=environment,
                    metadata={_MARK: request.name},
                )
            )
        return identity

    def all(self) -> list[Job]:
        """Return the jobs of gaplab on this cluster, newest first."""
        found = self._call(self._client.list_jobs)
        ours = [each for each in found if _MARK in (each.metadata or {}) and each.submission_id]
        return [_job(each) for each in sorted(ours, key=lambda job: -(job.start_time or 0))]

    def find(self, text: str) -> Job:
        """Return a job by its id, a unique prefix of it, or the name of its sweep (the newest)."""
        known = self.all()
        named = [job for job in known if text in (job.id, job.sweep)][:1]
        found = named or [job for job in known if job.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(job.id for job in (found or known)[:5]) or "none"
        what = "several jobs start with this" if found else "gaplab has no such job there"
        raise UserError(f"job {text!r}: {what} (jobs: {names}) at {self._address}")

    def logs(self, job: Job) -> str:
        """Return what the driver has printed so far."""
        return str(self._call(lambda: self._client.get_job_logs(job.id)))

    def follow(self, job: Job) -> Iterator[str]:
        """Yield what the driver prints, until it ends."""
        length = 0
        while True:
            state = self.find(job.id).state
            text = self.logs(job)
            yield text[length:]
            length = len(text)
            if state in ENDED:
                return
            time.sleep(_POLL)

    def stop(self, job: Job) -> bool:
        """Stop the driver with SIGTERM, then SIGKILL. Returns False if it had already ended."""
        return bool(self._call(lambda: self._client.stop_job(job.id)))

    def _call(self, action: Callable[[], Any]) -> Any:
        """Return what `action` returns; Ray's errors become a UserError of one line."""
        try:
            with log_level(logging.WARNING, *UPLOAD_LOGGERS):
                return action()
        except self._errors as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--address {self._address}: {first}{_advice(str(error))}") from error


def _job(details: Any) -> Job:
    state, message = str(details.status.value), (details.message or "").strip()
    return Job(details.submission_id, details.metadata[_MARK], state, " ".join(message.split()))


def _advice(text: str) -> str:
    """Return a remedy to append to an error about authentication; empty for other errors."""
    if "401" in text or "403" in text or "authenticat" in text.lower():
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        return (
            f"; RAY_AUTH_MODE is {mode} here: set it to token and RAY_AUTH_TOKEN_PATH to the file "
            "of the cluster's token"
        )
    return ""
