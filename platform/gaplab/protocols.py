"""Names of protocols. Two protocols that differ in any value never share a name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.identity import canonical, digest
from gaplab.problems import unknown

_CUSTOM = re.compile(r"custom(-[0-9a-f]{8})?")


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
    values = protocol.model_dump(exclude={"preset"})
    own = {protocol.preset: PROTOCOLS[protocol.preset]} if protocol.preset in PROTOCOLS else {}
    for name, preset in (own | PROTOCOLS).items():
        if preset.model_dump(exclude={"preset"}) == values:
            return name
    return f"custom-{digest(canonical(values), 8)}"


def opened(key: Sequence[str], value: Any) -> Any:
    """A protocol given by a preset's name as a mapping, so that keys can be set inside it."""
    name = tuple(key) == ("evaluation", "protocol") and isinstance(value, str)
    return {"preset": value} if name else value
