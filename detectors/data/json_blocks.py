"""Parse one long list of a JSON object in blocks, so that it never exists as Python objects.

A block is cut where an object of the list ends and another one follows. JSON is read from left to
right, so a block that can be parsed as a list, after others that could, ends between two elements:
a cut inside of an element or of a string leaves brackets or quotes open.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import SchemaValidator, from_json

from detectors.data.json_text import no_collection

BLOCK = 1 << 21
"""Bytes that are parsed at once."""
_TAIL = 1 << 14
"""Bytes at the end of a block in which the end of an element is looked for first."""
_TRIES = 16
"""How many ends are tried in a block, and how many places of the list in a file."""
_SPACE = rb"[ \t\r\n]*"
_ELEMENT_END = re.compile(rb"\}%s,%s(?=\{)" % (_SPACE, _SPACE))
_TRAILING = re.compile(r"trailing characters at line (\d+) column (\d+)")
_MARK = "the list that is parsed in blocks"

Rows = list[dict[str, Any]]


class Block(NamedTuple):
    """Some elements of the list."""

    start: int
    """Position in the text of the first one."""
    end: int
    """Position behind the last one."""
    rows: Rows | None
    """The elements, with the keys and types of the validator only; None: not all have them."""


@dataclass(frozen=True)
class Divided:
    """A JSON object with a list that is parsed in blocks."""

    text: bytes
    key: str
    start: int
    """Position of the first character in the list."""

    def blocks(self, validator: SchemaValidator) -> Iterator[Block]:
        """Yield the elements of the list. Raises ValueError if it can't be divided.

        Args:
            validator: validates a list of elements.
        """
        position, ended = _not_space(self.text, self.start), False
        if self.text[position : position + 1] == b"]":
            return
        while not ended:
            block, position, ended = self._next(position, validator)
            yield block

    def rest(self, end: int) -> dict[str, Any]:
        """Return the object with an empty list. Raises ValueError if this is not the list of `key`.

        Args:
            end: position behind the last block.
        """
        end = _not_space(self.text, end)
        mark = b'"%s"' % _MARK.encode()
        whole = from_json(self.text[: self.start - 1] + mark + self.text[end + 1 :])
        found = isinstance(whole, dict) and whole.get(self.key) == _MARK
        if self.text[end : end + 1] != b"]" or not found:
            raise ValueError(f"not the list of {self.key}")
        return {**whole, self.key: []}

    def _next(self, start: int, validator: SchemaValidator) -> tuple[Block, int, bool]:
        """Return a block, where the next one starts, and whether it was the last one."""
        size = BLOCK
        while True:
            for end, after in _ends(self.text, start, start + size):
                with suppress(ValueError):
                    return self._parsed(start, end, validator), after, False
            last = _list_end(self.text[start : start + size])
            if last is not None:
                return self._parsed(start, start + last, validator), start + last, True
            if start + size >= len(self.text):
                raise ValueError(f"the list of {self.key} does not end")
            size *= 4

    def _parsed(self, start: int, end: int, validator: SchemaValidator) -> Block:
        """Parse some elements. Raises ValueError if the text is not a number of whole elements."""
        text = b"[%s]" % self.text[start:end]
        with no_collection():
            try:
                return Block(start, end, validator.validate_json(text))
            except ValidationError:
                from_json(text)
        return Block(start, end, None)


def divided(text: bytes, key: str) -> Iterator[Divided]:
    """Yield the lists that may be that of a top-level key. Of an object only one of them is."""
    starts = re.finditer(rb'"%s"%s:%s\[' % (re.escape(key.encode()), _SPACE, _SPACE), text)
    return (Divided(text, key, match.end()) for match in islice(starts, _TRIES))


def elements(text: bytes, block: Block) -> list[Any]:
    """Return the elements of a block as they are written."""
    with no_collection():
        found: list[Any] = from_json(b"[%s]" % text[block.start : block.end])
    return found


def _ends(text: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield where elements may end in text[start:stop], and the next ones start, last first."""
    if stop >= len(text):
        return
    for first in (max(start, stop - _TAIL), start):
        matches = [*_ELEMENT_END.finditer(text, first, stop)]
        if matches:
            yield from ((m.start() + 1, m.end()) for m in reversed(matches[-_TRIES:]))
            return


def _list_end(text: bytes) -> int | None:
    """Return where a list ends whose first element is at the start of `text`; None: later."""
    try:
        from_json(b"[" + text)
    except ValueError as error:
        trailing = _TRAILING.fullmatch(str(error))
        if trailing is None:
            return None
        line, column = map(int, trailing.groups())
        before = b"[" + text
        lines = islice(re.finditer(rb"\n", before), line - 2, line - 1) if line > 1 else ()
        begin = next((match.end() for match in lines), 0)
        return before.rindex(b"]", 0, begin + column - 1) - 1
    return None


def _not_space(text: bytes, start: int) -> int:
    match = re.compile(_SPACE).match(text, start)
    return match.end() if match else start
