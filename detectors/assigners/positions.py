"""Which parts of an assignment need the positions of points, which queries do not have."""

from collections.abc import Mapping

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Assigner, Strategy
from detectors.options import OneOf, Options


def need_positions(assignment: Strategy) -> list[str]:
    """Return the parts of an assignment that can't train queries, and the remedy; often empty.

    Each begins with its key in a spec, such as `assignment.o2m`.
    """
    parts = {f"assignment.{key}": each for key, each in _assigners(assignment).items()}
    wrong: dict[str, Strategy] = {k: each for k, each in parts.items() if each.needs_positions}
    if not wrong and assignment.needs_positions:
        wrong = {"assignment": assignment}
    return [
        f"{key}: {_name(each)} needs the positions of points, which queries do not have; "
        + (f"set {each.without_positions}" if each.without_positions else _others(assignment, key))
        for key, each in wrong.items()
    ]


def _assigners(assignment: Strategy) -> dict[str, Assigner]:
    """Return the assigners that an assignment combines, by key."""
    fields = {key: getattr(assignment, key) for key in type(assignment).model_fields}
    return {key: each for key, each in fields.items() if isinstance(each, Assigner)}


def _others(assignment: Strategy, key: str) -> str:
    """Return which assignments at `key` need no positions."""
    defaults = {name: entry() for name, entry in _table(assignment, key).items()}
    free = [name for name, each in defaults.items() if not each.needs_positions]
    free += [
        f"{name} with {each.without_positions}"
        for name, each in defaults.items()
        if each.needs_positions and each.without_positions
    ]
    combined = [name for name, each in defaults.items() if _assigners(each)]
    end = f", or {' or '.join(combined)} of these" if combined else ""
    return f"choose {', '.join(free[:-1])} or {free[-1]}{end}"


def _table(assignment: Strategy, key: str) -> Mapping[str, type[Strategy]]:
    """Return the table that has the entries for `key`."""
    _, _, inner = key.partition(".")
    if not inner:
        return ASSIGNERS
    metadata = type(assignment).model_fields[inner].metadata
    tables = [each.table for each in metadata if isinstance(each, OneOf)]
    return {name: entry for name, entry in tables[0].items() if issubclass(entry, Strategy)}


def _name(options: Options) -> str:
    return str(options.model_dump()["name"])
