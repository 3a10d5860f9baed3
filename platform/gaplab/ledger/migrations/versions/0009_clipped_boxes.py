"""Protocols say when boxes are clipped, and whether levels are capped at their number of points.

All evaluations so far clipped boxes before suppression and capped nothing. The presets `defcn`,
`onenet` and `crowdhuman` stand for other values now, so evaluations under these names are renamed.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_NEW = {"cap_at_points": False, "clip": "before"}
_PRESETS = {"defcn": "o2f", "onenet": "custom-ed4e8788", "crowdhuman": "custom-e07e4f0d"}
"""Presets that have changed -> the name of the values that they had."""

_protocol = sa.table("protocol", sa.column("id", sa.Text()), sa.column("rule", sa.JSON()))
_trial = sa.table("trial", sa.column("id", sa.Text()), sa.column("config", sa.JSON()))
_KEY = ("trial_id", "epoch", "branch", "protocol", "truth")
_evaluation = sa.table("evaluation", *(sa.column(name) for name in _KEY))


def upgrade() -> None:
    names = dict(_PRESETS)
    for name, rule in op.get_bind().execute(sa.select(_protocol)).all():
        names[name] = _PRESETS.get(name) or _key(name, rule | _NEW)
        _replace_rule(name, names[name], rule | _NEW)
    for old, new in names.items():
        _rename(old, new)
    for identity, config in op.get_bind().execute(sa.select(_trial)).all():
        if changed := _with_new_values(config):
            op.execute(sa.update(_trial).where(_trial.c.id == identity).values(config=changed))


def downgrade() -> None:
    """Delete what older versions can't measure. The protocols of trials keep the new values."""
    for name, rule in op.get_bind().execute(sa.select(_protocol)).all():
        kept = {key: value for key, value in rule.items() if key not in _NEW}
        if rule == kept | _NEW:
            _replace_rule(name, _key(name, kept), kept)
            _rename(name, _key(name, kept))
        elif rule != kept:
            op.execute(sa.delete(_evaluation).where(_evaluation.c.protocol == name))
            op.execute(sa.delete(_protocol).where(_protocol.c.id == name))


def _key(name: str, rule: Mapping[str, Any]) -> str:
    """Return the name of a protocol with these values: its digits are a digest of them."""
    if not name.startswith("custom-"):
        return name
    text = json.dumps(rule, sort_keys=True, separators=(",", ":"))
    return f"custom-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _replace_rule(old: str, new: str, rule: dict[str, Any]) -> None:
    """Store the rule under its new name, unless that has one already."""
    mine = _protocol.c.id == old
    known = op.get_bind().scalar(sa.select(_protocol.c.id).where(_protocol.c.id == new))
    if known is None or new == old:
        op.execute(sa.update(_protocol).where(mine).values(id=new, rule=rule))
    else:
        op.execute(sa.delete(_protocol).where(mine))


def _rename(old: str, new: str) -> None:
    """Rename the protocol of evaluations. Of two with equal values, the one named `new` stays."""
    if old == new:
        return
    twin, mine = _evaluation.alias(), _evaluation.c.protocol == old
    same = (twin.c[name] == _evaluation.c[name] for name in _KEY if name != "protocol")
    op.execute(sa.delete(_evaluation).where(mine, sa.exists().where(twin.c.protocol == new, *same)))
    op.execute(sa.update(_evaluation).where(mine).values(protocol=new))


def _with_new_values(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configuration with the protocol's new values and name; None without a protocol."""
    section = config.get("evaluation") or {}
    if not isinstance(protocol := section.get("protocol"), dict):
        return None
    name = str(protocol.get("preset", "default"))
    rule = {key: value for key, value in protocol.items() if key != "preset"} | _NEW
    protocol = rule | {"preset": _PRESETS.get(name) or _key(name, rule)}
    return config | {"evaluation": section | {"protocol": protocol}}
