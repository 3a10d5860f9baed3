"""Read JSON files in any UTF encoding, and describe what is wrong with them in one line."""

import gc
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from detectors.data.base import DataError

_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be an integer, got {got}",
    "int_from_float": "must be an integer, got {got}",
    "int_parsing": "must be an integer, got {got}",
    "float_type": "must be a number, got {got}",
    "string_type": "must be text, got {got}",
    "string_pattern_mismatch": "must be without control characters, got {got}",
    "list_type": "must be a list, got {got}",
    "dict_type": "must be an object, got {got}",
    "model_type": "must be an object, got {got}",
    "too_short": "must have at least {min_length} entries, has {actual_length}",
    "too_long": "must have at most {max_length} entries, has {actual_length}",
    "string_too_short": "must not be empty",
    "greater_than": "must be greater than {gt}, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "value_error": "{error}",
}
"""Type of a pydantic error -> text."""
_SHOWN = 60
"""Maximum number of characters of a value in a message."""


GZIP = b"\x1f\x8b"
"""The first bytes of a file compressed by gzip."""


def decoded(path: Path, raw: bytes) -> bytes:
    """Return JSON as UTF-8, without a byte-order mark. UTF-16 and UTF-32 are converted.

    Args:
        path: the file, for messages.
        raw: its content, which may be compressed by gzip, whatever its name.

    Raises:
        DataError: the content is empty, or not text, or damaged.
    """
    if raw.startswith(GZIP):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError([f"{path}: damaged gzip file: {error}; export it again"]) from None
    encoding = json.detect_encoding(raw)
    try:
        text = raw if encoding == "utf-8" else raw.decode(encoding).encode()
    except UnicodeError as error:
        raise DataError([f"{path}: not text in {encoding}: {error}; export it again"]) from None
    if text.isspace() or not text:
        raise DataError([f"{path}: an empty file; export it again"])
    return text


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable garbage collection, which makes creating many dictionaries several times slower."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def describe(error: ErrorDetails, place: str = "") -> str:
    """Return an error that pydantic found in JSON as one line: where and what.

    Args:
        error: the error.
        place: where the validated value is in the file, such as `images[0]`.
    """
    keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"])
    where = f"{place}{''.join(keys)}".removeprefix(".")
    return f"{where}: {_reason(error)}" if where else _reason(error)


def _reason(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "json_invalid":
        reason = str(context["error"])
        return f"cut off: {reason}" if reason.startswith("EOF") else f"not JSON: {reason}"
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    return template.format(got=_shown(error["input"]), **context)


def _shown(value: Any) -> str:
    """Return a value as JSON, or its kind if it is a list or an object."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
