"""Notes about a grid: conditions that never hold, and combinations that give equal trials."""

from typing import Any

import pytest

from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import outline
from tests.builders import make_spec

TWO = {"assignment": [{"name": "poto"}, {"name": "o2f"}]}
SEEDS = {"seed": [0, 1, 2]}
GRIDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "plain": ({"grid": SEEDS}, []),
    "nothing varied": ({}, []),
    "equal numbers": (
        {"grid": {"training.lr": [1, 1.0], **SEEDS}},
        ["6 combinations give 3 different trials"],
    ),
    "a repeated value": (
        {"grid": {"seed": [0, 0]}},
        ["2 combinations give 1 different trial"],
    ),
    "equal sections": (
        {"zip": {"assignment": [{"name": "poto"}, {"name": "poto", "alpha": 0.8}]}},
        ["2 combinations give 1 different trial"],
    ),
    "settings that change no result": (
        {"grid": {"resources.cpus_per_worker": [1, 2]}},
        ["2 combinations give 1 different trial"],
    ),
    "rows in common": (
        {"rows": {"a": {}, "b": {"seed": 0}}, "grid": {"training.lr": [1, 2]}},
        [],
    ),
    "equal trials of one row": (
        {"rows": {"a": {}, "b": {"seed": 0}}, "grid": {"training.lr": [1, 1.0]}},
        ["4 combinations give 1 different trial"],
    ),
    "a key of one section": (
        {
            "grid": {**TWO, "assignment.k": [3, 4]},
            "when": {"assignment.k": {"assignment.name": "o2f"}},
        },
        ["4 combinations give 3 different trials"],
    ),
    "a condition that never holds": (
        {
            "grid": {**SEEDS, "assignment.k": [3]},
            "when": {"assignment.k": {"assignment.name": "o2f"}},
        },
        [
            "when.assignment.k: {assignment.name: o2f} holds for no combination, so assignment.k "
            "is never varied"
        ],
    ),
    "an exclusion that never holds": (
        {"grid": SEEDS, "exclude": [{"seed": 1}, {"seed": [7, 8], "training.lr": 0.5}]},
        ["exclude[1]: {seed: [7, 8], training.lr: 0.5} holds for no combination"],
    ),
    "exclusions that hold for the same trial": (
        {
            "grid": SEEDS,
            "exclude": [{"seed": 1}, {"seed": [1, 5]}, {"assignment.name": "poto", "seed": 1}],
        },
        [],
    ),
    "everything together": (
        {
            "grid": {"training.lr": [1, 1.0], "assignment.k": [3]},
            "when": {"assignment.k": {"assignment.name": "o2f"}},
            "exclude": [{"seed": 5}],
        },
        [
            "when.assignment.k: {assignment.name: o2f} holds for no combination, so assignment.k "
            "is never varied",
            "exclude[0]: {seed: 5} holds for no combination",
            "2 combinations give 1 different trial",
        ],
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_notes_of_a_grid(name: str) -> None:
    keys, notes = GRIDS[name]
    assert list(outline(resolve(make_spec(**keys))).notes) == notes


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_condition_may_hold_for_later_samples(method: str) -> None:
    space = {"training.lr": {"low": 0.1, "high": 1.0}}
    search = {"method": method, "trials": 3, "space": space}
    spec = make_spec(search=search, exclude=[{"training.lr": 0.123}], grid=SEEDS)
    assert not any("holds" in note for note in outline(resolve(spec)).notes)
