"""Describe what a spec may contain, from the classes that it is checked against.

`gaplab options` prints it, and the reference of the documentation is written from it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectors.assigners import ASSIGNERS
from detectors.data import DATASETS
from detectors.evaluation.protocol import Protocol
from detectors.losses import LossOptions
from detectors.models import DETECTORS
from detectors.models.backbones import BACKBONES
from detectors.models.gates import GATES
from detectors.options import Options, docstrings
from detectors.perceptron import PerceptronOptions
from detectors.training import Training
from gaplab.errors import UserError
from gaplab.formatting import joined
from gaplab.spec.fields import models_of, table_of
from gaplab.spec.models import (
    CheckpointOptions,
    EvaluationOptions,
    Policy,
    Reading,
    Resources,
    Spec,
)
from gaplab.spec.problems import entries_about, format_value, unknown
from gaplab.spec.search import Domain, SearchOptions, StopOptions

Sections = Mapping[str, type[Options]]
"""Name of a section or of a table's entry -> the class with its options."""
Schema = Mapping[str, Any]
"""The JSON schema of one field."""

TABLES: Mapping[str, Sections] = {
    "data": DATASETS,
    "detector": DETECTORS,
    "detector.backbone": BACKBONES,
    "detector.gate": GATES,
    "assignment": ASSIGNERS,
}
"""Key of a spec -> the table of which its `name` selects an entry."""
SECTIONS: Sections = {
    "spec": Spec,
    "evaluation": EvaluationOptions,
    "evaluation.protocol": Protocol,
    "training": Training,
    "training.loss": LossOptions,
    "resources": Resources,
    "checkpoints": CheckpointOptions,
    "run": Policy,
    "search": SearchOptions,
    "search.space": Domain,
    "stop": StopOptions,
    "read": Reading,
    "perceptron": PerceptronOptions,
}
"""Key of a spec -> the class with its options; `spec` are the keys of the sweep itself."""


@dataclass(frozen=True)
class Option:
    """One option as text; names and values are in backticks."""

    name: str
    values: str
    """Type and range."""
    default: str
    meaning: str
    counted: bool
    """Whether it is part of a trial's id."""
    table: Sections
    """The table whose entries it accepts; empty if it accepts other values."""


def description_of(model: type[Options]) -> str:
    """Return the docstring of a class, with those of the base classes that it refers to."""
    text = inspect.cleandoc(model.__doc__ or "")
    bases = [each for each in model.__mro__[1:] if f"`{each.__name__}`" in text]
    more = [f"`{each.__name__}`: {inspect.cleandoc(each.__doc__ or '')}" for each in bases]
    return "\n\n".join([text, *more])


def options_of(
    model: type[Options], reference: Callable[[str], str] = lambda kind: "mapping"
) -> list[Option]:
    """Return the options of a class, in its order.

    Args:
        model: the class.
        reference: returns what stands for a mapping whose options are those of the named class.
    """
    schemas, texts = model.model_json_schema()["properties"], docstrings(model)
    named = model is not Spec and "name" in schemas
    fields = {
        name: field
        for name, field in model.model_fields.items()
        if name != "base" and not (named and name == "name")
    }
    return [
        Option(
            name=name,
            values=_names(table_of(field)) or _values(schemas[name], reference),
            default="required" if field.is_required() else default_text(schemas[name]["default"]),
            meaning=" ".join(texts.get(name, "").split()),
            counted=schemas[name].get("identity") is not False,
            table=table_of(field),
        )
        for name, field in fields.items()
    ]


def nested(entries: Sections) -> Sections:
    """Return the classes of options inside `entries` that no table lists, by their last key."""
    keys = {
        inner: key
        for model in entries.values()
        for key, field in model.model_fields.items()
        if not table_of(field)
        for inner in models_of(field)
    }
    return {key: inner for inner, key in keys.items()}


def find(key: str) -> list[tuple[str, type[Options], list[Option]]]:
    """Return the sections, entries of tables and single options that a key names.

    Args:
        key: `training.loss`, `assignment.poto`, or an option such as `training.lr`; the last part
            is enough.

    Returns:
        The dotted key, the class, and those of its options that are meant.

    Raises:
        UserError: nothing has this name.
    """
    known = dict(everything())
    names = [name for name in known if name == key]
    names = names or [name for name in known if name.endswith(f".{key}")]
    if names:
        return [(name, known[name], options_of(known[name])) for name in names]
    section, _, last = key.rpartition(".")
    found = [
        (name, model, [each for each in options_of(model) if each.name == last])
        for name, model in known.items()
        if last in model.model_fields and (not section or _is_at(name, section))
    ]
    if not found:
        raise UserError(_unknown(key, known))
    return found


def _unknown(key: str, known: Sections) -> str:
    """Return the text for a key that nothing has; it may be the name of a paper's system."""
    entries = [name.rpartition(".")[2] for name in known]
    about = entries_about(key, known)
    if about and key.lower() not in entries:
        return f"unknown key {format_value(key)}; see {joined(about, 'or')}"
    options = (option for model in known.values() for option in model.model_fields)
    return unknown(key, dict.fromkeys([*known, *entries, *options]), "key ", [*TABLES, *SECTIONS])


def _is_at(name: str, section: str) -> bool:
    """Return whether a section or an entry has a name, or is an entry of the table of that name."""
    table, _, entry = name.rpartition(".")
    return section in (name, entry) or (section == table and table in TABLES)


def everything() -> Iterator[tuple[str, type[Options]]]:
    """Yield every section and every entry of a table, with the dotted key that selects it."""
    yield from SECTIONS.items()
    for table, entries in TABLES.items():
        yield from ((f"{table}.{name}", model) for name, model in entries.items())
        yield from ((f"{table}.{key}", model) for key, model in nested(entries).items())


def _names(table: Sections) -> str:
    return ", ".join(f"`{name}`" for name in table)


def _values(schema: Schema, reference: Callable[[str], str]) -> str:
    """Return the type and range of an option, as a reader of YAML would say it."""
    if kinds := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(dict.fromkeys(_values(kind, reference) for kind in kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return reference(schema["$ref"].rpartition("/")[2])
    kind: str = schema.get("type", "value")
    if kind == "array":
        item, comma, limits = _values(schema["items"], reference).partition(",")
        return f"list of {item}s{comma}{limits}"
    names = {"boolean": "`true`, `false`", "string": "text", "null": "`null`", "object": "mapping"}
    return names.get(kind, kind) + _range(schema)


def _range(schema: Schema) -> str:
    """Return the limits of a number: `, 0 to 1`; empty where it has none."""
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "multipleOf": "a multiple of",
    }
    if {"minimum", "maximum"} <= schema.keys():
        return f", {schema['minimum']:,} to {schema['maximum']:,}"
    return "".join(f", {words[key]} {schema[key]:,}" for key in words if key in schema)


def default_text(value: Any) -> str:
    """Return a default as a spec would say it."""
    if isinstance(value, dict):
        name = value.get("name", value.get("preset"))
        return f"`{name}`" if name else "its defaults" if value else "empty"
    if value in ("", []):
        return "empty"
    names = {None: "null", True: "true", False: "false"}
    return f"`{names[value] if value is None or isinstance(value, bool) else value}`"
