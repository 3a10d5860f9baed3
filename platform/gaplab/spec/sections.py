"""Sections of trials: put together from base and varied keys, validated once for each variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from detectors.options import Options
from gaplab.identity import canonical, identity
from gaplab.spec.axes import MISSING, Key, Varied
from gaplab.spec.fields import entries_with, single
from gaplab.spec.models import Experiment
from gaplab.spec.problems import Problem, dotted, explain
from gaplab.spec.protocols import opened

Choice = tuple[tuple[int, int], ...]
"""The varied keys that a section has in a trial, and their values: (which key, which value)."""

_READERS = {name: single(Experiment, name) for name in Experiment.model_fields}


@dataclass
class Section:
    """One section of a trial as validated; `value` means nothing where there are problems."""

    value: Any
    problems: tuple[Problem, ...] = ()

    @cached_property
    def config(self) -> Any:
        """Plain JSON that rebuilds the value."""
        return to_jsonable_python(self.value)

    @cached_property
    def identity(self) -> str:
        """Canonical JSON of what can change a trial's result."""
        return canonical(identity(self.value))


class Sections:
    """Reads a section by its name and choice; the same choice is read once."""

    def __init__(self, base: Mapping[str, Any], varied: Sequence[Varied]) -> None:
        self._base, self._varied = base, varied
        self.read = cache(self._read)

    def value(self, key: Key, choice: Choice) -> Any:
        """What a trial has at `key`, defaults included; MISSING where its section has no such key.

        In a section with problems only what is written out can be seen.
        """
        section = self.read(key[0], choice)
        node = self._raw(key[0], choice) if section.problems else section.value
        for part in key[1:]:
            node = _step(node, part)
        return list(node) if isinstance(node, tuple) else node

    def _read(self, name: str, choice: Choice) -> Section:
        raw = self._raw(name, choice)
        try:
            model = _READERS[name].model_validate({} if raw is MISSING else {name: raw})
        except ValidationError as error:
            found = [explain(each, Experiment) for each in error.errors(include_url=False)]
            return Section(None, tuple(self._placed(each, choice) for each in found))
        return Section(getattr(model, name))

    def _raw(self, name: str, choice: Choice) -> Any:
        raw = self._base.get(name, MISSING)
        for which, position in choice:
            varied = self._varied[which]
            raw = put(raw, varied.key, varied.values[position], 1)
        return raw

    def _placed(self, problem: Problem, choice: Choice) -> Problem:
        """The same problem, where the spec has the value at fault."""
        for which, position in reversed(choice):
            varied = self._varied[which]
            rest = problem.path[len(varied.key) :]
            if problem.path[: len(varied.key)] == varied.key:
                if problem.of_key and not rest:
                    text = problem.text if varied.axis.rows else _only_where_it_exists(varied.key)
                    return Problem(varied.key_at(position), text, True)
                at = (*varied.value_at(position), *rest)
                return Problem(at, problem.text, problem.of_key)
        return problem


def _step(node: Any, part: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(part, MISSING)
    known = isinstance(node, Options) and part in type(node).model_fields
    return getattr(node, part) if known else MISSING


def put(node: Any, key: Key, value: Any, depth: int = 0) -> Any:
    """`node` with `value` at key[depth:]; what is no mapping stays, for validation to refuse."""
    if depth == len(key):
        return value
    node = opened(key[:depth], {} if node is MISSING else node)
    if not isinstance(node, Mapping):
        return node
    inner = node.get(key[depth], MISSING)
    return {**node, key[depth]: put(inner, key, value, depth + 1)}


def _only_where_it_exists(key: Key) -> str:
    names = ", ".join(entries_with(key, Experiment))
    where = f"{{{dotted(key[:-1])}.name: [{names}]}}"
    return (
        f"not every trial has this key; vary it where it exists: when: {{{dotted(key)}: {where}}}"
    )
