"""`--set key=value`: single values laid over a spec."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gaplab.errors import UserError
from gaplab.spec.axes import parts
from gaplab.spec.merge import Layer, merge
from gaplab.spec.models import Experiment
from gaplab.spec.problems import Path, unknown_key
from gaplab.spec.sections import put
from gaplab.spec.yaml_text import YamlError, parse_yaml

_OF_SWEEP = ("rows", "grid", "search", "stop", "run", "name", "question", "max_trials")
_SETTABLE = [*Experiment.model_fields, *_OF_SWEEP]


def override(spec: dict[str, Any], texts: Sequence[str]) -> tuple[dict[str, Any], list[Layer]]:
    """The spec after `--set` of each `key=value`, and a layer for each.

    A varied key gets the one value in place of its list or range. A key below a varied section
    becomes a varied key of one value, so that it comes after the section. Rows lose the key, and
    one key of one row is `rows.ROW.KEY`. All that is set counts together, whatever the order: with
    another `data.name` the whole section starts afresh.
    Raises UserError for every text that is not `key=value` with a known key.
    """
    changes: Any = {}
    layers = list[Layer]()
    settings = _settings(texts)
    spec = _without_rows_of(spec, settings)
    for key, value in sorted(settings.items(), key=lambda item: item[0].count(".")):
        at = _varied_at(spec, key)
        if at and at[0] == "zip":
            spec = {**spec, "zip": _fixed(spec["zip"], key, value)}
        elif at and at[0] == "search":
            spec = put(spec, ("search", "space", key), {"choices": [value]})
            at = (*at, "choices")
        elif at:
            changes = put(changes, ("grid", key), [value])
        else:
            place = _place(key)
            changes = put(changes, place, value)
            layers.append(Layer(value, "--set ", (key,), place))
            continue
        layers.append(Layer(value, "--set ", (key,), at, listed=True))
    return merge(spec, changes), layers


def _settings(texts: Iterable[str]) -> dict[str, Any]:
    found, problems = dict[str, Any](), list[str]()
    for text in texts:
        try:
            key, value = _setting(text)
            found[key] = value
        except ValueError as error:
            problems.append(f"--set {error}")
    if problems:
        raise UserError(*problems)
    return found


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    first = key.split(".")[0]
    if not equals or not all(key.split(".")):
        raise ValueError(f"{text}: must be key=value, as in seed=3")
    if first not in _SETTABLE:
        raise ValueError(f"{key}: {unknown_key(first, _SETTABLE)}")
    try:
        return key, parse_yaml(value)
    except YamlError as error:
        raise ValueError(f"{key}: {error}") from None


def _place(key: str) -> tuple[str, ...]:
    """Where `key` stands in a spec: keys of `grid`, a row and a search's space are dotted, too."""
    first, _, rest = key.partition(".")
    steps = {"grid": 0, "rows": 1, "search": 1}
    return (first, *rest.split(".", steps[first])) if rest and first in steps else parts(key)


def _without_rows_of(spec: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """`spec`, in which no row sets one of `keys`."""
    rows = spec.get("rows")
    if not isinstance(rows, Mapping):
        return spec
    left = {
        row: {key: value for key, value in settings.items() if key not in keys}
        if isinstance(settings, Mapping)
        else settings
        for row, settings in rows.items()
    }
    return {**spec, "rows": left}


def _varied_at(spec: Mapping[str, Any], key: str) -> Path | None:
    """Where `key` is varied, or where it must be because a section above it is; else None."""
    varied = {dotted: at for at, group in _groups(spec) for dotted in group}
    if key in varied:
        return (*varied[key], key)
    below = any(key.startswith(f"{section}.") for section in varied)
    return ("grid", key) if below else None


def _groups(spec: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The mappings of varied keys, as far as they are mappings: nothing is checked yet."""
    zipped, rows = spec.get("zip"), spec.get("rows")
    many = list(enumerate(zipped)) if isinstance(zipped, list) else []
    found: list[tuple[Path, Any]] = [(("grid",), spec.get("grid")), (("zip",), zipped)]
    found += [(("zip", i), group) for i, group in many]
    found += [(("rows", row), rows[row]) for row in rows] if isinstance(rows, Mapping) else []
    search = spec.get("search")
    found += [(("search", "space"), search.get("space"))] if isinstance(search, Mapping) else []
    return ((at, group) for at, group in found if isinstance(group, Mapping))


def varied_sections(spec: Mapping[str, Any]) -> set[str]:
    """The sections in which a spec that is not checked yet varies something."""
    return {key.split(".")[0] for _, group in _groups(spec) for key in group}


def _fixed(zipped: Any, key: str, value: Any) -> Any:
    """`zip` with one value for `key`, as often as it had values."""
    if isinstance(zipped, list):
        return [_fixed(group, key, value) for group in zipped]
    if isinstance(zipped, Mapping) and isinstance(zipped.get(key), list):
        return {**zipped, key: [value] * len(zipped[key])}
    return zipped
