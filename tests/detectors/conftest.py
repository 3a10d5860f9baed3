import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

MINIATURE = Path(__file__).with_name("miniature.py")


def load(path: Path) -> ModuleType:
    """A file beside the tests as a module: `tests` is no package to import it from."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `setup` runs for each of `miniature.SETUPS`."""
    if "setup" in metafunc.fixturenames:
        metafunc.parametrize("setup", load(MINIATURE).SETUPS)


@pytest.fixture(scope="session")
def mini() -> ModuleType:
    """`miniature.py`: a detector, batches and data small enough to train in a test."""
    return load(MINIATURE)


@pytest.fixture(scope="session")
def loss_cases() -> ModuleType:
    """`loss_cases.py`: assigned batches and the loss of each, looped over."""
    return load(MINIATURE.with_name("loss_cases.py"))


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `miniature.main` saved in each of two real processes of one gloo group."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(MINIATURE)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder)], env=env, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, error in zip(ranks, errors, strict=True):
        assert rank.returncode == 0, error
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
