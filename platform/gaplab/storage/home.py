"""The home folder, which holds the ledger, checkpoints and MLflow's database."""

import os
import shutil
import sys
from pathlib import Path

from gaplab.errors import UserError

DEFAULT_HOME = ".gaplab"


def default_path() -> Path:
    """Return the path in the environment variable GAPLAB_HOME, or else `.gaplab`."""
    return Path(os.environ.get("GAPLAB_HOME", DEFAULT_HOME))


class Home:
    """Names of the files in the home folder. Creating an instance creates the folder.

    Raises:
        UserError: if the folder can't be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--home {path}: can't be created ({error.strerror})") from error

    def command(self, name: str, rest: str = "") -> str:
        """Return a command line that the user can type, with `--home` if it is needed."""
        is_default = self.path == default_path().expanduser().resolve()
        words = (_program(), name, rest, "" if is_default else f"--home {self.path}")
        return " ".join(word for word in words if word)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger: GAPLAB_LEDGER, or else a SQLite file in this folder."""
        return os.environ.get("GAPLAB_LEDGER") or f"sqlite:///{self.path / 'ledger.db'}"

    @property
    def mlflow_uri(self) -> str:
        """SQLAlchemy URL of MLflow's database. It is a mirror, so it may be deleted."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder for MLflow's artifacts."""
        return self.path / "mlflow-artifacts"


def open_home(path: str | os.PathLike[str] | None = None) -> Home:
    """Open the folder that holds the ledger, checkpoints and MLflow's data.

    Args:
        path: the folder, created if it does not exist. None: the environment variable
            GAPLAB_HOME, or else `.gaplab` in the working directory.

    Returns:
        The home folder. `Ledger.open(home.ledger_url)` opens its ledger.

    Raises:
        UserError: the folder can't be created.

    Examples:
        >>> import gaplab
        >>> home = gaplab.open_home("results/first")
        >>> home.path.name
        'first'
    """
    return Home(default_path() if path is None else Path(path))


def _program() -> str:
    """Return how gaplab was called: by name if the shell finds it, otherwise by its path."""
    called = Path(sys.argv[0])
    if called.name != "gaplab" or shutil.which("gaplab") == str(called):
        return "gaplab"
    relative = os.path.relpath(called)
    return str(called) if relative.startswith("..") else relative
