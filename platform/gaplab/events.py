"""Convert events to text and back, so that workers can send them to the driver."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from gaplab.records import Event

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def to_text(event: Event) -> str:
    """Return the event as JSON."""
    return _ADAPTER.dump_json(event).decode()


def from_text(text: str) -> Event:
    """Return the event that `to_text` converted. Raises ValueError for any other text."""
    return _ADAPTER.validate_json(text)
