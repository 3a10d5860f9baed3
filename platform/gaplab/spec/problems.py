"""Problems of a spec: where each one is, and one line of text that says how to fix it.

Errors that pydantic finds are converted by `problems_of`.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from detectors.options import Options, UnfitError
from gaplab.formatting import joined
from gaplab.spec.fields import dotted_keys, keys_of, models_of, table_of

SpecPath = tuple[str | int, ...]
"""Location in a spec: keys of mappings and indices of lists, from the top level down."""

_SUBJECT = re.compile(r"([a-z0-9_.]+)(?:: | (?=must |needs ))(.+)", re.DOTALL)
"""A problem that begins with the key of an option: `groups must divide ...`, `bn: frozen needs`."""
MOST_NAMES = 2
"""Names that a message suggests at most."""
MOST_SIMILAR = 5
"""Keys that a message suggests at most."""
MESSAGES = {
    "missing": "is required",
    "greater_than": "must be greater than {gt}, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "multiple_of": "must be a multiple of {multiple_of}, got {got}",
    "finite_number": "must be finite, got {got}",
    "int_type": "must be an integer, got {got}",
    "int_from_float": "must be an integer, got {got}",
    "float_type": "must be a number, got {got}",
    "bool_type": "must be true or false, got {got}",
    "string_type": "must be text, got {got}",
    "string_pattern_mismatch": "must match {pattern}, got {got}",
    "literal_error": "must be {expected}, got {got}",
    "list_type": "must be a list, got {got}",
    "tuple_type": "must be a list, got {got}",
    "dict_type": "must be a mapping, got {got}",
    "model_type": "must be a mapping, got {got}",
    "model_attributes_type": "must be a mapping, got {got}",
    "too_short": "length must be at least {min_length}, is {actual_length}",
    "string_too_short": "length must be at least {min_length}, got {got}",
    "too_long": "length must be at most {max_length}, is {actual_length}",
}
"""Type of a pydantic error -> the text of its problem."""


@dataclass(frozen=True)
class Problem:
    """One problem of a spec."""

    path: SpecPath
    """Where it is; empty for a problem of the whole spec."""
    text: str
    of_key: bool = False
    """Whether the key itself is wrong, not its value."""

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.text}" if self.path else self.text


def problems_of(error: ValidationError, model: type[Options]) -> list[Problem]:
    """Convert the errors that pydantic found while it validated a `model`."""
    return [each for one in error.errors(include_url=False) for each in _problems(one, model)]


def _problems(error: ErrorDetails, model: type[Options]) -> list[Problem]:
    """Convert one error; that of options which don't fit each other may be several problems."""
    place = _locate(error["loc"], model)
    if error["type"] != "value_error":
        return [_problem(error, place, model)]
    found = error["ctx"]["error"]
    lines = found.problems if isinstance(found, UnfitError) else [str(found)]
    return [_of_option(line, place) for line in lines]


def _of_option(line: str, place: "_Place") -> Problem:
    """Return a problem of the options at a place, with the path of the one that it begins with."""
    if found := _SUBJECT.fullmatch(line):
        key = found[1].split(".")
        if key[0] in keys_of(place.inner):
            return Problem((*place.path, *key), found[2])
    return Problem(place.path, line)


def _problem(error: ErrorDetails, place: "_Place", model: type[Options]) -> Problem:
    path, field = place.path, place.field
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, _unknown_option(place, model), True)
    if kind == "union_tag_not_found" and field is not None:
        names = ", ".join(table_of(field))
        return Problem((*path, "name"), f"is required; choose one of {names}")
    if kind == "union_tag_invalid":
        table = table_of(field) if field is not None else {}
        return Problem((*path, "name"), _unknown_entry(context["tag"], table))
    if kind == "literal_error" and isinstance(error["input"], str):
        return Problem(path, unknown(error["input"], _quoted(context["expected"])))
    if kind in ("model_type", "model_attributes_type") and field is not None:
        return Problem(path, _no_mapping(error["input"], field))
    message = MESSAGES.get(kind, error["msg"] + ", got {got}")
    values = {key: _without_point(value) for key, value in context.items()}
    return Problem(path, message.format(got=format_value(error["input"]), **values))


def _unknown_option(place: "_Place", model: type[Options]) -> str:
    """Return the text for an unknown key: one that is similar, or the entries that have it."""
    own, key = keys_of(place.owners), str(place.path[-1])
    if _closest(key, own):
        return unknown_key(key, own)
    names = [name for name, entry in place.table.items() if key in entry.model_fields]
    if names:
        here = next(name for name, entry in place.table.items() if entry is place.owners[0])
        have = "have" if len(names) > 1 else "has"
        return f"unknown key of {here}; only {joined(names, 'and')} {have} it"
    beside = format_path(place.path[:-1])
    others = [each for each in dotted_keys(model) if each.rpartition(".")[0] != beside]
    return unknown_dotted(format_path(place.path), others, own)


def _no_mapping(got: Any, field: FieldInfo) -> str:
    """Return the text for a value that must be a mapping of options."""
    table = table_of(field)
    entry = f"; write {{name: {got}}}" if isinstance(got, str) and got in table else ""
    return f"must be a mapping, got {format_value(got)}{entry}"


def _unknown_entry(got: str, table: Mapping[str, type[Options]]) -> str:
    """Return the text for an unknown name of a table's entry."""
    found = entries_about(got, table)
    if not found:
        return unknown(got, table)
    return f"unknown {format_value(got)}; see {joined(found, 'or')}"


