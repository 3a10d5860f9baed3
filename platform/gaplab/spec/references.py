"""References between rows: `training.init_from: row:NAME` starts a trial from another row's trial.

That is the trial of this row with the same values of everything else that the spec varies, such as
the seed. `sweep.outline` replaces the reference by the id of that trial.
"""

from collections.abc import Collection, Mapping, Sequence

from gaplab.spec.grid import Combination, Grid
from gaplab.spec.problems import Problem, unknown
from gaplab.spec.sections import Section

PREFIX = "row:"
"""Start of a reference."""
_PATH = ("training", "init_from")


def find_parents(
    rows: Collection[str], combinations: Sequence[Combination], grid: Grid
) -> tuple[dict[int, int], list[Problem]]:
    """Find the trial that each trial with a reference starts from.

    Args:
        rows: names of the rows of the spec.
        combinations: all combinations of the spec that are not excluded.
        grid: what enumerated them.

    Returns:
        Index of a trial -> index of the one that it starts from, and all wrong references.
    """
    found = ((i, _row_of(each.sections)) for i, each in enumerate(combinations))
    names = {i: name for i, name in found if name is not None}
    at = {(each.row, each.others): i for i, each in enumerate(combinations)} if names else {}
    parents, problems = dict[int, int](), dict[Problem, None]()
    for i, name in names.items():
        parent = at.get((name, combinations[i].others))
        if parent is not None:
            parents[i] = parent
            continue
        text = f"row {name} has no trial to start from here, because exclude leaves it out"
        problem = Problem(_PATH, text if name in rows else unknown(name, rows, "row "))
        problems[_relocated(problem, combinations[i], grid)] = None
    for i in parents:
        if circle := _circle(i, parents):
            text = f"is circular: {' -> '.join(str(combinations[each].row) for each in circle)}"
            problems[_relocated(Problem(_PATH, text), combinations[i], grid)] = None
    return parents, list(problems)


def _relocated(problem: Problem, combination: Combination, grid: Grid) -> Problem:
    choice = grid.choices(combination.positions)["training"]
    return grid.sections.relocated(problem, choice)


def start_from(sections: Mapping[str, Section], trial: str) -> dict[str, Section]:
    """Return sections with the id of a trial in place of the reference."""
    training = sections["training"].value.model_copy(update={"init_from": trial})
    return {**sections, "training": Section(training)}


def _row_of(sections: Mapping[str, Section]) -> str | None:
    """Return the name of the row that a trial starts from, or None."""
    section = sections["training"]
    source = "" if section.problems else str(section.value.init_from)
    return source.removeprefix(PREFIX) if source.startswith(PREFIX) else None


def _circle(start: int, parents: Mapping[int, int]) -> list[int]:
    """Return the trials from `start` to `start`, if it starts from itself; else none."""
    path, each = [start], parents.get(start)
    while each is not None and each not in path:
        path.append(each)
        each = parents.get(each)
    return [*path, start] if each == start else []
