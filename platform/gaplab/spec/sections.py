"""Sections of trials: built from the base and the varied keys, and validated once per variant."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from detectors.options import Options
from gaplab.identity import canonical, identity
from gaplab.spec.axes import MISSING, Key, VariedKey
from gaplab.spec.fields import entries_with, single_field_model
from gaplab.spec.models import Experiment
from gaplab.spec.problems import Problem, format_path, problems_of
from gaplab.spec.protocols import expand_preset

Choice = tuple[tuple[int, int], ...]
"""The varied keys that a section has in a trial, with their values: pairs of the index of the key
and the position of its value."""

_READERS = {name: single_field_model(Experiment, name) for name in Experiment.model_fields}


@dataclass
class Section:
    """One section of a trial after validation. With problems, `value` has no meaning."""

    value: Any
    problems: tuple[Problem, ...] = ()

    @cached_property
    def config(self) -> Any:
        """Plain JSON from which the value can be rebuilt."""
        return to_jsonable_python(self.value)

    @cached_property
    def identity(self) -> str:
        """Canonical JSON of everything in the section that can change a trial's result."""
        return canonical(identity(self.value))


def different(sections: Iterable[Section]) -> list[Section]:
    """Return each section once. Equal sections of the trials of a spec are one object."""
    return list({id(section): section for section in sections}.values())


class Sections:
    """Builds and validates sections. The same section with the same choice is validated once.

    Args:
        base: sections of the base experiment, not validated.
        varied: the varied keys; choices refer to them by index.
    """

    def __init__(self, base: Mapping[str, Any], varied: Sequence[VariedKey]) -> None:
        self._base, self._varied = base, varied
        self.read = cache(self._read)

    def value(self, key: Key, choice: Choice) -> Any:
        """Return the value of a key, defaults included.

        MISSING if the section has no such key. In a section with problems, defaults are unknown, so
        only values that are written in the spec are found.
        """
        section = self.read(key[0], choice)
        node = self._raw(key[0], choice) if section.problems else section.value
        for part in key[1:]:
            node = _child(node, part)
        return list(node) if isinstance(node, tuple) else node

    def _read(self, name: str, choice: Choice) -> Section:
        """Return the section of this name with the values of `choice`, validated."""
        raw = self._raw(name, choice)
        try:
            model = _READERS[name].model_validate({} if raw is MISSING else {name: raw})
        except ValidationError as error:
            found = problems_of(error, Experiment)
            return Section(None, tuple(self.relocated(each, choice) for each in found))
        return Section(getattr(model, name))

    def _raw(self, name: str, choice: Choice) -> Any:
        raw = self._base.get(name, MISSING)
        for index, position in choice:
            varied = self._varied[index]
            raw = put(raw, varied.key, varied.values[position], 1)
        return raw

    def relocated(self, problem: Problem, choice: Choice) -> Problem:
        """Return the problem with the path at which the spec has the wrong value."""
        for index, position in reversed(choice):
            varied = self._varied[index]
            rest = problem.path[len(varied.key) :]
            if problem.path[: len(varied.key)] == varied.key:
                if problem.of_key and not rest:
                    text = problem.text if varied.axis.rows else _needs_condition(varied.key)
                    return Problem(varied.key_path(position), text, True)
                path = (*varied.value_path(position), *rest)
                return Problem(path, problem.text, problem.of_key)
        return problem


def put(node: Any, key: Key, value: Any, depth: int = 0) -> Any:
    """Return a copy of `node` with `value` at key[depth:].

    A node that isn't a mapping is returned unchanged: validation rejects it.
    """
    if depth == len(key):
        return value
    node = expand_preset(key[:depth], {} if node is MISSING else node)
    if not isinstance(node, Mapping):
        return node
    inner = node.get(key[depth], MISSING)
    return {**node, key[depth]: put(inner, key, value, depth + 1)}


def _child(node: Any, part: str) -> Any:
    """Return what a mapping or an object of options has at `part`, or MISSING."""
    if isinstance(node, Mapping):
        return node.get(part, MISSING)
    known = isinstance(node, Options) and part in type(node).model_fields
    return getattr(node, part) if known else MISSING


def _needs_condition(key: Key) -> str:
    """Return the text for a varied key that some of the trials don't have."""
    names = ", ".join(entries_with(key, Experiment))
    condition = f"{{{format_path(key[:-1])}.name: [{names}]}}"
    return (
        "not every trial has this key; vary it only where it exists: "
        f"when: {{{format_path(key)}: {condition}}}"
    )
