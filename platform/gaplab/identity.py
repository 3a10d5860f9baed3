"""What makes two trials the same trial."""

import hashlib
import json
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from detectors.options import Options

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(value: Any) -> Any:
    """`value` as plain JSON, without the fields that can't change a result, at any depth."""
    if isinstance(value, Options):
        return {key: identity(getattr(value, key)) for key in counted(type(value))}
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


def canonical(value: Any) -> str:
    """JSON in which the order of keys makes no difference."""
    return _ENCODER.encode(value)


def digest(text: str, digits: int) -> str:
    """The first hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
