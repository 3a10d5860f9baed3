"""The dimensions of a search space: from a number in [0, 1) to a value of a key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

from gaplab.schema import owners_of
from gaplab.search.options import Domain
from gaplab.spec import Experiment


@dataclass(frozen=True)
class Choices:
    """Values without an order."""

    values: tuple[Any, ...]

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self.values)

    def at(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the way."""
        return self.values[int(share * self.count)]


@dataclass(frozen=True)
class Integers:
    """low, low + step, ... up to high."""

    low: int
    high: int
    step: int
    log: bool

    @property
    def count(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def at(self, share: float) -> int:
        """The value at `share` in [0, 1) of the way; on a log scale an integer has the part of it
        from half below to half above.
        """
        if not self.log:
            return self.low + self.step * int(share * self.count)
        found = round(_between(math.log(self.low - 0.5), math.log(self.high + 0.5), share))
        return min(max(found, self.low), self.high)


@dataclass(frozen=True)
class Reals:
    """Every number from low to high, or low, low + step, ...

    Numbers are rounded to six significant digits: trials are named by them, so they may not hang
    on the last bit of a logarithm.
    """

    low: float
    high: float
    step: float | None
    log: bool

    @property
    def count(self) -> int | None:
        """How many values there are; None: too many to count."""
        if self.step is None:
            return None
        return math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1

    @property
    def last(self) -> float:
        """The largest value."""
        if self.step is None or self.count is None:
            return self.high
        return self.tidy(self.low + self.step * (self.count - 1))

    def at(self, share: float) -> float:
        """The value at `share` in [0, 1) of the way."""
        if self.step is not None and self.count is not None:
            return self.tidy(self.low + self.step * int(share * self.count))
        if self.log:
            return self.tidy(_between(math.log(self.low), math.log(self.high), share))
        return self.tidy(self.low + share * (self.high - self.low))

    def tidy(self, value: float) -> float:
        """The value as a trial has it: rounded, and never outside."""
        digits = 6 if self.step is None else 12
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)


Dimension = Choices | Integers | Reals


def dimensions(space: Mapping[str, Domain]) -> dict[str, Dimension]:
    """The dimension of each key of a space, in alphabetical order of keys.

    A domain that `search.check` refuses has some dimension, too.
    """
    return {key: _dimension(key, space[key]) for key in sorted(space)}


def kind(key: str) -> type[int] | type[float] | None:
    """The numbers that a dotted key takes; None for a key of another kind, or unknown."""
    found = {each for owner in owners_of(key.split("."), Experiment) for each in _types(owner, key)}
    if not found or not found <= {int, float}:
        return None
    return int if int in found else float


def _types(owner: Any, key: str) -> set[Any]:
    annotation = owner.model_fields[key.split(".")[-1]].annotation
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return set(kinds) - {type(None)}


def _dimension(key: str, domain: Domain) -> Dimension:
    if domain.choices is not None:
        return Choices(tuple(domain.choices))
    low, high = domain.ends
    if kind(key) is not int:
        return Reals(low, high, domain.step, domain.log)
    first, step = math.ceil(low), max(1, int(domain.step or 1))
    last = first + max(0, math.floor(high) - first) // step * step
    return Integers(first, last, step, domain.log)


def _between(low: float, high: float, share: float) -> float:
    return math.exp(low + share * (high - low))
