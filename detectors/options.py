"""Base classes of everything that a spec can set.

An option is declared once: as a field of the class that uses it. The spec's schema, the checks of
`--set`, `gaplab show` and the reference documentation are all derived from these fields.
"""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from textwrap import dedent
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

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


NOT_IDENTITY: dict[str, Any] = {"identity": False}
LATER: dict[str, Any] = {"identity": "unless default"}


@cache
def docstrings(model: type[Options]) -> dict[str, str]:
    """Return the docstring below each field, also of fields that `model` inherits.

    It parses the source of the class. Pydantic could do this for every class that is defined, but
    then importing all detectors and assignments takes half a second longer.
    """
    found = dict[str, str]()
    for owner in (each for each in reversed(model.__mro__) if issubclass(each, Options)):
        definition = ast.parse(dedent(inspect.getsource(owner))).body[0]
        for statements in pairwise(ast.iter_child_nodes(definition)):
            match statements:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


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
