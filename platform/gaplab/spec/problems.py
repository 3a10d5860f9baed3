"""What is wrong with a spec, said in one line: what, where, and what would be right."""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from detectors.options import Options
from gaplab.spec.fields import keys_of, models_of, table_of

Path = tuple[str | int, ...]
"""Where something stands in a spec: keys of mappings and positions in lists."""

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
    "too_short": "must have at least {min_length} entries, has {actual_length}",
    "too_long": "must have at most {max_length} entries, has {actual_length}",
    "value_error": "{error}",
}


@dataclass(frozen=True)
class Problem:
    """One problem: where it is in the spec, and what it is."""

    path: Path
    text: str
    of_key: bool = False
    """True when the key is wrong, not its value."""

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


def dotted(path: Path) -> str:
    """("grid", "seed", 0) -> `grid.seed[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value as it stands in a message, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown(got: str, valid: Iterable[str], kind: str = "") -> str:
    """`unknown "potto"; did you mean "poto"?`, or the list of valid names when none is near."""
    return f"unknown {kind}{shown(got)}; {advice(got, list(valid))}"


def unknown_key(got: str, valid: Iterable[str]) -> str:
    """`unknown key; did you mean "alpha"?`, or the list of valid keys when none is near."""
    return f"unknown key; {advice(got, list(valid))}"


def advice(got: str, valid: list[str]) -> str:
    """The valid name nearest to `got`, or all of them when none is near."""
    near = difflib.get_close_matches(got, valid, n=1)
    return f'did you mean "{near[0]}"?' if near else f"one of {', '.join(valid) or 'none'}"


def explain(error: ErrorDetails, model: type[Options]) -> Problem:
    """The problem behind one error that pydantic found while it read a `model`."""
    path, owners, field = _locate(error["loc"], model)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, unknown_key(str(path[-1]), keys_of(owners)), True)
    if kind == "union_tag_not_found" and field is not None:
        return Problem((*path, "name"), f"is required; one of {', '.join(table_of(field))}")
    if kind == "union_tag_invalid":
        return Problem((*path, "name"), unknown(context["tag"], _quoted(context["expected_tags"])))
    if kind == "literal_error" and isinstance(error["input"], str):
        return Problem(path, unknown(error["input"], _quoted(context["expected"])))
    message = MESSAGES.get(kind, error["msg"] + ", got {got}")
    values = {key: _plain(value) for key, value in context.items()}
    return Problem(path, message.format(got=shown(error["input"]), **values))


def _locate(loc: Path, model: type[Options]) -> tuple[Path, list[type[Options]], FieldInfo | None]:
    """Where `loc` is in the spec, the classes that own its last key, and the field it names.

    pydantic puts the name of the chosen entry between a field that takes any entry of a table and
    the entry's own fields; in a spec there is no such step. Keys of a mapping of options are no
    fields.
    """
    path: list[str | int] = []
    owners, inside, field = [model], [model], None
    steps = iter(loc)
    for step in steps:
        path.append(step)
        owners = inside
        field = next((o.model_fields[step] for o in owners if step in o.model_fields), None)
        table = table_of(field) if field else {}
        inside = models_of(field) if field else []
        if table and (entry := next(steps, None)) is not None:
            inside = [table[str(entry)]]
        elif inside and field and get_origin(field.annotation) is dict:
            path += islice(steps, 1)
    return tuple(path), owners, field


def _plain(value: Any) -> Any:
    """A bound as the class's author wrote it: pydantic turns 1 into 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quoted(names: str) -> list[str]:
    return re.findall(r"'([^']*)'", names)
