"""Names of protocols. Two protocols that differ in any value never share a name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.errors import UserError
from gaplab.identity import canonical, digest
from gaplab.spec.problems import explain, shown, unknown
from gaplab.spec.yaml_text import MAX_BYTES, YamlError, parse_yaml

_CUSTOM = re.compile(r"custom(-[0-9a-f]{8})?")
_MAPPING = re.compile(r"\s*\{|[^/]*:\s")
_FILE = re.compile(r".*(/|\.ya?ml$)")
_FORMS = "or give a mapping, {preset: defcn, nms_iou: 0.5}, or the path of a .yaml file"


def read_protocol(value: Any) -> Any:
    """A preset's name or a mapping -> all values of the protocol, not validated yet.

    `preset` in a mapping names the preset whose values stand for the keys left out; `custom`,
    like no `preset` at all, means the preset `default`. Raises ValueError for an unknown preset.
    """
    if isinstance(value, str):
        return _preset(value)
    if not isinstance(value, Mapping):
        return value
    base = value.get("preset", "default")
    return _preset(base if isinstance(base, str) else str(base)) | dict(value)


def preset_or_mapping(value: Any) -> Any:
    """As `read_protocol`, without the names that gaplab gives: they say no values.

    Raises ValueError for a name that is no preset's.
    """
    if isinstance(value, str) and value not in PROTOCOLS:
        raise ValueError(unknown(value, PROTOCOLS, "preset ") + "; or its values as a mapping")
    return read_protocol(value)


def _preset(name: str) -> dict[str, Any]:
    if _CUSTOM.fullmatch(name):
        name = "default"
    if name not in PROTOCOLS:
        raise ValueError(unknown(name, PROTOCOLS, "preset "))
    return PROTOCOLS[name].model_dump()


def named(protocol: Protocol) -> Protocol:
    """The same protocol with `preset` set to its key."""
    return protocol.model_copy(update={"preset": protocol_key(protocol)})


def protocol_key(protocol: Protocol) -> str:
    """The preset's name when the values are exactly a preset's, otherwise `custom-<8 hex>`.

    Its own preset goes first; the digits are a digest of the values.
    """
    rule = rule_of(protocol)
    own = {protocol.preset: PROTOCOLS[protocol.preset]} if protocol.preset in PROTOCOLS else {}
    for name, preset in (own | PROTOCOLS).items():
        if rule_of(preset) == rule:
            return name
    return f"custom-{digest(canonical(rule), 8)}"


def rule_of(protocol: Protocol) -> dict[str, Any]:
    """What the protocol's name stands for: its values as plain JSON, without the name."""
    return protocol.model_dump(mode="json", exclude={"preset"})


def parse_protocol(text: str) -> Protocol:
    """The protocol that a word on a command line means, named by its key.

    text: the name of a preset, a YAML mapping in one line, or the path of a YAML file that holds
    such a mapping. Raises UserError with every problem, one line each.
    """
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if _MAPPING.match(text):
        return _validated("protocol", text)
    if _FILE.match(text):
        return _validated(text, _text(text))
    raise UserError(f"protocol: {unknown(text, PROTOCOLS, 'preset ')} ({_FORMS})")


def parse_protocols(texts: Sequence[str]) -> list[Protocol]:
    """Each as `parse_protocol` reads it. Raises UserError with the problems of all."""
    found, problems = list[Protocol](), list[str]()
    for text in texts:
        try:
            found.append(parse_protocol(text))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def _text(path: str) -> str:
    """What the file holds, up to a little more than is allowed."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as such") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {why}; give the path of a YAML file or a preset's name") from None


def _validated(where: str, text: str) -> Protocol:
    """The protocol that YAML describes. Raises UserError; each line begins with `where`."""
    try:
        value = parse_yaml(text)
    except YamlError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        what = shown(value)
        raise UserError(f"{where}: must be a mapping such as {{nms_iou: 0.5}}, got {what}")
    problems = []
    try:
        value = read_protocol(value)
    except ValueError as error:  # its other keys are looked at all the same
        problems.append(f"preset: {error}")
        value = {key: each for key, each in value.items() if key != "preset"}
    try:
        protocol = Protocol.model_validate(value)
    except ValidationError as error:
        problems += [str(explain(each, Protocol)) for each in error.errors(include_url=False)]
    if problems:
        raise UserError(*(f"{where}: {problem}" for problem in problems))
    return named(protocol)


def opened(key: Sequence[str], value: Any) -> Any:
    """A protocol given by a preset's name as a mapping, so that keys can be set inside it."""
    name = tuple(key) == ("evaluation", "protocol") and isinstance(value, str)
    return {"preset": value} if name else value
