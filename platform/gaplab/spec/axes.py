"""Axes of a spec: the keys that it varies, grouped by what moves together.

`rows`, `search`, every key of `grid` and every group of `zip` are one axis each. The trials of a
spec are the Cartesian product of its axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaplab.spec.models import READ, Spec
from gaplab.spec.problems import SpecPath
from gaplab.spec.sampling import samples
from gaplab.spec.search import SearchOptions

Key = tuple[str, ...]
"""A dotted key, split into its parts."""

MISSING = object()
"""The value of a key that is not set."""


def split_key(key: str) -> Key:
    """Split a dotted key: `assignment.alpha` becomes ("assignment", "alpha")."""
    return tuple(key.split("."))


@dataclass(frozen=True)
class Axis:
    """Keys that move together: a trial takes the values at the same position of all their lists."""

    path: SpecPath
    """Where the spec defines the axis."""
    values: Mapping[str, Sequence[Any]]
    """Dotted key -> its values by position; MISSING where a row doesn't set the key."""
    rows: Sequence[str] = ()
    """Names of the positions, if the axis is that of `rows`."""
    drawn: bool = False
    """Whether the values were drawn from the domains of a search, so the spec doesn't list them."""

    @property
    def length(self) -> int:
        """Number of positions. All lists have this length (see `validate.check`)."""
        return len(self.rows) or len(next(iter(self.values.values())))

    def key_paths(self, key: str) -> list[SpecPath]:
        """Return every path at which the spec names `key`: one, or one per row that sets it."""
        if not self.rows:
            return [(*self.path, key)]
        rows = zip(self.rows, self.values[key], strict=True)
        return [(*self.path, row, key) for row, value in rows if value is not MISSING]


@dataclass(frozen=True)
class VariedKey:
    """One key of an axis, with its values."""

    name: str
    """The dotted key."""
    key: Key
    values: Sequence[Any]
    axis: Axis
    axis_index: int
    """Index of `axis` among the axes of the spec."""

    def key_path(self, position: int) -> SpecPath:
        """Return where the spec names the key for its value at `position`."""
        row = (self.axis.rows[position],) if self.axis.rows else ()
        return (*self.axis.path, *row, self.name)

    def value_path(self, position: int) -> SpecPath:
        """Return where the spec has the value at `position`; of a drawn value, its domain."""
        listed = not self.axis.rows and not self.axis.drawn
        return (*self.key_path(position), *((position,) if listed else ()))


def axes_of(spec: Spec) -> list[Axis]:
    """Return the axes of a spec, slowest first: rows, samples of the search, grid, zip."""
    found = [_row_axis(spec)] if spec.rows else []
    found += [_sample_axis(spec.search)] if spec.search else []
    found += [Axis(("grid",), {key: values}) for key, values in spec.grid.items()]
    if isinstance(spec.zip, dict):
        return found + [Axis(("zip",), spec.zip)] * bool(spec.zip)
    return found + [Axis(("zip", i), group) for i, group in enumerate(spec.zip) if group]


def varied_keys(axes: Sequence[Axis]) -> list[VariedKey]:
    """Return the keys of all axes, each section before the keys inside it."""
    found = [
        VariedKey(name, split_key(name), values, axis, index)
        for index, axis in enumerate(axes)
        for name, values in axis.values.items()
    ]
    return sorted(found, key=lambda varied: len(varied.key))


def _row_axis(spec: Spec) -> Axis:
    """Return the axis of `rows`, without the `read.` keys: they change no trial."""
    rows = spec.rows.values()
    keys = dict.fromkeys(key for row in rows for key in row if not key.startswith(READ))
    values = {key: [row.get(key, MISSING) for row in rows] for key in keys}
    return Axis(("rows",), values, tuple(spec.rows))


def _sample_axis(search: SearchOptions) -> Axis:
    """Return the axis of the samples that are known before any trial has ended."""
    found = samples(search)
    values = {key: [sample[key] for sample in found] for key in search.space}
    return Axis(("search", "space"), values, drawn=True)
