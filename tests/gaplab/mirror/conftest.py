"""What tests of the mirror share: homes with MLflow's tables and an empty ledger."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaplab.mirror.database import exclusive_access
from gaplab.results.opened import open_home
from gaplab.storage.home import Home
from tests.builders import LedgerBench


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database after its migrations, which take seconds; to be copied."""
    home = Home(tmp_path_factory.mktemp("mlflow"))
    with exclusive_access(home):
        return home.path / "mlflow.db"


@pytest.fixture
def bench(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LedgerBench]:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    home = open_home(tmp_path / "home")
    shutil.copy(mlflow_database, home.path)
    made = LedgerBench(home)
    yield made
    made.ledger.close()
