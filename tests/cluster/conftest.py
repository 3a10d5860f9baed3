"""Fixtures for the tests of the templates: paths, pinned versions and options of programs."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = """
import json, sys
from mlflow.cli import server
from ray.scripts.scripts import start, symmetric_run
from typer.main import get_command
from gaplab.cli.app import app
known = {"ray start": start, "ray symmetric-run": symmetric_run, "mlflow server": server}
group = get_command(app)
context = group.make_context("gaplab", [], resilient_parsing=True)
for name in group.list_commands(context):
    known[f"gaplab {name}"] = group.resolve_command(context, [name])[1]
flags = {k: [o for p in c.params for o in p.opts + p.secondary_opts] for k, c in known.items()}
sys.stdout.write(json.dumps(flags))
"""


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def cluster() -> Path:
    """Folder of the templates."""
    return ROOT / "cluster"


@pytest.fixture(scope="session")
def pinned() -> dict[str, str]:
    """Map each package in constraints.txt to its version."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


@pytest.fixture(scope="session")
def image() -> str:
    """Name and tag of gaplab's image for the version of this checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"gaplab:{project['version']}"


@pytest.fixture(scope="session")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Map each command to the options that the installed program has.

    Importing all programs takes seconds, so one process does it for all workers of pytest-xdist.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by the workers of this run
    file = folder / "flags.json"
    with FileLock(folder / "flags.lock"):
        if not file.exists():
            command = [sys.executable, "-W", "ignore", "-c", OPTIONS]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            file.write_text(done.stdout)
    found: dict[str, list[str]] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="session")
def check_flags(flags: dict[str, list[str]]) -> Callable[[str, str], None]:
    """Return a function that asserts that a program has the long options of a command line."""

    def check(program: str, line: str) -> None:
        used = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", line))
        assert used, f"no options in: {line}"
        assert used <= set(flags[program]), f"{program}: no {used - set(flags[program])}"

    return check


@pytest.fixture(scope="session")
def read() -> Callable[[str], Any]:
    """Return a function that loads a YAML file of the templates."""
    return lambda name: yaml.safe_load((ROOT / "cluster" / name).read_text())
