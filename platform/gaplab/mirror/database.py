"""MLflow's database under the home folder: made whole, checked and locked. Imports no MLflow."""

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from gaplab.errors import UserError
from gaplab.storage.home import Home

_PATIENCE = 10.0  # seconds to wait for another program's transaction
_OWN = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
NEUTRAL = Path("/")
"""The working directory of programs of MLflow. Python imports from there, and whoever may write
into a shared home folder must not choose what it imports."""


def environment() -> dict[str, str]:
    """The environment for programs of MLflow: without a person's own settings of it.

    Telemetry and the server's job runner are off.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
    return kept | _OWN


@contextmanager
def turn(home: Home, sweep: str = "") -> Iterator[None]:
    """Hold MLflow's database of `home` alone, made if need be; waits for whoever holds it.

    sweep: what a person would replay after a failure; all of them if empty. Raises UserError when
    the database can't be made, is none, is read-only, or is locked for longer than ten seconds.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context((home.path / "mlflow.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
            _ensure_database(Path(home.mlflow_uri.removeprefix("sqlite:///")))
        except (sqlite3.Error, OSError, _MigrationError) as error:
            raise broken(home, str(error), sweep) from error
        yield


def broken(home: Home, why: str, sweep: str) -> UserError:
    """The error to raise when MLflow or its database fails: one line that says how to go on."""
    return UserError(
        f"{home.mlflow_uri}: {' '.join(why.split()):.300}; it only mirrors the ledger: mend it or "
        f"delete it, then `{home.command('mirror', sweep)}`"
    )


def last_line(log: str) -> str:
    """The last line of `log` that says something."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


class _MigrationError(Exception):
    pass


def _ensure_database(path: Path) -> None:
    if not path.exists():
        _create(path)
    # MLflow itself would try for minutes before it gave up on a file it can't use.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", _PATIENCE, uri=True)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _create(path: Path) -> None:
    """Run MLflow's migrations beside `path` and rename: they can't be resumed when killed."""
    new = path.with_name(f"{path.name}.new")
    for leftover in (new, new.with_name(f"{new.name}-journal")):
        leftover.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "mlflow", "db", "upgrade", f"sqlite:///{new}"]
    done = subprocess.run(command, env=environment(), cwd=NEUTRAL, capture_output=True, text=True)
    if done.returncode != 0:
        raise _MigrationError(f"MLflow can't make it ({last_line(done.stderr)})")
    new.replace(path)
