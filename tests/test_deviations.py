"""The page of deviations: options exist and have the defaults that it states."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from detectors.assigners import ASSIGNERS
from detectors.data import DATASETS
from detectors.models import DETECTORS
from detectors.models.backbones import BACKBONES
from detectors.models.gates import GATES
from detectors.options import Options
from gaplab.spec.fields import owners_of
from gaplab.spec.models import Experiment
from gaplab.spec.yaml_text import parse_yaml

PAGE = Path(__file__).parents[1] / "docs" / "deviations.md"
ENTRIES: Mapping[str, list[type[Options]]] = {
    name: [
        table[name] for table in (ASSIGNERS, DETECTORS, BACKBONES, GATES, DATASETS) if name in table
    ]
    for table in (ASSIGNERS, DETECTORS, BACKBONES, GATES, DATASETS)
    for name in table
}
"""Classes of options by the names of their entries; `fcos` is an assignment and a detector."""


def _rows() -> Iterator[tuple[str, str]]:
    """Yield the option and the default of each line of the tables with options."""
    text = PAGE.read_text().split("\n## Without an option")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(" | ")]
        if line.startswith("| `"):
            assert len(cells) == 5, line
            yield cells[0].removeprefix("| "), cells[3]


ROWS = list(_rows())


def owners(option: str) -> list[type[Options]]:
    """Return the classes of options that have `option`, a dotted key or an entry's key."""
    first, *rest = option.split(".")
    if first in Experiment.model_fields:
        return owners_of([first, *rest], Experiment)
    return [entry for entry in ENTRIES.get(first, []) if rest[0] in entry.model_fields]


def defaults(option: str) -> list[Any]:
    last = option.rpartition(".")[2]
    found = [owner.model_fields[last].default for owner in owners(option)]
    return [each.model_dump() if isinstance(each, Options) else each for each in found]


def is_stated(stated: Any, default: Any) -> bool:
    """Return whether a default is as stated; of options, whether they have what is stated."""
    if isinstance(default, dict) and isinstance(stated, dict):
        return all(is_stated(value, default.get(key)) for key, value in stated.items())
    return bool(stated == (list(default) if isinstance(default, tuple) else default))


def test_there_are_deviations() -> None:
    assert len(ROWS) > 40
    assert len({option for option, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("cell", "stated"), ROWS, ids=[option.strip("`") for option, _ in ROWS])
def test_an_option_exists_and_has_this_default(cell: str, stated: str) -> None:
    option = re.fullmatch(r"`([a-z0-9_.]+)`", cell)
    default = re.fullmatch(r"`(.+)`", stated)
    assert option, cell
    assert default, stated
    assert owners(option[1]), f"no option {option[1]}"
    value = parse_yaml(f"value: {default[1]}")["value"]
    found = defaults(option[1])
    assert any(is_stated(value, each) for each in found), found


@pytest.mark.parametrize("option", ["poto.solvers", "potto.solver", "training.loss.boxes"])
def test_an_option_that_does_not_exist_is_noticed(option: str) -> None:
    assert owners(option) == []
