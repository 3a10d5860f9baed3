"""Entries of the tables of assignments, as tests of all of them use them."""

from typing import Any, TypeVar

from detectors.options import Options

T = TypeVar("T", bound=Options)


def quick(entry: type[T]) -> T:
    """Return an entry with its default options, but few iterations if it has iterations."""
    options: dict[str, Any] = {"iterations": 3} if "iterations" in entry.model_fields else {}
    return entry(**options)
