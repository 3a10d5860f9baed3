"""What a spec may say: the keys and table entries behind the fields of `Experiment`."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, get_args

from pydantic import create_model
from pydantic.fields import FieldInfo

from detectors.options import OneOf, Options


def table_of(field: FieldInfo) -> Mapping[str, type[Options]]:
    """The table whose entries a field accepts; empty for a field of another kind."""
    tables = [entry.table for entry in field.metadata if isinstance(entry, OneOf)]
    return tables[0] if tables else {}


def models_of(field: FieldInfo) -> list[type[Options]]:
    """The classes of options that a field's value may have; none for a plain value."""
    if table := table_of(field):
        return list(table.values())
    kinds = get_args(field.annotation) or (field.annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Options)]


def keys_of(models: Iterable[type[Options]]) -> list[str]:
    """The keys that one of `models` has, each once, in order."""
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def owners_of(key: Sequence[str], model: type[Options]) -> list[type[Options]]:
    """The classes that have the last part of a dotted key below `model`: entries may share it."""
    owners = [model]
    for depth, part in enumerate(key):
        owners = [owner for owner in owners if part in owner.model_fields]
        if depth < len(key) - 1:
            owners = [inner for owner in owners for inner in models_of(owner.model_fields[part])]
    return owners


def inside(key: Sequence[str], model: type[Options]) -> list[type[Options]]:
    """The classes whose keys may follow `key`; none where it names a single value."""
    fields = [owner.model_fields[key[-1]] for owner in owners_of(key, model)]
    return [inner for field in fields for inner in models_of(field)]


def entries_with(key: Sequence[str], model: type[Options]) -> list[str]:
    """Names of the table entries that have the last part of `key`; empty outside of tables."""
    tables = [table_of(owner.model_fields[key[-2]]) for owner in owners_of(key[:-1], model)]
    return [
        name for table in tables for name, entry in table.items() if key[-1] in entry.model_fields
    ]


@cache
def single(owner: type[Options], key: str) -> type[Options]:
    """A class with one field of `owner` alone, to read one part of a spec by itself."""
    field = owner.model_fields[key]
    fields: dict[str, Any] = {key: (field.annotation, field)}
    model: type[Options] = create_model(key, __base__=Options, **fields)
    return model
