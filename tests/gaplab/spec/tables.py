"""The specs of the papers' tables, resolved once for all tests of a process."""

import json
from functools import cache
from pathlib import Path

from gaplab.records import TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.models import Spec
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sweep import Outline, outline

FOLDER = Path(__file__).parents[3] / "experiments"
TABLES = sorted(FOLDER.glob("[0-9]*/t*.yaml"))
PROFILES = ("laptop", "paper")
PUBLISHED = {
    row["id"]: row for row in json.loads((FOLDER / "paper_results.json").read_text())["rows"]
}


@cache
def resolved(path: Path, profile: str = "laptop") -> ResolvedSpec:
    """Load a spec."""
    return load_spec(path, profile)


def spec_of(path: Path, profile: str = "laptop") -> Spec:
    """Load a spec and return its settings."""
    return resolved(path, profile).spec


@cache
def outline_of(path: Path, profile: str) -> Outline:
    """Expand a spec, whose data may be missing."""
    return outline(resolved(path, profile))


@cache
def trials(profile: str) -> dict[str, list[TrialRecord]]:
    """Return the trials of every row, one for each file that has it."""
    found = dict[str, list[TrialRecord]]()
    for path in TABLES:
        for row, of_row in outline_of(path, profile).rows.items():
            if of_row:
                found.setdefault(row, []).extend(of_row)
    return found
