"""The folder `platform/` must never become a package: it would hide Python's own `platform`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOUND = (
    "import platform as p, detectors as d, gaplab as g; print(p.__file__, d.__file__, g.__file__)"
)


def test_platform_folder_holds_only_folders() -> None:
    assert [p.name for p in (ROOT / "platform").iterdir() if p.is_file()] == []
    assert sorted(p.name for p in (ROOT / "platform").iterdir() if p.name != "__pycache__") == [
        "gaplab"
    ]


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert list((ROOT / "platform").rglob("test_*.py")) == []
    assert list((ROOT / "platform").rglob("conftest.py")) == []


def test_imports_find_the_right_modules_from_the_root() -> None:
    command = [sys.executable, "-c", FOUND]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    stdlib, science, product = map(Path, out.split())
    assert ROOT not in stdlib.parents
    assert science == ROOT / "detectors" / "__init__.py"
    assert product == ROOT / "platform" / "gaplab" / "__init__.py"


def test_no_module_is_named_like_one_of_pythons() -> None:
    own = {p.stem for top in ("platform/gaplab", "detectors") for p in (ROOT / top).glob("*.py")}
    packages = {"gaplab", "detectors"}
    assert packages.isdisjoint(sys.stdlib_module_names)
    assert "platform" not in own
