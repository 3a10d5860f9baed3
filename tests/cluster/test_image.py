"""The Dockerfile: a pinned base, pinned packages, no root, and only files that are there."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def lines(cluster: Path) -> list[str]:
    """Its instructions, one a line."""
    text = (cluster / "compose" / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if re.match("[A-Z]+ ", line)]


def test_the_base_is_pythons_without_a_host(lines: list[str]) -> None:
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert re.fullmatch(r"python:3\.11-slim-[a-z]+", base)


def test_packages_are_pinned(lines: list[str]) -> None:
    (install,) = [line for line in lines if "pip install" in line]
    assert "--constraint constraints.txt" in install
    assert "--constraint cluster/compose/auth-constraints.txt" in install


def test_what_login_to_mlflow_needs_is_pinned_beside(cluster: Path, pinned: dict[str, str]) -> None:
    lines = (cluster / "compose" / "auth-constraints.txt").read_text().split()
    extra = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    assert extra.keys().isdisjoint(name.lower() for name in pinned), "pinned twice"
    needed = [Requirement(text) for text in requires("mlflow") or [] if '"auth"' in text]
    wanted = [each for each in needed if each.marker and each.marker.evaluate({"extra": "auth"})]
    assert wanted
    for each in wanted:
        assert each.specifier.contains(extra[each.name.lower()]), each


def test_copied_files_are_there_and_let_through(
    lines: list[str], cluster: Path, root: Path
) -> None:
    ignored = (cluster / "compose" / "Dockerfile.dockerignore").read_text().split()
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert all((root / source).exists() for source in copied)


def test_nobody_is_root(lines: list[str]) -> None:
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"


def test_the_comment_names_the_image(cluster: Path, image: str) -> None:
    assert f"--tag {image}" in (cluster / "compose" / "Dockerfile").read_text()
