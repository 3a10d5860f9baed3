"""The names that `import gaplab` offers: imported lazily, documented, with examples that run."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import gaplab
from tests.doctests import check_public_names, run_examples

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "mlflow", "sqlalchemy", "alembic", "pydantic", "numpy", "pyarrow", "typer")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without results, but with the experiments of this checkout."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name in ("GAPLAB_HOME", "GAPLAB_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_gaplab_imports_nothing_heavy() -> None:
    code = f"import sys, gaplab; print([name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_public_names_are_those_of_their_modules() -> None:
    check_public_names(gaplab, "__version__")


def test_version() -> None:
    assert gaplab.__version__ == version("gaplab")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gaplab' has no attribute 'leaderbord'"):
        gaplab.leaderbord  # type: ignore[attr-defined]  # noqa: B018


def test_examples_that_train_nothing(folder: Path) -> None:
    """The other functions have examples that run a sweep: `tests/sweeps/test_examples.py`."""
    for subject in (gaplab, gaplab.load_spec, gaplab.expand, gaplab.open_home, gaplab.Ledger):
        assert run_examples(subject) > 0
