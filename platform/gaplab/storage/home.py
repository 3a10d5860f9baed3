"""The home folder: one place for ledger, checkpoints and MLflow's database."""

import os
import shutil
import sys
from pathlib import Path

from gaplab.errors import UserError

DEFAULT_HOME = ".gaplab"


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
        here = self.path == Path(DEFAULT_HOME).resolve() or "GAPLAB_HOME" in os.environ
        words = (_program(), name, rest, "" if here else f"--home {self.path}")
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
