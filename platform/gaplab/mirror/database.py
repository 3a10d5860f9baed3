"""MLflow's database in the home folder: how it is created, checked and locked. No MLflow."""

import fcntl
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from gaplab.errors import UserError
from gaplab.mirror.environment import WORKING_DIRECTORY, clean_environment, last_line
from gaplab.storage.home import Home, mlflow_url

SCHEME = "mlflow-artifacts:"
"""Start of the addresses of files: MLflow's server looks them up in the folder that it serves."""
_BUSY_SECONDS = 10.0  # how long to wait for another program's transaction
_RELATIVE = (
    "UPDATE experiments SET artifact_location = :scheme || substr(artifact_location, "
    "instr(artifact_location, :folder) + :length) "
    "WHERE artifact_location LIKE 'file:%' AND instr(artifact_location, :folder) > 0",
    "UPDATE runs SET artifact_uri = :scheme || substr(artifact_uri, "
    "instr(artifact_uri, :folder) + :length) "
    "WHERE artifact_uri LIKE 'file:%' AND instr(artifact_uri, :folder) > 0",
)
"""Replace the absolute addresses `file:///HOME/mlflow-artifacts/...` of earlier versions."""


@contextmanager
def exclusive_access(home: Home, sweep: str = "") -> Iterator[None]:
    """Lock MLflow's database of `home` against other processes of gaplab; create it if necessary.

    Waits for a process that holds the lock.

    Args:
        home: the home folder.
        sweep: the sweep to name in the command that an error suggests; empty: all sweeps.

    Raises:
        UserError: the database cannot be created, is not a database, is read-only, or has been
            locked by another program for more than ten seconds.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context((home.path / "mlflow.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
            _ensure_database(home.mlflow_path)
        except (sqlite3.Error, OSError, _MigrationError) as error:
            raise mirror_error(home, str(error), sweep) from error
        yield


def mirror_error(home: Home, why: str, sweep: str) -> UserError:
    """Return the error for a failure of MLflow or its database: one line that says what to do."""
    return UserError(
        f"{home.mlflow_path}: {' '.join(why.split()):.300}; it is only a copy of the ledger: "
        f"repair or delete it, then run `{home.command('mirror', sweep)}`"
    )


class _MigrationError(Exception):
    pass


def _ensure_database(path: Path) -> None:
    if not path.exists():
        _create(path)
    # Checked here, because MLflow would retry for minutes on a file that it cannot use.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", _BUSY_SECONDS, uri=True)) as database:
        database.execute("BEGIN IMMEDIATE")
        folder = "/mlflow-artifacts"
        values = {"scheme": SCHEME, "folder": f"{folder}/", "length": len(folder)}
        for statement in _RELATIVE:
            database.execute(statement, values)
        database.commit()


def _create(path: Path) -> None:
    """Run MLflow's migrations on another file, then rename it: they cannot be resumed if killed."""
    new = path.with_name(f"{path.name}.new")
    for leftover in (new, new.with_name(f"{new.name}-journal")):
        leftover.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "mlflow", "db", "upgrade", mlflow_url(new)]
    environment = clean_environment()
    done = subprocess.run(
        command, env=environment, cwd=WORKING_DIRECTORY, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise _MigrationError(f"MLflow can't create it ({last_line(done.stderr)})")
    new.replace(path)
