"""What migrations do that add options to the configurations of trials trained before."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

from gaplab.formatting import flat
from gaplab.ledger.settings import number, section_id, setting_value

Later = tuple[tuple[str, tuple[str, ...], Any], ...]
"""Key, names of the sections that have it (none: a section without a name), and its value."""
Change = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns a configuration as it is stored from now on."""
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
    _rewrite(partial(completed, later=later))


def withdraw(later: Later) -> None:
    """Remove options from the stored configurations that have them at the value of `later`."""
    _rewrite(partial(without, later=later))


def completed(config: Mapping[str, Any], later: Later) -> dict[str, Any]:
    """Return a configuration with the options of `later` that it lacks."""
    whole: dict[str, Any] = json.loads(json.dumps(config))
    for section, key, value in _places(whole, later):
        section.setdefault(key, value)
    return whole


def without(config: Mapping[str, Any], later: Later) -> dict[str, Any]:
    """Return a configuration without the options that have the value of `later`."""
    whole: dict[str, Any] = json.loads(json.dumps(config))
    for section, key, value in _places(whole, later):
        if key in section and section[key] == value:
            del section[key]
    return whole


def _places(config: dict[str, Any], later: Later) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield the section that may have each option, the option's name and its value."""
    for key, names, value in later:
        *path, last = key.split(".")
        section: Any = config
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and (not names or section.get("name") in names):
            yield section, last, value


def _rewrite(change: Change) -> None:
    """Change the stored configurations of all trials and sweeps."""
    _rewrite_trials(change)
    _rewrite_sweeps(change)
    used = sa.select(_LINK.c.section_id)
    op.get_bind().execute(sa.delete(_SETTING).where(_SETTING.c.section_id.not_in(used)))


def _rewrite_trials(change: Change) -> None:
    update = sa.update(_TRIAL).where(_TRIAL.c.id == sa.bindparam("which"))
    for batch in _batches():
        changed = {row.id: config for row in batch if (config := change(row.config)) != row.config}
        if changed:
            rows = [{"which": trial, "whole": config} for trial, config in changed.items()]
            whole = sa.bindparam("whole", type_=sa.JSON())
            op.get_bind().execute(update.values(config=whole), rows)
            _link(changed)


def _rewrite_sweeps(change: Change) -> None:
    """Change the configurations that a sweep has of its own."""
    update = sa.update(_OWN).where(
        _OWN.c.sweep_id == sa.bindparam("sweep"), _OWN.c.trial_id == sa.bindparam("which")
    )
    query = sa.select(_OWN).where(_OWN.c.config.is_not(None))
    rows = [
        {"sweep": row.sweep_id, "which": row.trial_id, "whole": change(row.config)}
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
