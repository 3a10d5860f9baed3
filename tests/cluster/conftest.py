"""What the tests of the templates share: where they are, pinned versions, and programs' options."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = """
import json, sys
from mlflow.cli import server
from ray.scripts.scripts import start, symmetric_run
from typer.main import get_command
from gaplab.cli.app import app
known = {"ray start": start, "ray symmetric-run": symmetric_run, "mlflow server": server}
known |= {f"gaplab {name}": each for name, each in get_command(app).commands.items()}
flags = {k: [o for p in c.params for o in p.opts + p.secondary_opts] for k, c in known.items()}
sys.stdout.write(json.dumps(flags))
"""


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The folder of the templates."""
    return ROOT / "cluster"


@pytest.fixture(scope="session")
def pinned() -> dict[str, str]:
    """Package -> version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


@pytest.fixture(scope="session")
def image() -> str:
    """The name of gaplab's image, at the version of this checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"gaplab:{project['version']}"


@pytest.fixture(scope="session")
def flags() -> dict[str, list[str]]:
    """Command -> the options that the installed program knows."""
    command = [sys.executable, "-W", "ignore", "-c", OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def check_flags(flags: dict[str, list[str]]) -> Callable[[str, str], None]:
    """Checks that a program has the long options of a command line."""

    def check(program: str, line: str) -> None:
        used = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", line))
        assert used, f"no options in: {line}"
        assert used <= set(flags[program]), f"{program}: no {used - set(flags[program])}"

    return check


@pytest.fixture(scope="session")
def read() -> Callable[[str], Any]:
    """Reads a YAML file of the templates, named from their folder."""
    return lambda name: yaml.safe_load((ROOT / "cluster" / name).read_text())
