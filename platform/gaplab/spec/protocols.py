"""Names of protocols, and protocols given by the user: in a spec or on the command line.

Two protocols that differ in any value never have the same name.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.errors import UserError
from gaplab.identity import canonical, digest
from gaplab.spec.problems import format_value, problems_of, unknown
from gaplab.spec.yaml_text import YamlError, parse_yaml, read_text

_CUSTOM = re.compile(r"custom(-[0-9a-f]{8})?")
_MAPPING = re.compile(r"\s*\{|[^/]*:\s")
_FILE = re.compile(r".*(/|\.ya?ml$)")
_FORMS = "or give a mapping, {preset: defcn, nms_iou: 0.5}, or the path of a .yaml file"


def protocol_key(protocol: Protocol) -> str:
    """Return the name of a preset with exactly these values, otherwise `custom-<8 hex digits>`.

    The protocol's own preset is tried first. The digits are a digest of the values.
    """
    rule = rule_of(protocol)
    own = {protocol.preset: PROTOCOLS[protocol.preset]} if protocol.preset in PROTOCOLS else {}
    for name, preset in (own | PROTOCOLS).items():
        if rule_of(preset) == rule:
            return name
    return f"custom-{digest(canonical(rule), 8)}"


def rule_of(protocol: Protocol) -> dict[str, Any]:
    """Return the values of a protocol as plain JSON, without its name."""
    return protocol.model_dump(mode="json", exclude={"preset"})


def stored_protocol(key: str, rule: Mapping[str, Any]) -> Protocol:
    """Return the protocol with this key and the values that the ledger has for it."""
    return Protocol.model_validate({**rule, "preset": key})


def with_key(protocol: Protocol) -> Protocol:
    """Return the protocol with its key (see `protocol_key`) as its name."""
    return protocol.model_copy(update={"preset": protocol_key(protocol)})


def read_protocol(value: Any) -> Any:
    """Convert the name of a preset, or a mapping, to all values of a protocol, without validation.

    In a mapping, `preset` names the preset that gives the values of the keys left out. `custom`,
    or no `preset`, means the preset `default`.

    Raises:
        ValueError: for an unknown preset.
    """
    if isinstance(value, str):
        return _preset(value)
    if not isinstance(value, Mapping):
        return value
    base = value.get("preset", "default")
    return _preset(base if isinstance(base, str) else str(base)) | dict(value)


def read_preset_or_mapping(value: Any) -> Any:
    """Convert like `read_protocol`, but reject `custom-...` names: they don't give any values.

    Raises:
        ValueError: for a name that is not the name of a preset.
    """
    if isinstance(value, str) and value not in PROTOCOLS:
        raise ValueError(unknown(value, PROTOCOLS, "preset ") + "; or give its values as a mapping")
    return read_protocol(value)


def expand_preset(key: Sequence[str], value: Any) -> Any:
    """Return a protocol given by its name as a mapping, so that keys can be set inside it.

    Any other value, and the value of any other key, is returned unchanged.
    """
    name = tuple(key) == ("evaluation", "protocol") and isinstance(value, str)
    return {"preset": value} if name else value


def parse_protocol(text: str) -> Protocol:
    """Return the protocol that an argument of the command line means, named by its key.

    Args:
        text: name of a preset, a YAML mapping in one line, or path of a YAML file with a mapping.

    Raises:
        UserError: with every problem.
    """
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if _MAPPING.match(text):
        return _validated("protocol", text)
    if _FILE.match(text):
        return _validated(text, _file_text(text))
    raise UserError(f"protocol: {unknown(text, PROTOCOLS, 'preset ')} ({_FORMS})")


def parse_protocols(texts: Sequence[str]) -> list[Protocol]:
    """Parse each text like `parse_protocol`. Raises UserError with the problems of all of them."""
    found, problems = list[Protocol](), list[str]()
    for text in texts:
        try:
            found.append(parse_protocol(text))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def _preset(name: str) -> dict[str, Any]:
    if _CUSTOM.fullmatch(name):
        name = "default"
    if name not in PROTOCOLS:
        raise ValueError(unknown(name, PROTOCOLS, "preset "))
    return PROTOCOLS[name].model_dump()


def _file_text(path: str) -> str:
    try:
        return read_text(Path(path))
    except YamlError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {why}; give the path of a YAML file or a preset's name") from None


def _validated(source: str, text: str) -> Protocol:
    """Return the protocol that YAML text describes.

    Raises:
        UserError: with every problem; each line starts with `source`.
    """
    try:
        value = parse_yaml(text)
    except YamlError as error:
        raise UserError(f"{source}: {error}") from None
    if not isinstance(value, dict):
        got = format_value(value)
        raise UserError(f"{source}: must be a mapping such as {{nms_iou: 0.5}}, got {got}")
    problems = []
    try:
        value = read_protocol(value)
    except ValueError as error:  # the other keys are validated all the same
        problems.append(f"preset: {error}")
        value = {key: each for key, each in value.items() if key != "preset"}
    try:
        protocol = Protocol.model_validate(value)
    except ValidationError as error:
        problems += map(str, problems_of(error, Protocol))
    if problems:
        raise UserError(*(f"{source}: {problem}" for problem in problems))
    return with_key(protocol)
