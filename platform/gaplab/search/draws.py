"""Random samples of a search space: each a pure function of the search's seed and its number."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from gaplab.identity import canonical
from gaplab.search.dimensions import Dimension, dimensions
from gaplab.search.options import SearchOptions

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
    return list(_first(search.model_dump_json(exclude_unset=True), count))


@lru_cache(maxsize=8)
def _first(text: str, count: int) -> tuple[Sample, ...]:
    """Cached because a spec's axes are asked for again and again; `text` is the search as JSON."""
    return tuple(itertools.islice(draws(SearchOptions.model_validate_json(text)), count))


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


def remarks(search: SearchOptions | None, left: int | None = None) -> tuple[str, ...]:
    """What a person should know about the samples, one line each.

    left: samples that an adaptive search has still to propose; None: it has not begun.
    """
    if search is None:
        return ()
    found = len(samples(search)) if left is None else search.trials - left
    if found == search.trials:
        return ()
    if search.adaptive:
        rest = search.trials - found
        return (f"search: {found} samples so far, up to {rest} more are proposed as trials end",)
    return (f"search: {search.trials} samples asked for, the space has {found} different",)


def _size(space: Mapping[str, Dimension]) -> int | None:
    """How many samples the space has; None: too many to count."""
    counts = [each.count for each in space.values()]
    known = [count for count in counts if count is not None]
    return math.prod(known) if len(known) == len(counts) else None
