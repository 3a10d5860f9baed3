"""The Dockerfile: pinned base image and packages, no root user, and only files that exist."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def lines(cluster: Path) -> list[str]:
    """Instructions of the Dockerfile, one per item."""
    text = (cluster / "compose" / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if re.match("[A-Z]+ ", line)]


def test_the_base_is_the_python_image_without_a_registry(lines: list[str]) -> None:
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert re.fullmatch(r"python:3\.11-slim-[a-z]+", base)


def test_packages_are_pinned(lines: list[str]) -> None:
    (install,) = [line for line in lines if "pip install" in line]
    assert "--constraint constraints.txt" in install
    assert "--constraint cluster/compose/auth-constraints.txt" in install


def test_dependencies_of_mlflows_login_are_pinned_separately(
    cluster: Path, pinned: dict[str, str]
) -> None:
    lines = (cluster / "compose" / "auth-constraints.txt").read_text().split()
    extra = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    assert extra.keys().isdisjoint(name.lower() for name in pinned), "pinned twice"
    needed = [Requirement(text) for text in requires("mlflow") or [] if '"auth"' in text]
    expected = [each for each in needed if each.marker and each.marker.evaluate({"extra": "auth"})]
    assert expected
    for each in expected:
        assert each.specifier.contains(extra[each.name.lower()]), each


def test_copied_files_exist_and_are_not_ignored(
    lines: list[str], cluster: Path, root: Path
) -> None:
    ignored = (cluster / "compose" / "Dockerfile.dockerignore").read_text().split()
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert all((root / source).exists() for source in copied)


def test_the_user_is_not_root(lines: list[str]) -> None:
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"


def test_the_comment_names_the_image(cluster: Path, image: str) -> None:
    assert f"--tag {image}" in (cluster / "compose" / "Dockerfile").read_text()
