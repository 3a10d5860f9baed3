"""Arrows run one way, and a heavy library has one importer."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "detectors").rglob("*.py"), *(ROOT / "platform").rglob("*.py")])

IMPORTERS = {
    "ray": ("platform/gaplab/launch/ray/",),
    "mlflow": ("platform/gaplab/mirror/replay.py",),
    "sqlalchemy": ("platform/gaplab/ledger/",),
    "alembic": ("platform/gaplab/ledger/",),
    "hotcoco": ("detectors/evaluation/coco.py",),
    "PIL": ("detectors/data/images.py",),
    "pyarrow": ("platform/gaplab/storage/"),
    "timm": ("detectors/models/timm_trunk.py",),
    "optuna": ("platform/gaplab/launch/search_optuna.py",),
    "yaml": ("platform/gaplab/spec/yaml_text.py",),
    "typer": ("platform/gaplab/cli/",),
    "scipy": ("detectors/assigners/matching.py", "platform/gaplab/results/intervals.py"),
    "pycocotools": (),
}
"""Library -> the only files or folders that may import it."""

READERS = ("results/leaderboard.py", "results/compare.py")
"""Files of gaplab that look at results: they must know nothing of torch, launching or training."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Every absolute module imported anywhere in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            found.add(node.module or "")
    return found


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 40


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_heavy_library_has_one_importer(library: str) -> None:
    strays = [
        name_of(path)
        for path in SOURCES
        if library in tops(path) and not name_of(path).startswith(IMPORTERS[library] or "-")
    ]
    assert strays == []


def test_the_science_knows_nothing_of_the_platform() -> None:
    for path in (ROOT / "detectors").rglob("*.py"):
        assert tops(path).isdisjoint({"gaplab", "ray", "mlflow", "sqlalchemy", "typer"}), path


def test_trial_knows_no_scheduler_database_or_tracker() -> None:
    seen = imports(ROOT / "platform/gaplab/trial/run.py")
    assert not [
        m for m in seen if m.startswith(("gaplab.launch", "gaplab.ledger", "gaplab.mirror"))
    ]


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_results_only_read_the_ledger(reader: str) -> None:
    seen = imports(ROOT / "platform/gaplab" / reader)
    forbidden = ("torch", "gaplab.launch", "gaplab.trial", "gaplab.mirror", "gaplab.cli")
    assert not [m for m in seen if m.startswith(forbidden)]


def test_nothing_but_the_cli_imports_the_cli() -> None:
    for path in SOURCES:
        if not name_of(path).startswith(("platform/gaplab/cli/", "platform/gaplab/__main__.py")):
            assert not [m for m in imports(path) if m.startswith("gaplab.cli")], path
