"""What makes two trials the same trial."""

import hashlib
import json
import re
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from detectors.options import LATER, Options

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(value: Any) -> Any:
    """`value` as plain JSON, without the fields that can't change a result, at any depth.

    Fields marked `LATER` are left out where they have their default.
    """
    if isinstance(value, Options):
        counts = [key for key in counted(type(value)) if not _as_before(value, key)]
        return {key: identity(getattr(value, key)) for key in counts}
    if isinstance(value, dict):
        return {key: identity(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [identity(inner) for inner in value]
    return value


@cache
def counted(model: type[Options]) -> tuple[str, ...]:
    """The fields of a class of options that can change a trial's result."""
    return tuple(key for key, field in model.model_fields.items() if _counts(field))


def _counts(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not isinstance(extra, dict) or extra.get("identity") is not False


def _as_before(value: Options, key: str) -> bool:
    """Whether a field that was added later has the default, which means what was before it."""
    field = type(value).model_fields[key]
    extra = field.json_schema_extra
    later = isinstance(extra, dict) and extra.get("identity") == LATER["identity"]
    return later and bool(getattr(value, key) == field.default)


def canonical(value: Any) -> str:
    """JSON in which the order of keys makes no difference."""
    return _ENCODER.encode(value)


def digest(text: str, digits: int) -> str:
    """The first hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def is_trial_id(text: str) -> bool:
    """Return whether `text` has the form of a trial's id: 12 hex digits."""
    return re.fullmatch(r"[0-9a-f]{12}", text) is not None
