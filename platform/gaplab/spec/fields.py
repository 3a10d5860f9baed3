"""Look up what a spec may contain: keys, classes of options and entries of tables.

Everything is derived from the fields of `Experiment`, which is why an option needs no registration.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, get_args

from pydantic import create_model
from pydantic.fields import FieldInfo

from detectors.options import OneOf, Options


def table_of(field: FieldInfo) -> Mapping[str, type[Options]]:
    """Return the table whose entries a field accepts; empty if it accepts something else."""
    tables = [entry.table for entry in field.metadata if isinstance(entry, OneOf)]
    return tables[0] if tables else {}


def models_of(field: FieldInfo) -> list[type[Options]]:
    """Return the classes of options that a field's value may have; none for a plain value."""
    if table := table_of(field):
        return list(table.values())
    kinds = get_args(field.annotation) or (field.annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Options)]


def keys_of(models: Iterable[type[Options]]) -> list[str]:
    """Return the keys that at least one of `models` has, each once, in order."""
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def owners_of(key: Sequence[str], model: type[Options]) -> list[type[Options]]:
    """Return the classes below `model` that have the last part of a dotted key.

    There may be several: entries of a table may have a key in common.
    """
    owners = [model]
    for depth, part in enumerate(key):
        owners = [owner for owner in owners if part in owner.model_fields]
        if depth < len(key) - 1:
            owners = [inner for owner in owners for inner in models_of(owner.model_fields[part])]
    return owners


def models_below(key: Sequence[str], model: type[Options]) -> list[type[Options]]:
    """Return the classes whose keys may follow a dotted key; none if it names a single value."""
    fields = [owner.model_fields[key[-1]] for owner in owners_of(key, model)]
    return [inner for field in fields for inner in models_of(field)]


def entries_with(key: Sequence[str], model: type[Options]) -> list[str]:
    """Return the names of the table entries that have the last part of a dotted key."""
    tables = [table_of(owner.model_fields[key[-2]]) for owner in owners_of(key[:-1], model)]
    return [
        name for table in tables for name, entry in table.items() if key[-1] in entry.model_fields
    ]


@cache
def dotted_keys(model: type[Options], depth: int = 4) -> tuple[str, ...]:
    """Return the dotted keys below `model` with at most `depth` parts, each once, in order."""
    found = dict[str, None]()
    for key, field in model.model_fields.items():
        found[key] = None
        for inner in models_of(field) if depth > 1 else []:
            found.update((f"{key}.{below}", None) for below in dotted_keys(inner, depth - 1))
    return tuple(found)


@cache
def single_field_model(owner: type[Options], key: str) -> type[Options]:
    """Return a class with one field of `owner`, to validate one part of a spec by itself."""
    field = owner.model_fields[key]
    fields: dict[str, Any] = {key: (field.annotation, field)}
    model: type[Options] = create_model(key, __base__=Options, **fields)
    return model
