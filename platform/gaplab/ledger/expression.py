"""Conditions on results, parsed: `assignment.family == "o2f" and ap > 35`.

The language is a part of Python's: `and`, `or`, `not`, parentheses, `==`, `!=`, `<`, `<=`, `>`,
`>=`, `in` and `not in`, between names and constants. `KEY=VALUE` is a condition by itself.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gaplab.errors import UserError

Constant = str | int | float | bool | None
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]

_LONGEST = 2000
_KEY_VALUE = re.compile(r"\s*([^\s=<>!()\"']+)\s*=(?!=)(.*)", re.DOTALL)
_LOOKS_LONGER = re.compile(r"\s(and|or)\s.*[=<>]")
_WORDS: dict[str, Constant] = {"true": True, "false": False, "null": None}
_OPERATORS: dict[type[ast.cmpop], Operator] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_MIRRORED: dict[Operator, Operator] = {
    **{"==": "==", "!=": "!="},
    **{"<": ">", "<=": ">=", ">": "<", ">=": "<="},
}
_EXAMPLE = 'write KEY=VALUE or a condition such as: assignment.name == "poto" and ap > 35'


@dataclass(frozen=True)
class Name:
    """A name in a condition: a key of the spec, a metric or a column."""

    key: str
    text: str
    """The whole condition."""
    start: int
    end: int

    def marked(self) -> str:
        """Return the condition with this name marked; the name alone if there is nothing else."""
        if self.text.strip() == self.key or _KEY_VALUE.fullmatch(self.text):
            return ""
        return _marked(self.text, self.start, self.end)


@dataclass(frozen=True)
class Comparison:
    """A name compared with a constant, with several (`in`), or with another name."""

    name: Name
    operator: Operator
    value: Constant | tuple[Constant, ...] | Name


@dataclass(frozen=True)
class Junction:
    """Conditions of which all, or any, must hold."""

    all: bool
    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Negation:
    """A condition that must not hold."""

    part: "Condition"


Condition = Comparison | Junction | Negation


def parse(text: str) -> Condition:
    """Parse a condition.

    Raises:
        UserError: it is no condition; the message marks where.
    """
    if len(text) > _LONGEST and not _KEY_VALUE.fullmatch(text):
        raise UserError(f"condition of {len(text)} characters: at most {_LONGEST} are allowed")
    _check_characters(text)
    if pair := _KEY_VALUE.fullmatch(text):
        return _key_value(text, pair)
    line = re.sub(r"\s", " ", text)
    source = line.lstrip()
    if not source:
        raise UserError(f"{text!r}: not a condition; {_EXAMPLE}")
    return _Parser(line, len(line) - len(source)).condition(source)


def names(condition: Condition) -> Iterator[Name]:
    """Yield the names in a condition, from left to right."""
    match condition:
        case Comparison(name, _, value):
            yield name
            if isinstance(value, Name):
                yield value
        case Junction(_, parts):
            for part in parts:
                yield from names(part)
        case Negation(part):
            yield from names(part)


def _check_characters(text: str) -> None:
    """Raise UserError for characters that no database stores."""
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise UserError(f"{text!r}: has a character that can't be part of a condition; remove it")


def _key_value(text: str, pair: re.Match[str]) -> Condition:
    """Return the condition of `KEY=VALUE`: equal to the value as text or as JSON."""
    value = pair[2].strip()
    if _LOOKS_LONGER.search(f" {value}"):
        start = pair.start(2) - 1
        where = _marked(text, start, start + 1)
        raise UserError(f"{where}: a longer condition compares with ==; {_EXAMPLE}")
    accepted: list[Constant] = [value]
    try:
        found = json.loads(value)
        accepted.append(found if not isinstance(found, list | dict) else value)
        if isinstance(found, list | dict):
            accepted = [value, Json(json.dumps(found, sort_keys=True))]
    except (ValueError, RecursionError):  # not JSON, or a number or a nesting without end
        pass
    name = Name(pair[1], text, pair.start(1), pair.end(1))
    return Comparison(name, "in", tuple(accepted))


class Json(str):
    """A list or mapping as a constant: its JSON."""

    __slots__ = ()


class _Parser:
    """Converts the syntax tree of one condition.

    Args:
        text: the condition in one line.
        offset: number of blanks before it, which Python would read as an indentation.
    """

    def __init__(self, text: str, offset: int) -> None:
        self._text, self._offset = text, offset

    def condition(self, source: str) -> Condition:
        try:
            with warnings.catch_warnings(action="ignore"):  # of backslashes in texts
                tree = ast.parse(source, mode="eval")
        except SyntaxError as error:
            start = min((error.offset or 1) - 1, len(source)) + self._offset
            end = max((error.end_offset or 0) - 1 + self._offset, start + 1)
            where = _marked(self._text, start, end)
            raise UserError(f"{where}: not a condition; {_EXAMPLE}") from None
        except (ValueError, MemoryError, RecursionError):
            raise UserError(f"{self._text}: not a condition; {_EXAMPLE}") from None
        return self._part(tree.body)

    def _part(self, node: ast.expr) -> Condition:
        match node:
            case ast.BoolOp(op, values):
                parts = tuple(self._part(each) for each in values)
                return Junction(isinstance(op, ast.And), parts)
            case ast.UnaryOp(ast.Not(), operand):
                return Negation(self._part(operand))
            case ast.Compare(left, operators, others):
                sides = [left, *others]
                found = [
                    self._comparison(a, operator, b)
                    for a, operator, b in zip(sides, operators, others, strict=False)
                ]
                return found[0] if len(found) == 1 else Junction(True, tuple(found))
        if self._name(node):
            raise self._error(node, "compare it with a value, as in NAME == true")
        raise self._error(node, "not a condition")

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
        name, sign = self._name(left), _OPERATORS.get(type(operator))
        if sign is None:
            raise self._error(left, "is and is not are not supported; use == or !=")
        if sign in ("in", "not in"):
            if name is None:
                raise self._error(left, "only a name can be in a list")
            return Comparison(name, sign, self._list(right))
        if name is None:
            mirrored = self._name(right)
            if mirrored is None:
                raise self._error(left, "compares no name")
            return Comparison(mirrored, _MIRRORED[sign], self._constant(left))
        return Comparison(name, sign, self._name(right) or self._constant(right))

    def _name(self, node: ast.expr) -> Name | None:
        """Return a name or dotted name; None for anything else."""
        parts, inner = list[str](), node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name) or (not parts and inner.id in _WORDS):
            return None
        return Name(".".join([inner.id, *reversed(parts)]), self._text, *self._span(node))

    def _list(self, node: ast.expr) -> tuple[Constant, ...]:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise self._error(node, "in needs a list, such as (0, 1)")
        return tuple(self._constant(each) for each in node.elts)

    def _constant(self, node: ast.expr) -> Constant:
        match node:
            case ast.Name(word) if word in _WORDS:
                return _WORDS[word]
            case ast.Constant(str() | int() | float() | None as value):
                if isinstance(value, str):
                    _check_characters(value)
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
                return -value
            case ast.List() | ast.Tuple():
                return Json(json.dumps([self._constant(each) for each in node.elts]))
        raise self._error(node, "not a name, number, text in quotes, true, false, null or list")

    def _error(self, node: ast.expr, what: str) -> UserError:
        return UserError(f"{_marked(self._text, *self._span(node))}: {what}; {_EXAMPLE}")

    def _span(self, node: ast.expr) -> tuple[int, int]:
        """Return where the node begins and ends, in characters of the text."""
        source = self._text[self._offset :].encode()
        ends = (node.col_offset, node.end_col_offset or node.col_offset)
        start, end = (len(source[:at].decode()) + self._offset for at in ends)
        return start, end


def _marked(text: str, start: int, end: int) -> str:
    """Return text with the characters from `start` to `end` marked."""
    return f"{text[:start]}-->{text[start:end]}<--{text[end:]}".strip()
