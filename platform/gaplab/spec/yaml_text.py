"""YAML for spec files: plain data only, numbers as in YAML 1.2.

Differences from PyYAML's safe loader: a repeated key, a tag or a key that is not text is an error;
`3e-3` is a number; `on`, `yes`, `010`, `1:30` and dates are text. Anchors, aliases and merge keys
(`<<`) are allowed; what an alias stands for counts towards the limits each time.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

MAX_BYTES = 2**20
MAX_NODES = 20_000
MAX_DEPTH = 40
MAX_INTEGER = 2**63 - 1
"""Largest integer and largest negative one: what databases and tensors can hold."""


class YamlError(ValueError):
    """The text can't be parsed. The message is one line that starts with the line number."""


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        YamlError: if it is no such text, or too large.
        OSError: if it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES} bytes")
    try:
        text = content.decode(_encoding(content))
    except UnicodeDecodeError:
        raise YamlError("is not UTF-8 text; save it as UTF-8") from None
    if "\0" in text:
        raise YamlError("is not text, it has zero bytes; save it as UTF-8")
    return text


def _encoding(content: bytes) -> str:
    marks = (
        ("utf-8-sig", (codecs.BOM_UTF8,)),
        ("utf-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),  # its start is that of UTF-16
        ("utf-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
    )
    return next((name for name, starts in marks if content.startswith(starts)), "utf-8")


def parse_yaml(text: str) -> Any:
    """Parse YAML, which includes JSON, into plain data.

    Raises:
        YamlError: if the text is not valid, or the text or one of its numbers is too large.
    """
    if len(text.encode()) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES} bytes")
    try:
        return yaml.load(_without_tabs(text), Loader=_Loader)  # noqa: S506  (a restricted one)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{line}{_describe(error)}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(str(error).splitlines()[0]) from None


def dump_yaml(value: Any) -> str:
    """Return plain data as YAML text, from which `parse_yaml` restores an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flow_yaml(value: Any) -> str:
    """Return plain data as one line of YAML, as it can be typed on a command line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip()


def _without_tabs(text: str) -> str:
    """Return JSON with spaces in place of tabs, which YAML does not allow; other text as it is."""
    if "\t" not in text or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")  # a string of JSON holds no tab, only its escape


_TAG = "tag:yaml.org,2002:"
_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


class _Loader(yaml.SafeLoader):
    """Parses the restricted YAML described at the top of this module."""

    yaml_implicit_resolvers: _Resolvers = {}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        f"{_TAG}{kind}": getattr(yaml.SafeLoader, f"construct_yaml_{kind}")
        for kind in ("null", "bool", "float", "seq", "map")
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = self.depth = self.deepest = 0
        self.sizes = dict[int, tuple[int, int]]()
        """Number of values and of levels of each complete node, by the node's `id`."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _error(event, "tags are not allowed; write plain values")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, super().compose_node(parent, index))
        before, above = self.nodes, self.deepest
        self._count(event, 1, 1)
        self.depth, self.deepest = self.depth + 1, self.depth + 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.sizes[id(node)] = self.nodes - before, self.deepest - self.depth
        self.deepest = max(self.deepest, above)
        return node

    def _alias(self, event: yaml.AliasEvent, node: yaml.Node | None) -> yaml.Node | None:
        """Return the node of an alias; its values count again."""
        if id(node) not in self.sizes:
            raise _error(event, f"alias *{event.anchor} is part of what it stands for")
        self._count(event, *self.sizes[id(node)])
        return node

    def _count(self, event: yaml.Event, nodes: int, levels: int) -> None:
        self.nodes += nodes
        self.deepest = max(self.deepest, self.depth + levels)
        if self.nodes > MAX_NODES:
            raise _error(event, f"more than {MAX_NODES} values, with those of aliases")
        if self.deepest > MAX_DEPTH:
            raise _error(event, f"more than {MAX_DEPTH} levels inside each other")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                raise _error(key, "a key is not text; quote it")
            if key.value in seen:
                raise _error(key, f'key "{key.value}" is repeated')
            seen.add(key.value)
        return node

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """Return an integer of at most 64 bits."""
        digits = len(node.value.lstrip("+-"))
        if digits > len(str(MAX_INTEGER)):  # Python refuses to convert very long ones
            raise _error(node, f"an integer of {digits} digits is too large")
        if abs(value := int(node.value)) > MAX_INTEGER:
            raise _error(node, f"the integer {value} is too large")
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Return text, in which JSON may have escaped a character as a surrogate pair."""
        try:
            text = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _error(node, "text has half of a surrogate pair") from None
        if "\0" in text:
            raise _error(node, "text has a zero character")
        return str(text)


_Loader.add_constructor(_TAG + "int", _Loader.construct_int)
for _kind in ("str", "merge"):  # `<<` is a merge key, and text anywhere else
    _Loader.add_constructor(_TAG + _kind, _Loader.construct_text)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: _Resolvers = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = [
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("merge", r"<<", ["<"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
]
"""Types of scalars that are not text: name, pattern, possible first characters."""

for _kind, _pattern, _first in _SCALARS:
    for _user in (_Loader, _Dumper):
        _user.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _error(where: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _describe(error: yaml.MarkedYAMLError) -> str:
    """Return what PyYAML found; half of its sentences begin in the context."""
    if "'\\t'" in (error.problem or ""):
        return "a tab is not allowed here; indent with spaces"
    second_half = (error.problem or "").startswith("but ")
    return f"{error.context}, {error.problem}" if second_half else str(error.problem)
