"""The layout of the repository: what its folders may contain, and how long files may be.

The folder `platform/` must not become a package: it would hide Python's own module `platform`.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted([*(ROOT / "detectors").rglob("*.py"), *(ROOT / "platform").rglob("*.py")])
FILE_LINES = 400
FUNCTION_LINES = 45
"""Without the signature and the docstring."""
FOUND = (
    "import platform as p, detectors as d, gaplab as g; print(p.__file__, d.__file__, g.__file__)"
)


def test_the_platform_folder_contains_only_the_package() -> None:
    assert [p.name for p in (ROOT / "platform").iterdir() if p.is_file()] == []
    assert sorted(p.name for p in (ROOT / "platform").iterdir() if p.name != "__pycache__") == [
        "gaplab"
    ]


def test_test_folders_are_not_packages() -> None:
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


def test_no_module_has_the_name_of_a_standard_module() -> None:
    own = {p.stem for top in ("platform/gaplab", "detectors") for p in (ROOT / top).glob("*.py")}
    packages = {"gaplab", "detectors"}
    assert packages.isdisjoint(sys.stdlib_module_names)
    assert "platform" not in own


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    assert {name: length for name, length in lengths(text) if length > FUNCTION_LINES} == {}


def lengths(text: str) -> Iterator[tuple[str, int]]:
    """The name of every function and the number of lines of its body."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - body[0].lineno + 1 if body else 0


def test_lengths_leave_out_signatures_and_docstrings() -> None:
    text = 'def f(\n    a,\n    b,\n):\n    """Two\n    lines."""\n    a += b\n    return a\n'
    assert list(lengths(text)) == [("f", 2)]
    assert list(lengths('def g():\n    """Only this."""\n')) == [("g", 0)]
