"""The home folder: one place for ledger, checkpoints and MLflow's database."""

import os
import shutil
import sys
from pathlib import Path

from gaplab.errors import UserError

DEFAULT_HOME = ".gaplab"


def default_path() -> Path:
    """Return the path in the environment variable GAPLAB_HOME, or else `.gaplab`."""
    return Path(os.environ.get("GAPLAB_HOME", DEFAULT_HOME))


def _program() -> str:
    """How this command was called: by name if the shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "gaplab" or shutil.which("gaplab") == str(called):
        return "gaplab"
    near = os.path.relpath(called)
    return str(called) if near.startswith("..") else near


class Home:
    """File names under the home folder, stated once. Creating one creates the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--home {path}: can't be created ({error.strerror})") from error

    def command(self, name: str, rest: str = "") -> str:
        """A command line for a person to type that finds this folder again."""
        is_default = self.path == default_path().expanduser().resolve()
        words = (_program(), name, rest, "" if is_default else f"--home {self.path}")
        return " ".join(word for word in words if word)

    @property
    def ledger_url(self) -> str:
        """Where the ledger is: GAPLAB_LEDGER (a SQLAlchemy URL), else SQLite in this folder."""
        return os.environ.get("GAPLAB_LEDGER") or f"sqlite:///{self.path / 'ledger.db'}"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's own database, a mirror that may be deleted."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps files."""
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

    Example:
        >>> import gaplab
        >>> home = gaplab.open_home("results/first")
        >>> home.path.name
        'first'
    """
    return Home(default_path() if path is None else Path(path))
