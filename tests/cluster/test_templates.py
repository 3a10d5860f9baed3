"""Rules for all templates."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FOLDERS = sorted(path.name for path in CLUSTER.iterdir() if path.is_dir())
SCRIPTS = sorted([*CLUSTER.rglob("*.sh"), *CLUSTER.rglob("*.sbatch")])
YAMLS = sorted(CLUSTER.rglob("*.yaml"))
READMES = sorted(CLUSTER.rglob("README.md"))
PARTS = ("Starts", "Costs", "Results", "Not tested")


def name_of(path: Path) -> str:
    return path.relative_to(CLUSTER).as_posix()


def test_all_five_templates_exist() -> None:
    assert FOLDERS == ["cloud", "compose", "kuberay", "local", "slurm"]
    assert [path.parent.name for path in READMES] == FOLDERS
    assert len(SCRIPTS) >= 4
    assert len(YAMLS) >= 6


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_a_readme_has_every_part(path: Path) -> None:
    text = path.read_text()
    assert [part for part in PARTS if f"**{part}:**" not in text] == []
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_a_readme_uses_existing_commands_and_options(
    path: Path, flags: dict[str, list[str]]
) -> None:
    text = path.read_text()
    called = re.findall(r"gaplab ([a-z]+)[^`\n]*", text)
    assert called, "no command of gaplab"
    assert {f"gaplab {name}" for name in called} <= flags.keys()
    for name, rest in re.findall(r"gaplab ([a-z]+)([^`\n|#]*)", text):
        used = set(re.findall(r"(?<=\s)--[a-z-]+", rest))
        assert used <= set(flags[f"gaplab {name}"]), f"gaplab {name}{rest}"


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_a_readme_names_existing_files(path: Path, root: Path) -> None:
    named = re.findall(r"\b(?:cluster|experiments)/[\w./-]+\.\w+", path.read_text())
    assert [name for name in named if not (root / name).is_file()] == []


@pytest.mark.parametrize("path", YAMLS, ids=name_of)
def test_a_yaml_file_can_be_parsed(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_is_valid_bash(path: Path) -> None:
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_shellcheck_reports_nothing(path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(p for p in CLUSTER.rglob("*") if p.is_file()), ids=name_of)
def test_no_file_contains_a_secret_or_turns_authentication_off(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"://[^\s/@:]+:[^\s/@]+@", text), "a URL with a password"
    assert not re.search(r"RAY_AUTH_MODE\W+disabled", text)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text), "what looks like a token"
