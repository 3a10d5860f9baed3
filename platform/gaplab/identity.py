"""Identity of a trial: which options are part of its id, and how they are hashed."""

import hashlib
import json
import re
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from detectors.options import LATER, Options

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(value: Any) -> Any:
    """Return `value` as plain JSON, without the fields that can't change a result, at any depth.

    Fields declared `LATER` are left out if they have their default.
    """
    if isinstance(value, Options):
        keys = [key for key in counted(type(value)) if not _is_later_default(value, key)]
        return {key: identity(getattr(value, key)) for key in keys}
    if isinstance(value, dict):
        return {key: identity(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [identity(inner) for inner in value]
    return value


@cache
def counted(model: type[Options]) -> tuple[str, ...]:
    """Return the names of the fields that can change a trial's result."""
    return tuple(key for key, field in model.model_fields.items() if _counts(field))


def _counts(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not isinstance(extra, dict) or extra.get("identity") is not False


def _is_later_default(value: Options, key: str) -> bool:
    """Return whether a field is declared `LATER` and has its default."""
    field = type(value).model_fields[key]
    extra = field.json_schema_extra
    later = isinstance(extra, dict) and extra.get("identity") == LATER["identity"]
    return later and bool(getattr(value, key) == field.default)


def canonical(value: Any) -> str:
    """Return canonical JSON: the order of keys makes no difference."""
    return _ENCODER.encode(value)


def digest(text: str, digits: int) -> str:
    """Return the first `digits` hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def is_trial_id(text: str) -> bool:
    """Return whether `text` has the form of a trial's id: 12 hex digits."""
    return re.fullmatch(r"[0-9a-f]{12}", text) is not None
