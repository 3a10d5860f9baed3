"""Paths of files in the home folder are relative to it, so that the folder can be moved.

They were absolute: `HOME/trials/TRIAL/...` and `HOME/code/DIGEST.diff`.
"""

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_PATHS = (("evaluation", "candidates"), ("evaluation", "matches"), ("checkpoint", "uri"))
_CODE = re.compile(r"/code/[0-9a-f]+\.diff$")


def upgrade() -> None:
    for name, column in _PATHS:
        table = sa.table(name, sa.column("trial_id", sa.Text()), sa.column(column, sa.Text()))
        path = table.c[column]
        start = _position(path, sa.literal("/trials/") + table.c.trial_id + "/")
        is_local = _position(path, sa.literal("://")) == 0
        shorter = {column: sa.func.substr(path, start + 1)}
        op.execute(sa.update(table).where(start > 0, is_local).values(shorter))
    attempt = sa.table("attempt", sa.column("id", sa.Integer()), sa.column("provenance", sa.JSON()))
    for identity, provenance in list(_with_changes(attempt)):
        change = sa.update(attempt).where(attempt.c.id == identity)
        op.execute(change.values(provenance=provenance))


def downgrade() -> None:
    """Leave the paths: the folder that they were in is not known."""


def _position(text: sa.ColumnElement[str], part: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
    """Return where `part` begins in `text`, counted from 1; 0 if it does not occur."""
    function = sa.func.instr if op.get_bind().dialect.name == "sqlite" else sa.func.strpos
    return function(text, part, type_=sa.Integer())


def _with_changes(attempt: sa.TableClause) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield id and new provenance of the attempts whose code had changes in a file of the home."""
    for identity, provenance in op.get_bind().execute(sa.select(attempt)):
        code = provenance.get("code") or {}
        found = _CODE.search(code.get("uri") or "")
        if found and "://" not in code["uri"]:
            yield identity, provenance | {"code": code | {"uri": found[0].removeprefix("/")}}
