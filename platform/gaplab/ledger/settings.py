"""The settings of trials by key: written with the trial, in sections that trials share."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, select

from gaplab.formatting import flat
from gaplab.ledger.models import Setting, SweepTrial, TrialSection
from gaplab.ledger.statements import insert_new

_LONG = 200
"""Characters of a value that is stored as it is: PostgreSQL can't index long ones."""
_DIGITS = 20
_PROTOCOL = "evaluation.protocol.preset"


def add_settings(connection: Connection, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Insert the settings of configurations, by the id of their trial. Stored ones stay."""
    links, sections = [], dict[str, tuple[str, Any]]()
    for trial, config in configs.items():
        for name, value in config.items():
            section = section_id(name, value)
            links.append({"trial_id": trial, "name": name, "section_id": section})
            sections[section] = (name, value)
    settings = [
        {"section_id": section, "key": key, "value": setting_value(each), "number": number(each)}
        for section, (name, value) in sorted(sections.items())
        for key, each in flat({name: value}).items()
    ]
    insert_new(connection, Setting, settings)
    insert_new(connection, TrialSection, links)


def setting_value(value: Any) -> str:
    """Return the JSON that stands for a value, or for a long one a digest of it."""
    return stored_text(json.dumps(value, sort_keys=True))


def stored_text(text: str) -> str:
    """Return JSON as it is stored."""
    return text if len(text) <= _LONG else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def number(value: Any) -> float | None:
    """Return a number as a float, None for everything else and for numbers without a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def section_id(name: str, value: Any) -> str:
    """Return the id of a section of a configuration: a digest of its name and its values."""
    text = json.dumps([name, value], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def nested(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration with these stored values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *parts, last = key.split(".")
        inner = found
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = value_of(value)
    return found


def value_of(stored: str | None) -> Any:
    """Return a stored value; of a long one its digest, and None for none."""
    return stored if stored is None or stored.startswith("sha256:") else json.loads(stored)


def own_protocols(sweep: str) -> Select[str]:
    """Select the protocols that trials of a sweep are evaluated under, each once."""
    held = select(SweepTrial.trial_id).where(SweepTrial.sweep_id == sweep)
    sections = select(TrialSection.section_id).where(
        TrialSection.trial_id.in_(held), TrialSection.name == _PROTOCOL.partition(".")[0]
    )
    mine = (Setting.key == _PROTOCOL, Setting.section_id.in_(sections))
    return select(Setting.value).where(*mine).distinct()
