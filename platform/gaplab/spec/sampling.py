"""The dimensions of a search space: from a number in [0, 1) to a value of a key."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

from gaplab.identity import canonical
from gaplab.spec.fields import owners_of
from gaplab.spec.models import Experiment
from gaplab.spec.search import Domain, SearchOptions


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


Sample = dict[str, Any]
"""Searched key -> its value."""

_PATIENCE = 1000
"""Draws for one more different sample, at least, before a space counts as exhausted."""


def samples(search: SearchOptions) -> list[Sample]:
    """The samples that are known before any trial has ended.

    For `random` that is all of them. Fewer than `trials` where the space has no more; more `trials`
    add to the list and change nothing in it.
    """
    count = min(search.startup, search.trials) if search.adaptive else search.trials
    return list(itertools.islice(draws(search), count))


def draws(search: SearchOptions) -> Iterator[Sample]:
    """Different samples in their order, until the space has no more.

    A space that can't be counted counts as exhausted after as many draws in vain as there were
    samples, and at least a thousand.
    """
    space, seen, vain = dimensions(search.space), set[str](), 0
    size = _size(space)
    for number in itertools.count():
        if len(seen) == size or vain > max(_PATIENCE, 20 * len(seen)):
            return
        sample = {key: each.at(share(search.seed, number, key)) for key, each in space.items()}
        text = canonical(sample)
        vain = vain + 1 if text in seen else 0
        if not vain:
            seen.add(text)
            yield {key: sample[key] for key in search.space}


def share(seed: int, number: int, key: str) -> float:
    """A number in [0, 1) for one key of one sample, even over all three.

    Of the key itself, not of its place: another key in the space changes nothing for the others.
    """
    text = hashlib.sha256(f"{seed}/{number}/{key}".encode()).digest()
    return (int.from_bytes(text[:8]) >> 11) / 2**53


def remarks(search: SearchOptions | None, left: int) -> tuple[str, ...]:
    """Return what a person should know about the samples of a search, one line each.

    Args:
        search: the search, or None for a spec without one.
        left: number of samples that the search asks for and that are not known.
    """
    if search is None or left == 0:
        return ()
    found = search.trials - left
    if search.adaptive:
        return (f"search: {found} samples so far, up to {left} more are proposed as trials end",)
    return (f"search: {search.trials} samples asked for, the space has {found} different",)


def _size(space: Mapping[str, Dimension]) -> int | None:
    """How many samples the space has; None: too many to count."""
    counts = [each.count for each in space.values()]
    known = [count for count in counts if count is not None]
    return math.prod(known) if len(known) == len(counts) else None
