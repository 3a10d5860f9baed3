from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.detectors import miniature


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `setup` for each of `miniature.SETUPS`."""
    if "setup" in metafunc.fixturenames:
        metafunc.parametrize("setup", miniature.SETUPS)


@pytest.fixture(scope="session")
def two_ranks(
    run_ranks: Callable[[Path, Path], list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """Return what `miniature.main` saved in each of two processes of one gloo group."""
    return run_ranks(Path(miniature.__file__), tmp_path_factory.mktemp("ranks"))
