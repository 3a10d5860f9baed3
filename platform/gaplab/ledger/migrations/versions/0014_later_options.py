"""Stored configurations have every option that was added after their trials had been trained.

Such an option has the value that those trials behaved by. Without it, trials of different releases
seem to differ in it: it would be a column of every table, and a filter would miss the older ones.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from gaplab.formatting import flat
from gaplab.ledger.settings import number, section_id, setting_value

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

LATER: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("detector.backbone.deformable_stages", ("resnet",), 0),
    ("detector.detach_o2o", ("fcos", "retinanet"), False),
    ("detector.masks", ("fcos", "retinanet"), None),
    ("detector.neck_deformable", ("onenet",), False),
    ("detector.o2m_groups", ("detr", "deformable_detr", "sparse_rcnn"), 1),
    ("detector.o2m_queries", ("detr", "deformable_detr", "sparse_rcnn"), 0),
    ("training.accumulate", (), 1),
    ("training.colour", (), 0.0),
    ("training.compile", (), False),
    ("training.group_by_aspect", (), False),
    ("training.loss.cls", (), "assignment"),
    ("training.loss.cls_target", (), "degree"),
    ("training.loss.mask_points", (), 64),
    ("training.loss.mask_weight", (), 1.0),
    ("training.mix_until", (), 1.0),
    ("training.mixup", (), 0.0),
    ("training.mosaic", (), 0.0),
    ("training.o2m_loss.cls", (), "assignment"),
    ("training.o2m_loss.cls_target", (), "degree"),
    ("training.o2m_loss.mask_points", (), 64),
    ("training.o2m_loss.mask_weight", (), 1.0),
    ("training.sampling_lr", (), 1.0),
    ("training.sync_batch_norm", (), False),
)
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


def upgrade() -> None:
    _complete_trials()
    _complete_sweeps()
    used = sa.select(_LINK.c.section_id)
    op.get_bind().execute(sa.delete(_SETTING).where(_SETTING.c.section_id.not_in(used)))


def downgrade() -> None:
    """Keep the options: the gaplab of version 0013 has them, too."""


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the options that it lacks."""
    whole: dict[str, Any] = json.loads(json.dumps(config))
    for key, names, value in LATER:
        *path, last = key.split(".")
        section: Any = whole
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and (not names or section.get("name") in names):
            section.setdefault(last, value)
    return whole


def _complete_trials() -> None:
    update = sa.update(_TRIAL).where(_TRIAL.c.id == sa.bindparam("which"))
    for batch in _batches():
        changed = {
            row.id: config for row in batch if (config := completed(row.config)) != row.config
        }
        if changed:
            rows = [{"which": trial, "whole": config} for trial, config in changed.items()]
            whole = sa.bindparam("whole", type_=sa.JSON())
            op.get_bind().execute(update.values(config=whole), rows)
            _link(changed)


def _complete_sweeps() -> None:
    """Complete the configurations that a sweep has of its own."""
    update = sa.update(_OWN).where(
        _OWN.c.sweep_id == sa.bindparam("sweep"), _OWN.c.trial_id == sa.bindparam("which")
    )
    query = sa.select(_OWN).where(_OWN.c.config.is_not(None))
    rows = [
        {"sweep": row.sweep_id, "which": row.trial_id, "whole": completed(row.config)}
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
