"""The home folder, which holds the ledger, checkpoints and MLflow's database."""

import os
import re
import shlex
import shutil
import stat
import sys
from pathlib import Path
from typing import Self
from urllib.parse import quote

from gaplab.errors import UserError

DEFAULT_HOME = ".gaplab"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The start of `s3://bucket`, of which `Path` keeps only one slash."""


def default_path() -> Path:
    """Return the path in the environment variable GAPLAB_HOME, or else `.gaplab`."""
    return Path(os.environ.get("GAPLAB_HOME") or DEFAULT_HOME)


class Home:
    """Names of the files in the home folder. Creating an instance touches no file.

    Args:
        path: the folder; a local one, such as a mounted network file system.

    Raises:
        UserError: the path is an address such as `s3://bucket/folder`.
    """

    def __init__(self, path: Path) -> None:
        check_is_path(str(path))
        self._given = Path(os.path.abspath(path.expanduser()))
        self.path = path.expanduser().resolve()

    def create(self) -> Self:
        """Create the folder if it does not exist.

        Raises:
            UserError: the folder can't be created, or may not be written.
        """
        try:
            self._check_link()
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"--home {self._given}: is a file; give a folder") from error
        except OSError as error:
            raise UserError(
                f"--home {self._given}: can't be created ({error.strerror}); choose a folder that "
                "you can write to"
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(
                f"--home {self._given}: you have no permission to write there; ask its owner, or "
                "choose another --home"
            )
        return self

    def check(self) -> Self:
        """Check that the folder exists and may be read.

        Raises:
            UserError: it does not, or is no folder.
        """
        try:
            self._check_link()
            is_folder = stat.S_ISDIR(self.path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._nothing("no such folder") from error
        except OSError as error:
            raise self._unreadable(error.strerror or "unreadable") from error
        if not is_folder:
            raise UserError(f"--home {self._given}: is a file; give the folder that holds a ledger")
        if not os.access(self.path, os.R_OK | os.X_OK):
            raise self._unreadable("Permission denied")
        return self

    def check_ledger(self) -> Self:
        """Check that there is a ledger: in the folder, or at the URL in GAPLAB_LEDGER.

        Raises:
            UserError: the folder can't be read, or holds no ledger.
        """
        if not os.environ.get("GAPLAB_LEDGER"):
            self.check()
            if not self.has_ledger:
                raise self._nothing("holds no ledger")
        return self

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger: a file in the folder, or one that GAPLAB_LEDGER names."""
        return bool(os.environ.get("GAPLAB_LEDGER")) or os.path.exists(self.ledger_path)

    @property
    def missing(self) -> bool:
        """Whether there is nothing at the path, not even a file or a link."""
        return not os.path.lexists(self._given)

    def command(self, *words: str) -> str:
        """Return a command line that the user can type, with `--home` if it is needed.

        Args:
            words: the name of the command and its arguments; empty ones are left out.
        """
        is_default = self.path == default_path().expanduser().resolve()
        home = () if is_default else ("--home", str(self.path))
        return shlex.join([_program(), *(word for word in words if word), *home])

    @property
    def ledger_path(self) -> Path:
        """The file of the ledger, unless GAPLAB_LEDGER names another database."""
        return self.path / "ledger.db"

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger: GAPLAB_LEDGER, or else a SQLite file in this folder."""
        return os.environ.get("GAPLAB_LEDGER") or _sqlite_url(self.ledger_path)

    @property
    def mlflow_path(self) -> Path:
        """MLflow's database. It is a mirror, so it may be deleted."""
        return self.path / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """SQLAlchemy URL of MLflow's database."""
        return mlflow_url(self.mlflow_path)

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder for MLflow's artifacts."""
        return self.path / "mlflow-artifacts"

    def report_path(self, identity: str) -> Path:
        """Return the file of the report of a sweep, or of a set of trials, by its id."""
        return self.path / "reports" / f"{identity}.html"

    def _check_link(self) -> None:
        """Raise UserError for a link to nothing: its target, such as a disk, may come back."""
        if self._given.is_symlink() and not self._given.exists():
            raise UserError(
                f"--home {self._given}: is a link to {self.path}, which does not exist; create "
                "that folder or correct the link"
            )

    def _nothing(self, what: str) -> UserError:
        command = f"gaplab run SPEC --home {shlex.quote(str(self._given))}"
        return UserError(
            f"--home {self._given}: {what}; correct the path, or start a sweep there with: "
            f"{command}"
        )

    def _unreadable(self, why: str) -> UserError:
        return UserError(
            f"--home {self._given}: can't be read ({why}); ask its owner for the permission"
        )


def check_is_path(home: str, option: str = "--home") -> None:
    """Raise UserError if a home folder is given as nothing or as an address such as `s3://x`."""
    if not home:
        raise UserError(f"{option}: is empty; give the path of a folder")
    if _ADDRESS.match(home):
        raise UserError(
            f"{option} {home}: is an address, but a home is a folder; mount the storage and give "
            "the path of a folder there"
        )


def mlflow_url(path: Path) -> str:
    """Return the URL of MLflow's SQLite file for SQLAlchemy and MLflow.

    MLflow takes what follows `sqlite:///` for a path, and creates its folder with the escapes.
    """
    url = _sqlite_url(path)
    return url if url.endswith(str(path)) else url.replace("sqlite:", "sqlite+pysqlite:", 1)


def _sqlite_url(path: Path) -> str:
    """Return SQLAlchemy's URL of a SQLite file; special characters of the path are escaped."""
    return f"sqlite:///{quote(str(path))}"


def _program() -> str:
    """Return how gaplab was called: by name if the shell finds it, otherwise by its path."""
    called = Path(sys.argv[0])
    if called.name != "gaplab" or shutil.which("gaplab") == str(called):
        return "gaplab"
    relative = os.path.relpath(called)
    return str(called) if relative.startswith("..") else relative
