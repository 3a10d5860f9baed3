"""How gaplab runs MLflow: without a person's settings of it, which are meant for other servers."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

OWN_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""MLflow's variables that gaplab sets itself: no telemetry, no job runner in the server."""
WORKING_DIRECTORY = Path("/")
"""The working directory of MLflow's programs. Python imports modules from there, and a person who
may write to a shared home folder must not be able to choose them."""


def clean_environment() -> dict[str, str]:
    """Return the environment for MLflow's programs: that of this process with only OWN_SETTINGS."""
    own = _settings()
    return {k: v for k, v in os.environ.items() if k not in own} | OWN_SETTINGS


@contextmanager
def settings_of_mlflow(settings: Mapping[str, str]) -> Iterator[None]:
    """Replace all of MLflow's variables of this process by `settings`; restore them afterwards.

    MLflow reads some of its variables on import (telemetry, logging) and some in each call (pool,
    workspace, active model), and not all can be overridden by arguments. The variables belong to
    the process, so other threads do not see a person's settings either while this is active.
    """
    before = _settings()
    _replace(settings)
    try:
        yield
    finally:
        _replace(before)


def last_line(log: str) -> str:
    """Return the last line of `log` that is not empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _settings() -> dict[str, str]:
    """Return MLflow's variables of this process."""
    return {k: v for k, v in os.environ.items() if k.startswith(("MLFLOW_", "_MLFLOW_"))}


def _replace(wanted: Mapping[str, str]) -> None:
    present = _settings()
    for name in present.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update({k: v for k, v in wanted.items() if present.get(k) != v})
