"""Which published rows are a row of a spec, and which of those are trained."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gaplab.errors import UserError
from gaplab.ledger import Reader
from gaplab.results.papers.paper_table import PaperRow
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import outline
from gaplab.spec.yaml_text import parse_yaml, read_text
from gaplab.states import TrialState

Kind = Literal["trained", "computed", "untrained", "left out"]
"""`trained`: all trials have succeeded; `computed`: the row shows the ground truth, which needs no
training; `left out`: no spec has such a row."""


@dataclass(frozen=True)
class PublishedTable:
    """One table of a paper: what there is of each of its rows, in the paper's order."""

    paper: str
    table: str
    kinds: Mapping[str, Kind]
    """By id of the row."""
    specs: tuple[str, ...]
    """Paths of the specs with rows of the table, relative to the folder."""
    why: tuple[str, ...]
    """Why rows are left out, each reason once."""

    def count(self, *kinds: Kind) -> int:
        """Return the number of rows of these kinds."""
        return sum(kind in kinds for kind in self.kinds.values())


@dataclass
class _Found:
    """The rows of the specs of a folder."""

    specs: dict[str, str] = field(default_factory=dict)
    trials: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of the trials of a row; none for one that shows the ground truth."""
    problems: list[str] = field(default_factory=list)


def published_tables(
    folder: Path, paper: Mapping[str, PaperRow], ledger: Reader, profile: str | None = None
) -> tuple[list[PublishedTable], list[str]]:
    """Return all published tables in the order of the papers, and problems of specs.

    Args:
        folder: contains the specs, also in folders inside.
        paper: the published rows by id, as `read_paper` returns them.
        ledger: an open ledger.
        profile: the profile of the specs; by default `laptop`, if a spec has it.
    """
    found = _Found()
    for path in _specs(folder, paper.keys()):
        _add(path, str(path.relative_to(folder)), profile, found)
    ids = {trial for trials in found.trials.values() for trial in trials if trial}
    states = ledger.states(sorted(ids))
    tables: dict[tuple[str, str], list[PaperRow]] = {}
    for row in paper.values():
        tables.setdefault((row.paper, row.table), []).append(row)
    return [_table(key, rows, found, states) for key, rows in tables.items()], found.problems


def _specs(folder: Path, rows: Iterable[str]) -> Iterator[Path]:
    """Yield the files below the folder that are specs with published rows."""
    known = set(rows)
    for path in sorted(folder.rglob("*.yaml")):
        text = read_text(path)
        content = parse_yaml(text) if any(row in text for row in known) else None
        own: Any = content.get("rows") if isinstance(content, dict) else None
        if isinstance(own, dict) and known & own.keys():
            yield path


def _add(path: Path, name: str, profile: str | None, found: _Found) -> None:
    """Add the rows of a spec. A spec that can't be read has problems instead."""
    try:
        resolved = load_spec(path, profile)
    except UserError as error:
        found.problems += [f"{name}: {problem}" for problem in error.problems]
        return
    made = outline(resolved)
    found.problems += [f"{name}: {problem}" for problem in made.problems]
    for row, trials in made.rows.items():
        found.specs.setdefault(row, name)
        found.trials.setdefault(row, tuple(trial.id for trial in trials))


def _table(
    key: tuple[str, str],
    rows: Sequence[PaperRow],
    found: _Found,
    states: Mapping[str, TrialState],
) -> PublishedTable:
    kinds: dict[str, Kind] = {}
    for row in rows:
        if row.id not in found.specs:
            kinds[row.id] = "left out"
        elif not (trials := found.trials[row.id]):
            kinds[row.id] = "computed"
        else:
            done = all(states.get(each) == TrialState.SUCCEEDED for each in trials)
            kinds[row.id] = "trained" if done else "untrained"
    left = [row for row in rows if kinds[row.id] == "left out"]
    why = dict.fromkeys(row.left_out or "no spec has such a row" for row in left)
    specs = dict.fromkeys(found.specs[row.id] for row in rows if row.id in found.specs)
    return PublishedTable(*key, kinds, tuple(specs), tuple(why))
