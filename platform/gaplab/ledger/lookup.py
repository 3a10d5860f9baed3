"""Finding what a person means by the beginning of an id, or a name."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from sqlalchemy import Connection, select

from gaplab.errors import UserError
from gaplab.ledger.models import Sweep, Trial

_SHOWN = 5  # matches in a message


def sweep(connection: Connection, text: str) -> str:
    """Id of the sweep that `text` is the id, the name (newest first) or a prefix of the id of."""
    named = select(Sweep.id).where(Sweep.name == text).order_by(Sweep.created_at.desc(), Sweep.id)
    found = connection.scalars(select(Sweep.id).where(Sweep.id == text)).all()
    found = found or connection.scalars(named.limit(1)).all() or _begins(connection, Sweep, text)
    if len(found) == 1:
        return found[0]
    every = connection.execute(select(Sweep.id, Sweep.name).order_by(Sweep.name)).all()
    raise _not_one("sweep", text, found, [word for row in every for word in row])


def trial(connection: Connection, text: str) -> str:
    """Id of the one trial whose id begins with `text`."""
    found = connection.scalars(select(Trial.id).where(Trial.id == text)).all()
    found = found or _begins(connection, Trial, text)
    if len(found) == 1:
        return found[0]
    raise _not_one("trial", text, found, connection.scalars(select(Trial.id)).all())


def nearest(text: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `text`: near ones of `known`, or some of them."""
    words = sorted(set(known))
    if not words:
        return "there is none yet"
    near = get_close_matches(text, words, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = ", ..." if len(words) > _SHOWN else ""
    return f"there are {', '.join(words[:_SHOWN])}{more}"


def _begins(connection: Connection, table: type[Sweep | Trial], text: str) -> Sequence[str]:
    if not text:
        return []
    begins = table.id.startswith(text, autoescape=True)
    return connection.scalars(select(table.id).where(begins).order_by(table.id).limit(50)).all()


def _not_one(kind: str, text: str, found: Sequence[str], known: Sequence[str]) -> UserError:
    if not found:
        return UserError(f"{kind} {text!r}: not in the ledger; {nearest(text, known)}")
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return UserError(f"{kind} {text!r}: begins several ids ({shown}); give more of it")
