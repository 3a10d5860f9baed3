"""Read results in COCO's format: a JSON list with an object for each detection, also in gzip.

The list is parsed in blocks, so that a file needs little more memory than its numbers do.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic_core import from_json

from detectors.data.json_text import GZIP, no_collection
from gaplab.errors import UserError
from gaplab.storage.detections.memory import check_detections
from gaplab.storage.detections.rows import BoxForm, HeldSource, Key, KeyTable, Rows, joined
from gaplab.storage.detections.written_masks import Written, with_boxes

BLOCK = 1 << 24
"""Bytes that are parsed at once."""
_TAIL = 1 << 16
"""Bytes at the end of a block in which the end of an entry is looked for."""
_ROW_END = re.compile(rb"\}\s*,\s*(?=\{)")
_IMAGE_KEYS = ("image_id", "file_name")
_CATEGORY_KEYS = ("category_id", "category_name", "category", "class")
_REMEDY = "write a list of objects with image_id, category_id, bbox and score"
_AGAIN = "export it again"
_NAMED = 5
_NUMBERS = {int, float}

Row = Mapping[str, Any]


def read_json(path: Path, form: BoxForm = "xywh") -> HeldSource:
    """Read a file of results.

    Ids written as floats without a fraction are integers. Text is a name, or the digits of an id.

    Args:
        path: the file; one that is compressed by gzip is recognised by its content.
        form: how boxes are written.

    Raises:
        UserError: the file is not a list of results, or cut off, with the first problems; or it
            does not fit into memory.
    """
    if path.is_file():
        check_detections(path)
    images, categories = KeyTable(), KeyTable()
    parts, done, filled = list[Rows](), 0, 0
    for rows in parse_list(path):
        boxed, added = with_boxes(rows, corners=form == "xyxy")
        parts.append(_columns(boxed, images, categories, f"{path}: ", done))
        done, filled = done + len(rows), filled + added
    if not done:
        raise UserError(f"{path}: an empty list: no detection to measure; {_AGAIN}")
    whole = joined(parts)
    keys = (tuple(images), tuple(categories))
    return HeldSource(str(path), form, *keys, whole, _filled(str(path), filled))


def rows_of(results: Sequence[Row], where: str, form: BoxForm = "xywh") -> HeldSource:
    """Return results that are in memory, as `read_json` returns those of a file."""
    images, categories = KeyTable(), KeyTable()
    if not results:
        raise UserError(f"{where}: an empty list: no detection to measure")
    boxed, filled = with_boxes(results, corners=form == "xyxy")
    rows = _columns(boxed, images, categories, f"{where}: ", 0)
    keys = (tuple(images), tuple(categories))
    return HeldSource(where, form, *keys, rows, _filled(where, filled))


def _filled(where: str, number: int) -> tuple[str, ...]:
    """Return the note on rows whose boxes are those around their masks."""
    what = f"{number} detections without a box (missing, or 0, 0, 0, 0)"
    return (f"{where}: {what} have the box around their mask",) if number else ()


# --- parsing --------------------------------------------------------------------------------------


def parse_list(path: Path) -> Iterator[list[Any]]:
    """Yield the entries of a JSON list, block by block. Raises UserError."""
    done = 0
    with _opened(path) as stream:
        text = _start(path, stream)
        while True:
            block = stream.read(BLOCK)
            if not block:
                break
            text += block
            found, text = _whole_rows(text)
            if found:
                yield found
                done += len(found)
        yield _parsed(path, b"[" + text, done)


def _whole_rows(text: bytes) -> tuple[list[Any], bytes]:
    """Parse the entries that are complete, and return them and the rest of the text.

    `text` starts with an entry. It is cut where an object ends and another one follows. A cut
    inside of an entry or of a string leaves brackets or quotes open, so that it can't be parsed.
    """
    for match in reversed([*_ROW_END.finditer(text, max(0, len(text) - _TAIL))]):
        end = match.start() + 1
        try:
            with no_collection():
                rows = from_json(b"[" + text[:end] + b"]", cache_strings="keys")
        except ValueError:
            continue
        return rows, text[match.end() :]
    return [], text


def _parsed(path: Path, text: bytes, done: int) -> list[Any]:
    """Parse the end of the list. Raises UserError if it is not complete."""
    try:
        with no_collection():
            rows = from_json(text, cache_strings="keys")
    except ValueError as error:
        reason = str(error)
        if reason.startswith("EOF"):
            raise UserError(f"{path}: cut off after {done} detections or more; {_AGAIN}") from None
        what = re.sub(r" at line \d+ column \d+$", "", reason) if done else reason
        raise UserError(f"{path}: not JSON: {what}; {_AGAIN}") from None
    if not isinstance(rows, list):  # the text starts with a bracket, so this can't be
        raise UserError(f"{path}: not a list of results; {_REMEDY}")
    return rows


def _start(path: Path, stream: "_Utf8") -> bytes:
    """Return the beginning of the list without its bracket. Raises UserError if it is no list."""
    text = stream.read(BLOCK).lstrip()
    if not text:
        raise UserError(f"{path}: an empty file; {_AGAIN}")
    if text[:1] == b"[":
        return text[1:].lstrip() or stream.read(BLOCK).lstrip()
    if text[:1] == b"{":
        raise UserError(f"{path}: {_object(text)}")
    raise UserError(f"{path}: not JSON; {_REMEDY}")


def _object(text: bytes) -> str:
    """Return what an object holds that should be a list."""
    try:
        keys = [*from_json(text, allow_partial=True)]
    except (ValueError, TypeError):
        return f"not JSON; {_REMEDY}"
    if {"images", "annotations"} <= {*keys}:
        return (
            "an object with images and annotations, not a list of results; name the file of "
            "detections first, then that of annotations"
        )
    shown = ", ".join(map(str, keys[:_NAMED])) or "none"
    return f"an object (keys: {shown}), not a list of results; {_REMEDY}"


class _Utf8:
    """A stream of JSON in any UTF encoding, read as UTF-8 without a byte-order mark."""

    def __init__(self, path: Path, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._path, self._stream = path, stream
        self._first = self._read(4)
        encoding = json.detect_encoding(self._first)
        self._decoder = (
            None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)("strict")
        )
        self._encoding = encoding

    def read(self, size: int) -> bytes:
        """Return the next bytes, up to about `size`; none at the end."""
        raw, self._first = self._first + self._read(size), b""
        if self._decoder is None:
            return raw
        try:
            text = self._decoder.decode(raw, final=not raw).encode()
            return text if text or not raw else self.read(size)
        except UnicodeError as error:
            what = f"not text in {self._encoding}: {error}"
            raise UserError(f"{self._path}: {what}; {_AGAIN}") from None

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self._path}: damaged ({error}); {_AGAIN}") from None


@contextmanager
def _opened(path: Path) -> Iterator[_Utf8]:
    try:
        stream: Any = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; correct the path") from None
    with stream:
        packed = stream.read(len(GZIP)) == GZIP
        stream.seek(0)
        yield _Utf8(path, gzip.GzipFile(fileobj=stream) if packed else stream)


# --- columns --------------------------------------------------------------------------------------


def _columns(
    rows: Sequence[Row], images: KeyTable, categories: KeyTable, start: str, first: int
) -> Rows:
    """Return the columns of rows. Raises UserError with the first wrong rows."""
    try:
        bbox, score = ([row[name] for row in rows] for name in ("bbox", "score"))
        if not {*map(type, score), *map(type, chain.from_iterable(bbox))} <= _NUMBERS:
            raise TypeError("not numbers")
        return Rows(
            images.codes(_keys(_column(rows, _IMAGE_KEYS))),
            categories.codes(_keys(_column(rows, _CATEGORY_KEYS))),
            np.array(bbox, dtype=np.float64).reshape(len(rows), 4),
            np.array(score, dtype=np.float64),
            Written.of(rows),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        wrong = [*_wrong(rows, first)]
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        shown = "; ".join(wrong[:_NAMED])
        raise UserError(f"{start}not results of COCO: {shown}{more}; {_REMEDY}") from None


def _column(rows: Sequence[Row], names: Sequence[str]) -> list[Any]:
    """Return the value of each row under the first of `names` that it has."""
    try:
        return [*map(itemgetter(_key(rows[0], names)), rows)] if rows else []
    except KeyError:
        return [row[_key(row, names)] for row in rows]


def _key(row: Row, names: Sequence[str]) -> str:
    """Return the first of `names` that a row has, or the usual one."""
    return next((name for name in names if name in row), names[0])


def _keys(values: Sequence[Any]) -> Sequence[Key]:
    """Return ids and names; floats without a fraction become integers. Raises TypeError."""
    kinds = {*map(type, values)}
    if float in kinds:
        values = [_whole(each) for each in values]
        kinds = {*map(type, values)}
    if not kinds <= {int, str}:
        raise TypeError("not ids")
    numbers = values if kinds == {int} else [each for each in values if isinstance(each, int)]
    if numbers and not -(2**63) <= min(numbers) <= max(numbers) < 2**63:
        raise OverflowError("not 64 bits")
    return values


def _whole(value: Any) -> Any:
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact else value


def _wrong(rows: Sequence[Any], first: int) -> Iterator[str]:
    """Yield what is wrong with rows, those that are not right only."""
    for number, row in enumerate(rows, start=first):
        reason = _reason(row)
        if reason:
            yield f"[{number}]{reason}"


def _reason(row: Any) -> str:
    """Return what is wrong with a row; empty if nothing is."""
    if not isinstance(row, Mapping):
        return f": must be an object, got {_shown(row)}"
    for names in (_IMAGE_KEYS, _CATEGORY_KEYS):
        name = _key(row, names)
        if name not in row:
            return f".{name}: is missing"
        try:
            _keys([row[name]])
        except (TypeError, OverflowError):
            return f".{name}: must be an integer of 64 bits or a name, got {_shown(row[name])}"
    bbox, score = row.get("bbox"), row.get("score")
    numbers = isinstance(bbox, Sequence) and {*map(type, bbox)} <= _NUMBERS
    if not numbers or len(bbox or ()) != 4:
        return f".bbox: must be 4 numbers, got {_shown(bbox)}"
    if type(score) not in _NUMBERS:
        return f".score: must be a number, got {_shown(score)}"
    return ""


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
