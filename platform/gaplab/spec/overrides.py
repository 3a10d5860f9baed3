"""`--set key=value`: single values that override a spec."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gaplab.errors import UserError
from gaplab.spec.axes import split_key
from gaplab.spec.fields import dotted_keys
from gaplab.spec.merge import Layer, merge
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.problems import SpecPath, unknown_dotted, unknown_key
from gaplab.spec.raw import varied_groups, with_seeds
from gaplab.spec.sections import put
from gaplab.spec.yaml_text import YamlError, parse_yaml

_SWEEP_KEYS = [key for key in Spec.model_fields if key not in ("base", "zip", "when", "exclude")]
_SETTABLE = [*Experiment.model_fields, *_SWEEP_KEYS]
_DOTTED = [
    *dotted_keys(Experiment),
    *(key for key in dotted_keys(Spec) if key.partition(".")[0] in _SWEEP_KEYS),
]


def override(spec: dict[str, Any], texts: Sequence[str]) -> tuple[dict[str, Any], list[Layer]]:
    """Apply `--set` to a spec that is not validated.

    - A varied key gets the one value instead of its list or range.
    - A key below a varied section becomes a varied key with one value, so that it is applied after
      the section.
    - The key is removed from all rows; `rows.ROW.KEY` sets it in one row.
    - The order of the texts makes no difference. Another `data.name` replaces the whole section.

    Args:
        spec: the spec, with all files and profiles merged.
        texts: `key=value` each.

    Returns:
        The new spec, and one layer per key that was set.

    Raises:
        UserError: with every text that is not `key=value` with a known key.
    """
    changes: Any = {}
    layers = list[Layer]()
    settings = parse_settings(texts)
    if "repeat" in settings:
        count = settings.pop("repeat")
        spec = spec | {"repeat": count}
        layers.append(Layer(count, "--set ", ("repeat",), ("repeat",)))
    spec = _without_rows_of(with_seeds(spec), settings)
    for key, value in sorted(settings.items(), key=lambda item: item[0].count(".")):
        path = _varied_path(spec, key)
        if path and path[0] == "zip":
            spec = {**spec, "zip": _with_one_value(spec["zip"], key, value)}
        elif path and path[0] == "search":
            spec = put(spec, ("search", "space", key), {"choices": [value]})
            path = (*path, "choices")
        elif path:
            changes = put(changes, ("grid", key), [value])
        else:
            plain = _plain_path(key)
            changes = put(changes, plain, value)
            layers.append(Layer(value, "--set ", (key,), plain))
            continue
        layers.append(Layer(value, "--set ", (key,), path, in_list=True))
    return merge(spec, changes), layers


def varied_sections(spec: Mapping[str, Any]) -> set[str]:
    """Return the sections in which a spec that is not validated varies something."""
    return {key.split(".")[0] for _, group in varied_groups(spec) for key in group}


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Return the values of `key=value` texts by key. Raises UserError like `override`."""
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
        if first in Spec.model_fields:
            raise ValueError(f"{key}: {unknown_key(first, _SETTABLE)}")
        raise ValueError(f"{key}: {unknown_dotted(key, _DOTTED, _SETTABLE)}")
    try:
        return key, parse_yaml(value)
    except YamlError as error:
        raise ValueError(f"{key}: {error}") from None


def _plain_path(key: str) -> tuple[str, ...]:
    """Return the path of a key that is not varied.

    Keys inside `grid`, a row and a search's space are dotted, so they stay in one piece.
    """
    first, _, rest = key.partition(".")
    steps = {"grid": 0, "rows": 1, "search": 1}
    if rest and first in steps:
        return (first, *rest.split(".", steps[first]))
    return split_key(key)


def _without_rows_of(spec: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return `spec` with `keys` removed from all rows."""
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


def _varied_path(spec: Mapping[str, Any], key: str) -> SpecPath | None:
    """Return where a key is varied, or must be because a section above it is; None otherwise."""
    varied = {dotted: path for path, group in varied_groups(spec) for dotted in group}
    if key in varied:
        return (*varied[key], key)
    below = any(key.startswith(f"{section}.") for section in varied)
    return ("grid", key) if below else None


def _with_one_value(zipped: Any, key: str, value: Any) -> Any:
    """Return `zip` with a list for `key` of the same length as before that only has `value`."""
    if isinstance(zipped, list):
        return [_with_one_value(group, key, value) for group in zipped]
    if isinstance(zipped, Mapping) and isinstance(zipped.get(key), list):
        return {**zipped, key: [value] * len(zipped[key])}
    return zipped
