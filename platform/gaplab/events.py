"""Events as text, for the way from a worker to the driver."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from gaplab.records import Event

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def to_text(event: Event) -> str:
    """JSON of one event."""
    return _ADAPTER.dump_json(event).decode()


def from_text(text: str) -> Event:
    """The event again. Raises ValueError for anything that `to_text` did not write."""
    return _ADAPTER.validate_json(text)
