"""A spec that is not validated yet: the keys that it varies, and the seeds of `repeat`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports pydantic, and tables of results need this module, too
    from gaplab.spec.problems import SpecPath

MAX_REPEAT = 1000
"""Largest value of `repeat`."""


def varied_groups(spec: Mapping[str, Any]) -> "Iterator[tuple[SpecPath, Mapping[str, Any]]]":
    """Yield the mappings of varied keys with their paths; skips what is no mapping."""
    zipped, rows = spec.get("zip"), spec.get("rows")
    many = list(enumerate(zipped)) if isinstance(zipped, list) else []
    found: list[tuple[SpecPath, Any]] = [(("grid",), spec.get("grid")), (("zip",), zipped)]
    found += [(("zip", i), group) for i, group in many]
    found += [(("rows", row), rows[row]) for row in rows] if isinstance(rows, Mapping) else []
    search = spec.get("search")
    found += [(("search", "space"), search.get("space"))] if isinstance(search, Mapping) else []
    return ((path, group) for path, group in found if isinstance(group, Mapping))


def varied_seed(spec: Mapping[str, Any]) -> "SpecPath | None":
    """Return where a spec varies the seed, other than with `repeat`; None if it doesn't."""
    return next(((*path, "seed") for path, group in varied_groups(spec) if "seed" in group), None)


def with_seeds(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with `grid.seed` in place of `repeat`; unchanged where that is not valid."""
    count, grid = spec.get("repeat"), spec.get("grid", {})
    if type(count) is not int or not 1 <= count <= MAX_REPEAT or not isinstance(grid, Mapping):
        return dict(spec)
    if varied_seed(spec) is not None:
        return dict(spec)
    rest = {key: value for key, value in spec.items() if key != "repeat"}
    return {**rest, "grid": {**grid, "seed": list(range(count))}}
