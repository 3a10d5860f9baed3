"""Find a sweep or a trial by its name or by the beginning of its id."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from sqlalchemy import Connection, select

from gaplab.errors import UserError
from gaplab.ledger.models import Sweep, Trial

_SHOWN = 5  # at most so many matches in a message


def find_sweep(connection: Connection, text: str) -> str:
    """Return the id of the sweep whose id, name (the newest of that name) or start of id is `text`.

    Raises UserError if there is no such sweep, or if `text` begins several ids.
    """
    named = select(Sweep.id).where(Sweep.name == text).order_by(Sweep.created_at.desc(), Sweep.id)
    found = connection.scalars(select(Sweep.id).where(Sweep.id == text)).all()
    found = (
        found or connection.scalars(named.limit(1)).all() or _starting_with(connection, Sweep, text)
    )
    if len(found) == 1:
        return found[0]
    every = connection.execute(select(Sweep.id, Sweep.name).order_by(Sweep.name)).all()
    raise _lookup_error("sweep", text, found, [word for row in every for word in row])


def find_trial(connection: Connection, text: str) -> str:
    """Return the id of the trial whose id is or begins with `text`. Raises as `find_sweep`."""
    found = connection.scalars(select(Trial.id).where(Trial.id == text)).all()
    found = found or _starting_with(connection, Trial, text)
    if len(found) == 1:
        return found[0]
    raise _lookup_error("trial", text, found, connection.scalars(select(Trial.id)).all())


def suggestion(text: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown `text`: similar words of `known`, or some."""
    words = sorted(set(known))
    if not words:
        return "there is none yet"
    near = get_close_matches(text, words, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = ", ..." if len(words) > _SHOWN else ""
    return f"there are {', '.join(words[:_SHOWN])}{more}"


def _starting_with(connection: Connection, table: type[Sweep | Trial], text: str) -> Sequence[str]:
    if not text:
        return []
    matches = table.id.startswith(text, autoescape=True)
    return connection.scalars(select(table.id).where(matches).order_by(table.id).limit(50)).all()


def _lookup_error(kind: str, text: str, found: Sequence[str], known: Sequence[str]) -> UserError:
    if not found:
        return UserError(f"{kind} {text!r}: not in the ledger; {suggestion(text, known)}")
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return UserError(f"{kind} {text!r}: several ids begin with it ({shown}); type more of the id")
