"""Problems of a spec: where each one is, and one line of text that says how to fix it.

Errors that pydantic finds are converted by `to_problem`.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from detectors.options import Options
from gaplab.spec.fields import dotted_keys, keys_of, models_of, table_of

SpecPath = tuple[str | int, ...]
"""Location in a spec: keys of mappings and indices of lists, from the top level down."""

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
    "value_error": "{error}",
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


def to_problem(error: ErrorDetails, model: type[Options]) -> Problem:
    """Convert an error that pydantic found while it validated a `model`."""
    path, owners, field = _locate(error["loc"], model)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        own, key = keys_of(owners), str(path[-1])
        near = difflib.get_close_matches(key, own)
        elsewhere = [] if near else dotted_keys(model)
        return Problem(path, unknown_dotted(format_path(path), elsewhere, own), True)
    if kind == "union_tag_not_found" and field is not None:
        names = ", ".join(table_of(field))
        return Problem((*path, "name"), f"is required; choose one of {names}")
    if kind == "union_tag_invalid":
        return Problem((*path, "name"), unknown(context["tag"], _quoted(context["expected_tags"])))
    if kind == "literal_error" and isinstance(error["input"], str):
        return Problem(path, unknown(error["input"], _quoted(context["expected"])))
    message = MESSAGES.get(kind, error["msg"] + ", got {got}")
    values = {key: _without_point(value) for key, value in context.items()}
    return Problem(path, message.format(got=format_value(error["input"]), **values))


def format_path(path: SpecPath) -> str:
    """Return a path as text: ("grid", "seed", 0) becomes `grid.seed[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def format_value(value: Any) -> str:
    """Return a value as JSON of at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown(got: str, valid: Iterable[str], kind: str = "") -> str:
    """Return the text for an unknown name, such as `unknown "potto"; did you mean "poto"?`."""
    return f"unknown {kind}{format_value(got)}; {suggest(got, list(valid))}"


def unknown_key(got: str, valid: Iterable[str]) -> str:
    """Return the text for an unknown key, such as `unknown key; did you mean "alpha"?`."""
    return f"unknown key; {suggest(got, list(valid))}"


def suggest(got: str, valid: list[str]) -> str:
    """Suggest the valid name that is most similar to `got`, or all of them if none is similar."""
    similar = difflib.get_close_matches(got, valid, n=1)
    if similar:
        return f'did you mean "{similar[0]}"?'
    return f"choose one of {', '.join(valid)}" if valid else "there are none"


def unknown_dotted(got: str, keys: Iterable[str], others: Iterable[str]) -> str:
    """Return the text for an unknown dotted key, such as `did you mean "training.lr"?` for `lr`.

    Args:
        got: the key.
        keys: dotted keys that may be meant.
        others: what is listed if none of them is similar.
    """
    if not (found := similar_keys(got, list(dict.fromkeys(keys)))):
        return unknown_key(got.rpartition(".")[2], others)
    *first, last = [f'"{key}"' for key in found]
    return f"unknown key; did you mean {', '.join(first)}{' or ' if first else ''}{last}?"


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
    found = [key for key in found if key.startswith(f"{section}.")] or found
    depth = min((key.count(".") for key in found), default=0)
    return [key for key in found if key.count(".") == depth][:MOST_SIMILAR]


def _are_similar(left: Sequence[str], right: Sequence[str]) -> bool:
    """Return whether two keys have as many parts, all of which are spelled similarly."""
    return len(left) == len(right) and all(
        difflib.get_close_matches(a, [b], cutoff=0.7) for a, b in zip(left, right, strict=True)
    )


def _locate(
    loc: SpecPath, model: type[Options]
) -> tuple[SpecPath, list[type[Options]], FieldInfo | None]:
    """Find what the location of a pydantic error means in a spec.

    In a pydantic location, the name of the selected entry follows every field that accepts any
    entry of a table; a spec has no such step. Keys of a mapping of options aren't fields.

    Returns:
        The path in the spec, the classes that may own its last key, and the field it names.
    """
    path: list[str | int] = []
    owners, inner, field = [model], [model], None
    steps = iter(loc)
    for step in steps:
        path.append(step)
        owners = inner
        field = next((o.model_fields[step] for o in owners if step in o.model_fields), None)
        table = table_of(field) if field else {}
        inner = models_of(field) if field else []
        if table and (entry := next(steps, None)) is not None:
            inner = [table[str(entry)]]
        elif inner and field and get_origin(field.annotation) is dict:
            path += islice(steps, 1)
    return tuple(path), owners, field


def _without_point(value: Any) -> Any:
    """Return a whole number as an integer: pydantic turns the bound 1 into 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quoted(names: str) -> list[str]:
    return re.findall(r"'([^']*)'", names)
