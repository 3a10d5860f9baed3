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
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

LARGEST = 1e30
"""Largest size of a number; float32 ends at 3.4e38."""


class Options(BaseModel):
    """Frozen settings. Unknown keys, wrong types, NaN, infinity and huge numbers are rejected.

    A number is huge if it is larger than `LARGEST`: float32 can't hold what is computed with it.

    Every field is part of a trial's id unless it is declared otherwise:

    - `Field(..., json_schema_extra=NOT_IDENTITY)`: the field can't change a trial's result (a path,
      a cache size) and is never part of the id.
    - `Field(..., json_schema_extra=LATER)`: the field was added after trials had been trained, and
      its default is how those trials behaved. It is part of the id only if it differs from the
      default, so existing ids stay valid. A migration of the ledger adds it to stored trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _computable(self) -> Self:
        numbers = {key: value for key, value in self.__dict__.items() if isinstance(value, float)}
        huge = {key: value for key, value in numbers.items() if abs(value) > LARGEST}
        if huge:
            text = f"must have a size of at most {LARGEST:g}, got"
            raise UnfitError(*(f"{key} {text} {value:g}" for key, value in huge.items()))
        return self


class UnfitError(ValueError):
    """Values of options that don't fit each other. `problems` has one line per problem.

    A line begins with the key of the option it is about, relative to the class that raises it:
    `groups must divide channels (24), got 5` or `backbone: its finest map must have stride 4`.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


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