def entries_about(got: str, table: Mapping[str, type[Options]]) -> list[str]:
    """Return the entries whose description names a paper's system, such as H-DETR."""
    if got.lower() in table:
        return []
    words = map(re.escape, re.split(r"[ _-]", got))
    named = re.compile(rf"\b{'[ _-]'.join(words)}\b", re.IGNORECASE)
    return [
        name
        for name, entry in table.items()
        if any(sum(map(str.isupper, each)) > 1 for each in named.findall(entry.__doc__ or ""))
    ]


def format_path(path: SpecPath) -> str:
    """Return a path as text: ("grid", "seed", 0) becomes `grid.seed[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def format_value(value: Any) -> str:
    """Return a value as JSON of at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown(
    got: str, valid: Iterable[str], kind: str = "", listed: Iterable[str] | None = None
) -> str:
    """Return the text for an unknown name, such as `unknown "potto"; did you mean "poto"?`.

    Args:
        got: the name.
        valid: the names that may be meant.
        kind: what it is the name of, with a space behind it.
        listed: what is listed if none of them is similar; None: all.
    """
    names = list(valid)
    text = suggest(got, names if listed is None or _closest(got, names) else list(listed))
    return f"unknown {kind}{format_value(got)}; {text}"


def unknown_key(got: str, valid: Iterable[str]) -> str:
    """Return the text for an unknown key, such as `unknown key; did you mean "alpha"?`."""
    return f"unknown key; {suggest(got, list(valid))}"


def suggest(got: str, valid: list[str]) -> str:
    """Suggest the valid names that are most similar to `got`, or all of them if none is similar."""
    if similar := _closest(got, valid):
        return _did_you_mean(similar)
    return f"choose one of {', '.join(valid)}" if valid else "there are none"


def _did_you_mean(names: Iterable[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return f"did you mean {joined(quoted, 'or')}?"


def _closest(got: str, valid: Sequence[str]) -> list[str]:
    """Return the names that are most similar to `got` in any case, and others nearly as similar."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), got.lower()).ratio()

    names = {name.lower(): name for name in valid}
    found = [names[each] for each in difflib.get_close_matches(got.lower(), names, n=MOST_NAMES)]
    return [name for name in found if likeness(name) > likeness(found[0]) - 0.1]


def unknown_dotted(got: str, keys: Iterable[str], others: Iterable[str]) -> str:
    """Return the text for an unknown dotted key, such as `did you mean "training.lr"?` for `lr`.

    Args:
        got: the key.
        keys: dotted keys that may be meant.
        others: what is listed if none of them is similar.
    """
    if not (found := similar_keys(got, list(dict.fromkeys(keys)))):
        return unknown_key(got.rpartition(".")[2], others)
    return f"unknown key; {_did_you_mean(found)}"


def similar_keys(got: str, keys: Sequence[str]) -> list[str]:
    """Return the dotted keys that `got` may stand for: at most `MOST_SIMILAR`, all of equal depth.

    For a key with a dot, that is the one that is spelled similarly in all parts. Otherwise they are
    those that end with the same part, or else with a similar one, and have the fewest parts. There
    are none if `got` is one of `keys`: then it is only wrong where it stands.
    """
    if got in keys:
        return []
    section, last = got.partition(".")[0], got.rpartition(".")[2]
    ends = {key: key.rpartition(".")[2] for key in keys}
    found = list[str]()
    if "." in got:
        alike = [key for key in keys if _are_similar(got.split("."), key.split("."))]
        found = difflib.get_close_matches(got, alike, n=1)
    found = found or [key for key in keys if ends[key] == last]
    if not found:
        near = difflib.get_close_matches(last, dict.fromkeys(ends.values()), n=1, cutoff=0.7)
        found = [key for key in keys if ends[key] in near]
        if "." in got and section in keys:  # in another section, only an equal name is meant
            found = [key for key in found if key.startswith(f"{section}.")]
    found = [key for key in found if key.startswith(f"{section}.")] or found
    depth = min((key.count(".") for key in found), default=0)
    return [key for key in found if key.count(".") == depth][:MOST_SIMILAR]


def _are_similar(left: Sequence[str], right: Sequence[str]) -> bool:
    """Return whether two keys have as many parts, all of which are spelled similarly."""
    return len(left) == len(right) and all(
        difflib.get_close_matches(a, [b], cutoff=0.7) for a, b in zip(left, right, strict=True)
    )


class _Place(NamedTuple):
    """What the location of a pydantic error means in a spec."""

    path: SpecPath
    owners: list[type[Options]]
    """The classes that may own the last key of the path."""
    field: FieldInfo | None
    """The field that the path names."""
    inner: list[type[Options]]
    """The classes of options that may be at the path."""
    table: Mapping[str, type[Options]]
    """The table that the class with the last key is an entry of; empty if it is in none."""


def _locate(loc: SpecPath, model: type[Options]) -> _Place:
    """Find what the location of a pydantic error means in a spec.

    In a pydantic location, the name of the selected entry follows every field that accepts any
    entry of a table; a spec has no such step. Keys of a mapping of options aren't fields.
    """
    path: list[str | int] = []
    owners, inner, field = [model], [model], None
    table: Mapping[str, type[Options]] = {}
    above = table
    steps = iter(loc)
    for step in steps:
        path.append(step)
        owners, above = inner, table
        field = next((o.model_fields[step] for o in owners if step in o.model_fields), None)
        table = table_of(field) if field else {}
        inner = models_of(field) if field else []
        if table and (entry := next(steps, None)) is not None:
            inner = [table[str(entry)]]
        elif inner and field and get_origin(field.annotation) is dict:
            path += islice(steps, 1)
    return _Place(tuple(path), owners, field, inner, above)


def _without_point(value: Any) -> Any:
    """Return a whole number as an integer: pydantic turns the bound 1 into 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quoted(names: str) -> list[str]:
    return re.findall(r"'([^']*)'", names)
