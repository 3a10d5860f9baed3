"""What migrations do that add options to the configurations of trials trained before."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from gaplab.formatting import flat
from gaplab.ledger.settings import number, section_id, setting_value

Later = tuple[tuple[str, tuple[str, ...], Any], ...]
"""Key, names of the sections that have it (none: a section without a name), and its value."""
_BATCH = 1000
_TRIAL = sa.table("trial", sa.column("id", sa.Text()), sa.column("config", sa.JSON()))
_OWN = sa.table(
    "sweep_trial",
    *(sa.column(name, sa.Text()) for name in ("sweep_id", "trial_id")),
    sa.column("config", sa.JSON(none_as_null=True)),
)
_SETTING = sa.table("setting", *map(sa.column, ("section_id", "key", "value", "number")))
_LINK = sa.table("trial_section", *map(sa.column, ("trial_id", "name", "section_id")))


def complete(later: Later) -> None:
    """Add options to the stored configurations of all trials and sweeps that lack them."""
    _complete_trials(later)
    _complete_sweeps(later)
    used = sa.select(_LINK.c.section_id)
    op.get_bind().execute(sa.delete(_SETTING).where(_SETTING.c.section_id.not_in(used)))


def completed(config: Mapping[str, Any], later: Later) -> dict[str, Any]:
    """Return a configuration with the options of `later` that it lacks."""
    whole: dict[str, Any] = json.loads(json.dumps(config))
    for key, names, value in later:
        *path, last = key.split(".")
        section: Any = whole
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and (not names or section.get("name") in names):
            section.setdefault(last, value)
    return whole


def _complete_trials(later: Later) -> None:
    update = sa.update(_TRIAL).where(_TRIAL.c.id == sa.bindparam("which"))
    for batch in _batches():
        changed = {
            row.id: config
            for row in batch
            if (config := completed(row.config, later)) != row.config
        }
        if changed:
            rows = [{"which": trial, "whole": config} for trial, config in changed.items()]
            whole = sa.bindparam("whole", type_=sa.JSON())
            op.get_bind().execute(update.values(config=whole), rows)
            _link(changed)


def _complete_sweeps(later: Later) -> None:
    """Complete the configurations that a sweep has of its own."""
    update = sa.update(_OWN).where(
        _OWN.c.sweep_id == sa.bindparam("sweep"), _OWN.c.trial_id == sa.bindparam("which")
    )
    query = sa.select(_OWN).where(_OWN.c.config.is_not(None))
    rows = [
        {"sweep": row.sweep_id, "which": row.trial_id, "whole": completed(row.config, later)}
        for row in op.get_bind().execute(query)
    ]
    if rows:
        whole = sa.bindparam("whole", type_=sa.JSON())
        op.get_bind().execute(update.values(config=whole), rows)


def _batches() -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield the trials in the order of their ids, a part at a time."""
    last, query = "", sa.select(_TRIAL).order_by(_TRIAL.c.id).limit(_BATCH)
    while batch := op.get_bind().execute(query.where(_TRIAL.c.id > last)).all():
        yield batch
        last = batch[-1].id


def _link(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Store the settings of configurations in place of those that their trials had."""
    bind, links, sections = op.get_bind(), [], dict[str, tuple[str, Any]]()
    for trial, config in configs.items():
        for name, value in config.items():
            section = section_id(name, value)
            links.append({"trial_id": trial, "name": name, "section_id": section})
            sections[section] = (name, value)
    query = sa.select(_SETTING.c.section_id).where(_SETTING.c.section_id.in_(sections))
    for section in bind.scalars(query.distinct()).all():
        del sections[section]
    new = [
        {"section_id": section, "key": key, "value": setting_value(each), "number": number(each)}
        for section, (name, value) in sections.items()
        for key, each in flat({name: value}).items()
    ]
    bind.execute(sa.delete(_LINK).where(_LINK.c.trial_id.in_(configs)))
    if new:
        bind.execute(sa.insert(_SETTING), new)
    bind.execute(sa.insert(_LINK), links)
