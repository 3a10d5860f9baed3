"""Base classes of everything that a spec can set.

An option is declared once: as a field of the class that uses it. The spec's schema, the checks of
`--set`, `gaplab show` and the reference documentation are all derived from these fields.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Options(BaseModel):
    """Frozen settings. Unknown keys, wrong types, NaN and infinity are rejected.

    Every field is part of a trial's id unless it is declared otherwise:

    - `Field(..., json_schema_extra=NOT_IDENTITY)`: the field can't change a trial's result (a path,
      a cache size) and is never part of the id.
    - `Field(..., json_schema_extra=LATER)`: the field was added after trials had been trained, and
      its default is how those trials behaved. It is part of the id only if it differs from the
      default, so existing ids stay valid. A migration of the ledger adds it to stored trials.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


NOT_IDENTITY: dict[str, Any] = {"identity": False}
LATER: dict[str, Any] = {"identity": "unless default"}


class OneOf:
    """Annotation of a field that accepts any entry of a table, selected by the key `name`.

    `assignment: Annotated[Strategy, OneOf(ASSIGNERS)]` accepts `{"name": "poto", "alpha": 0.5}`.
    """

    def __init__(self, table: Mapping[str, type[Options]]) -> None:
        self.table = table

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        members = {name: handler.generate_schema(entry) for name, entry in self.table.items()}
        return core_schema.tagged_union_schema(members, discriminator="name")
