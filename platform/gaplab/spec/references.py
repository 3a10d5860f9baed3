"""References between rows: `training.init_from: row:NAME` starts a trial from another row's trial.

That is the trial of this row with the same values of everything else that the spec varies, such as
the seed. `sweep.outline` replaces the reference by the id of that trial.
"""

from collections.abc import Collection, Mapping, Sequence

from gaplab.spec.grid import Combination
from gaplab.spec.problems import Problem, unknown
from gaplab.spec.sections import Section, Sections

PREFIX = "row:"
"""Start of a reference."""
_PATH = ("training", "init_from")


def find_parents(
    rows: Collection[str],
    combinations: Sequence[Combination],
    trials: Sequence[Mapping[str, Section]],
    sections: Sections,
) -> tuple[dict[int, int], list[Problem]]:
    """Find the trial that each trial with a reference starts from.

    Args:
        rows: names of the rows of the spec.
        combinations: all combinations of the spec that are not excluded.
        trials: the validated sections of each of them.
        sections: what the sections were read from.

    Returns:
        Index of a trial -> index of the one that it starts from, and all wrong references.
    """
    names = {i: name for i, each in enumerate(trials) if (name := _row_of(each)) is not None}
    at = {(each.row, each.others): i for i, each in enumerate(combinations)} if names else {}
    parents, problems = dict[int, int](), dict[Problem, None]()
    for i, name in names.items():
        parent = at.get((name, combinations[i].others))
        if parent is not None:
            parents[i] = parent
            continue
        text = f"row {name} has no trial to start from here, because exclude leaves it out"
        problem = Problem(_PATH, text if name in rows else unknown(name, rows, "row "))
        problems[sections.relocated(problem, combinations[i].choices["training"])] = None
    for i in parents:
        if circle := _circle(i, parents):
            text = f"is circular: {' -> '.join(str(combinations[each].row) for each in circle)}"
            choice = combinations[i].choices["training"]
            problems[sections.relocated(Problem(_PATH, text), choice)] = None
    return parents, list(problems)


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
