"""Whether a dotted key is one of an experiment's, and what it may be set to."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from detectors.options import Options
from gaplab.axes import Key
from gaplab.problems import Path, Problem, dotted, explain, unknown, unknown_key
from gaplab.schema import entries_with, inside, keys_of, owners_of, single
from gaplab.spec import Experiment


def known(key: Key, at: Path) -> Iterator[Problem]:
    """A problem at the first part of `key` that no experiment has."""
    owners: list[type[Options]] = [Experiment]
    for depth, part in enumerate(key):
        if not owners:
            yield Problem(at, f"unknown key; {dotted(key[:depth])} is a single value", True)
        elif part not in keys_of(owners):
            yield Problem(at, unknown_key(part, keys_of(owners)), True)
        else:
            owners = inside(key[: depth + 1], Experiment)
            continue
        return


def unfit(key: Key, value: Any) -> list[Problem]:
    """Why no experiment can have `value` at `key`; empty when one can.

    The problems' paths begin with the last part of the key.
    """
    found = [_problems(owner, key[-1], value) for owner in owners_of(key, Experiment)]
    names = entries_with(key, Experiment) if key[-1] == "name" else []
    if not all(found):
        return []
    if names and isinstance(value, str):
        return [Problem((key[-1],), unknown(value, names))]
    return found[0]


def _problems(owner: type[Options], key: str, value: Any) -> list[Problem]:
    model = single(owner, key)
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return [explain(each, model) for each in error.errors(include_url=False)]
    return []
