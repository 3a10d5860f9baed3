from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any

import pytest

MINIATURE = Path(__file__).with_name("miniature.py")
Load = Callable[[Path], ModuleType]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `setup` runs for each of `miniature.SETUPS`."""
    if "setup" in metafunc.fixturenames:
        metafunc.parametrize("setup", run_path(str(MINIATURE))["SETUPS"])


@pytest.fixture(scope="session")
def mini(load: Load) -> ModuleType:
    """`miniature.py`: a detector, batches and data small enough to train in a test."""
    return load(MINIATURE)


@pytest.fixture(scope="session")
def loss_cases(load: Load) -> ModuleType:
    """`loss_cases.py`: assigned batches and the loss of each, looped over."""
    return load(MINIATURE.with_name("loss_cases.py"))


@pytest.fixture(scope="session")
def two_ranks(
    run_ranks: Callable[[Path, Path], list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What `miniature.main` saved in each of two real processes of one gloo group."""
    return run_ranks(MINIATURE, tmp_path_factory.mktemp("ranks"))
