import pytest

from tests.detectors import miniature


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `setup` for each of `miniature.SETUPS`."""
    if "setup" in metafunc.fixturenames:
        metafunc.parametrize("setup", miniature.SETUPS)
