"""YAML for spec files: plain data only, numbers as in YAML 1.2.

Differences from PyYAML's safe loader: a repeated key, an alias, a tag or a key that is not text is
an error; `3e-3` is a number; `on`, `yes`, `010`, `1:30` and dates are text.
"""

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

MAX_BYTES = 2**20
MAX_NODES = 20_000
MAX_DEPTH = 40


class YamlError(ValueError):
    """The text can't be parsed. The message is one line that starts with the line number."""


def parse_yaml(text: str) -> Any:
    """Parse YAML into plain data.

    Raises:
        YamlError: if the text is not valid, or the text or one of its numbers is too large.
    """
    if len(text.encode()) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES} bytes")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a restricted SafeLoader)
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


_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


class _Loader(yaml.SafeLoader):
    """Parses the restricted YAML described at the top of this module."""

    yaml_implicit_resolvers: _Resolvers = {}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        f"tag:yaml.org,2002:{kind}": getattr(yaml.SafeLoader, f"construct_yaml_{kind}")
        for kind in ("null", "bool", "int", "float", "str", "seq", "map")
    }
    nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _error(event, f"alias *{event.anchor} is not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise _error(event, "tags are not allowed; write plain values")
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise _error(event, f"more than {MAX_NODES} values or {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _error(key, "a key is not text; quote it")
            if key.value in seen:
                raise _error(key, f'key "{key.value}" is repeated')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: _Resolvers = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = [
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
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
        _user.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first
        )


def _error(where: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _describe(error: yaml.MarkedYAMLError) -> str:
    """Return what PyYAML found; half of its sentences begin in the context."""
    second_half = (error.problem or "").startswith("but ")
    return f"{error.context}, {error.problem}" if second_half else str(error.problem)
