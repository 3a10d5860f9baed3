"""Draw the samples of a search: the dimensions of its space, and random points in it.

A sample is a function of the search's seed, the number of the sample and the key, so the samples of
a search never change when it gets more trials or another key.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

from gaplab.formatting import plural
from gaplab.identity import canonical
from gaplab.spec.fields import owners_of
from gaplab.spec.models import Experiment
from gaplab.spec.search import Domain, SearchOptions

Sample = dict[str, Any]
"""Searched key -> its value."""

MAX_REPEATS = 1000
"""After this many draws without a new sample, at least, a space counts as exhausted."""


def samples(search: SearchOptions) -> list[Sample]:
    """Return the samples that are known before any trial has ended.

    With `random`, these are all samples. There are fewer than `search.trials` if the space has no
    more. A larger `search.trials` only appends samples.
    """
    count = min(search.startup, search.trials) if search.adaptive else search.trials
    return list(itertools.islice(draws(search), count))


def draws(search: SearchOptions) -> Iterator[Sample]:
    """Yield different samples until the space has no more.

    A space with too many values to count is exhausted after as many repeated draws in a row as
    there are samples, times 20, and at least `MAX_REPEATS`.
    """
    space, seen, repeats = dimensions(search.space), set[str](), 0
    size = _size(space)
    for number in itertools.count():
        if len(seen) == size or repeats > max(MAX_REPEATS, 20 * len(seen)):
            return
        sample = {key: each.at(uniform(search.seed, number, key)) for key, each in space.items()}
        text = canonical(sample)
        repeats = repeats + 1 if text in seen else 0
        if not repeats:
            seen.add(text)
            yield {key: sample[key] for key in search.space}


def uniform(seed: int, number: int, key: str) -> float:
    """Return a number in [0, 1) for one key of one sample, uniformly distributed over all three.

    It depends on the key itself and not on its position, so another key in the space changes
    nothing for the others.
    """
    text = hashlib.sha256(f"{seed}/{number}/{key}".encode()).digest()
    return (int.from_bytes(text[:8]) >> 11) / 2**53


def remarks(search: SearchOptions | None, left: int) -> tuple[str, ...]:
    """Return what the user should know about the samples of a search, one line each.

    Args:
        search: the search, or None for a spec without one.
        left: number of samples that the search asks for and that are not known.
    """
    if search is None or left == 0:
        return ()
    known = search.trials - left
    if search.adaptive:
        return (
            f"search: {plural(known, 'sample')} so far, up to {left} more are proposed "
            "as trials end",
        )
    asked = plural(search.trials, "sample")
    return (f"search: {asked} requested, but the space has only {known}",)


@dataclass(frozen=True)
class Choices:
    """Dimension of values without an order."""

    values: tuple[Any, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    def at(self, fraction: float) -> Any:
        """Return the value at a fraction in [0, 1) of the way."""
        return self.values[int(fraction * self.count)]


@dataclass(frozen=True)
class Integers:
    """Dimension of the integers low, low + step, ... up to high."""

    low: int
    high: int
    step: int
    log: bool

    @property
    def count(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def at(self, fraction: float) -> int:
        """Return the value at a fraction in [0, 1) of the way.

        On a logarithmic scale, an integer n takes the part from n - 0.5 to n + 0.5.
        """
        if not self.log:
            return self.low + self.step * int(fraction * self.count)
        ends = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(max(round(_log_between(*ends, fraction)), self.low), self.high)


@dataclass(frozen=True)
class Reals:
    """Dimension of all numbers from low to high, or of low, low + step, ... up to high.

    Numbers are rounded to six significant digits (twelve with a step). They are part of trial ids,
    which must not depend on the last bit of a logarithm.
    """

    low: float
    high: float
    step: float | None
    log: bool

    @property
    def count(self) -> int | None:
        """Number of values; None: too many to count."""
        if self.step is None:
            return None
        return math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1

    @property
    def last(self) -> float:
        """Largest value."""
        if self.step is None or self.count is None:
            return self.high
        return self.rounded(self.low + self.step * (self.count - 1))

    def at(self, fraction: float) -> float:
        """Return the value at a fraction in [0, 1) of the way."""
        if self.step is not None and self.count is not None:
            return self.rounded(self.low + self.step * int(fraction * self.count))
        if self.log:
            return self.rounded(_log_between(math.log(self.low), math.log(self.high), fraction))
        return self.rounded(self.low + fraction * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """Return the value as a trial gets it: rounded, and within the range."""
        digits = 6 if self.step is None else 12
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)


Dimension = Choices | Integers | Reals


def dimensions(space: Mapping[str, Domain]) -> dict[str, Dimension]:
    """Return the dimension of each key of a space, in alphabetical order of the keys.

    Domains that `validate.check` rejects get a dimension as well.
    """
    return {key: _dimension(key, space[key]) for key in sorted(space)}


def number_type(key: str) -> type[int] | type[float] | None:
    """Return the type of number that a dotted key accepts; None for any other or unknown key."""
    found = {each for owner in owners_of(key.split("."), Experiment) for each in _types(owner, key)}
    if not found or not found <= {int, float}:
        return None
    return int if int in found else float


def _types(owner: Any, key: str) -> set[Any]:
    """Return the types that the field of `owner` for the last part of `key` accepts, but None."""
    annotation = owner.model_fields[key.split(".")[-1]].annotation
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return set(kinds) - {type(None)}


def _dimension(key: str, domain: Domain) -> Dimension:
    if domain.choices is not None:
        return Choices(tuple(domain.choices))
    low, high = domain.ends
    if number_type(key) is not int:
        return Reals(low, high, domain.step, domain.log)
    first, step = math.ceil(low), max(1, int(domain.step or 1))
    last = first + max(0, math.floor(high) - first) // step * step
    return Integers(first, last, step, domain.log)


def _log_between(low: float, high: float, fraction: float) -> float:
    """Return the number at a fraction of the way between two logarithms."""
    return math.exp(low + fraction * (high - low))


def _size(space: Mapping[str, Dimension]) -> int | None:
    """Return the number of samples in a space; None: too many to count."""
    counts = [each.count for each in space.values()]
    known = [count for count in counts if count is not None]
    return math.prod(known) if len(known) == len(counts) else None
