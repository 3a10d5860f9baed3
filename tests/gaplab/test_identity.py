"""The identity of options, field by field."""

from pydantic import Field

from detectors.options import LATER, NOT_IDENTITY, Options
from gaplab.identity import identity


class Part(Options):
    """The first version of a class."""

    size: int = 1
    place: str = Field("here", json_schema_extra=NOT_IDENTITY)


class Grown(Options):
    """A later version of the class."""

    size: int = 1
    place: str = Field("here", json_schema_extra=NOT_IDENTITY)
    mode: str = Field("as before", json_schema_extra=LATER)


class Whole(Options):
    parts: tuple[Options, ...]


def test_a_path_is_not_part_of_the_identity() -> None:
    assert identity(Part(place="there")) == identity(Part()) == {"size": 1}


def test_a_later_field_counts_unless_it_has_its_default() -> None:
    assert identity(Grown()) == identity(Part())
    assert identity(Grown(mode="new")) == {"size": 1, "mode": "new"}


def test_fields_at_any_depth() -> None:
    assert identity(Whole(parts=(Grown(), Grown(mode="new")))) == {
        "parts": [{"size": 1}, {"size": 1, "mode": "new"}]
    }
