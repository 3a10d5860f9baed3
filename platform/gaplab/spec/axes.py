"""What a spec varies: the keys that move together, and where it has each of their values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaplab.spec.models import READ, Spec
from gaplab.spec.problems import Path
from gaplab.spec.sampling import samples
from gaplab.spec.search import SearchOptions

Key = tuple[str, ...]
"""A dotted key in its parts."""

MISSING = object()


def parts(key: str) -> Key:
    """`assignment.alpha` -> ("assignment", "alpha")."""
    return tuple(key.split("."))


@dataclass(frozen=True)
class Axis:
    """Keys that move together: a trial takes the same position of all their lists.

    A position of `rows` has a name, and a key that this row doesn't set is MISSING there. Values
    that were drawn stand nowhere in the spec: their place is that of the domain.
    """

    at: Path
    values: Mapping[str, Sequence[Any]]
    rows: Sequence[str] = ()
    drawn: bool = False

    @property
    def length(self) -> int:
        """Positions; the lists are of this length (see `checks.check`)."""
        return len(self.rows) or len(next(iter(self.values.values())))

    def places(self, key: str) -> list[Path]:
        """Every place where the spec names `key`: each row that sets it, or the one list."""
        if not self.rows:
            return [(*self.at, key)]
        rows = zip(self.rows, self.values[key], strict=True)
        return [(*self.at, row, key) for row, value in rows if value is not MISSING]


@dataclass(frozen=True)
class Varied:
    """One varied key, its values, and the axis of this number along which it moves."""

    name: str
    key: Key
    values: Sequence[Any]
    axis: Axis
    number: int

    def key_at(self, position: int) -> Path:
        """Where the spec names the key for its value at `position`."""
        row = (self.axis.rows[position],) if self.axis.rows else ()
        return (*self.axis.at, *row, self.name)

    def value_at(self, position: int) -> Path:
        """Where the spec has the value at `position`."""
        listed = not self.axis.rows and not self.axis.drawn
        return (*self.key_at(position), *((position,) if listed else ()))


def axes_of(spec: Spec) -> list[Axis]:
    """What moves independently, in the order of trials: rows, samples of a search, grid, zip."""
    found = [_rows(spec)] if spec.rows else []
    found += [_drawn(spec.search)] if spec.search else []
    found += [Axis(("grid",), {key: values}) for key, values in spec.grid.items()]
    if isinstance(spec.zip, dict):
        return found + [Axis(("zip",), spec.zip)] * bool(spec.zip)
    return found + [Axis(("zip", i), group) for i, group in enumerate(spec.zip) if group]


def varied_keys(axes: Sequence[Axis]) -> list[Varied]:
    """Their keys, sections before what is inside them."""
    found = [
        Varied(name, parts(name), values, axis, number)
        for number, axis in enumerate(axes)
        for name, values in axis.values.items()
    ]
    return sorted(found, key=lambda varied: len(varied.key))


def _rows(spec: Spec) -> Axis:
    """The axis of rows, without what says how they are read."""
    rows = spec.rows.values()
    keys = dict.fromkeys(key for row in rows for key in row if not key.startswith(READ))
    values = {key: [row.get(key, MISSING) for row in rows] for key in keys}
    return Axis(("rows",), values, tuple(spec.rows))


def _drawn(search: SearchOptions) -> Axis:
    """The axis of the samples that are known before any trial has ended."""
    found = samples(search)
    values = {key: [sample[key] for sample in found] for key in search.space}
    return Axis(("search", "space"), values, drawn=True)
