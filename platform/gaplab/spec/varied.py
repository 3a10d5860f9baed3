"""Keys in which trials differ, their short names, and labels made of them.

Works on the configurations of trials alone, so the trials may come from one spec, from several
sweeps, or from a filter. Imports neither torch nor the ledger.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gaplab.formatting import cell
from gaplab.spec.raw import varied_groups

Config = Mapping[str, Any]
"""A trial as plain JSON, as in `TrialRecord.config`."""

SETTINGS = frozenset(
    [
        *("seed", "resources", "checkpoints", "evaluation.every", "evaluation.candidates"),
        *("training.log_every", "training.recompute"),
        *("data.root", "data.cache_mib", "data.workers"),
        *("data.planned_images", "data.planned_classes"),
        *("data.train_json", "data.val_json", "data.train_images", "data.val_images"),
        *("data.train_odgt", "data.val_odgt", "data.train_list", "data.val_list"),
        *("data.images", "data.annotations", "data.data_yaml"),
    ]
)
"""Keys that are never varied keys: the seed, and what can't change a result, with all keys inside.
"""
ASSIGNMENT = "assignment.name"
"""The key that a label begins with, without its name."""
_SELECTORS = ("name", "preset")
"""Keys that select the other keys of their section and the values that these have by default."""
_CUSTOM = "custom-"
"""Beginning of the names of protocols that are no preset: their values say more than the name."""
_PROTOCOL, _PRESET = "evaluation.protocol", "evaluation.protocol.preset"
"""A spec may set the first one to the name of a preset; a trial has it as the second one."""
_MISSING = object()


def varied_keys(configs: Iterable[Config]) -> list[str]:
    """Return the dotted keys in which trials differ, those of the assignment first.

    The seed and settings that can't change a result are left out. A section that a `name` selects
    is compared among trials with the same name: of POTO with three values of alpha beside O2F with
    one of k, the keys are `assignment.name` and `assignment.alpha`. A key that some of them lack
    counts as differing. Trials that have equal values of all these keys are therefore equal up to
    their seeds.

    Args:
        configs: any number of trials. One trial, or none, has no varied keys.
    """
    return _assignment_first(dict.fromkeys(_inside(list(configs), "")))


def swept_keys(spec: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys that a spec varies, without making its trials.

    These are `varied_keys` of its trials, and keys whose values turn out to be equal: an option
    that is listed with its default, or one that `when` and `exclude` leave with a single value.

    Args:
        spec: a spec as plain data, with files, profile and overrides merged.
    """
    groups = list(varied_groups(spec))
    rows = [_nested(row) for path, row in groups if path[0] == "rows"]
    found = dict.fromkeys(varied_keys(rows))
    for path, group in groups:
        if path[0] == "search":
            found |= dict.fromkeys(group)
        elif path[0] != "rows":
            for key, values in group.items():
                found |= dict.fromkeys(varied_keys([_nested({key: value}) for value in values]))
    keys = dict.fromkeys(_PRESET if key == _PROTOCOL else key for key in found)
    return _assignment_first(key for key in keys if key not in SETTINGS)


def in_fixed_order(keys: Iterable[str]) -> list[str]:
    """Return keys in an order that depends on nothing but them.

    Those of the assignment come first, and in each section the key that selects the others.
    """

    def place(key: str) -> tuple[bool, list[tuple[bool, str]]]:
        parts = key.split(".")
        return parts[0] != "assignment", [(part not in _SELECTORS, part) for part in parts]

    return sorted(keys, key=place)


def short_names(keys: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return the shortest unambiguous ending of each key: `alpha` for `assignment.alpha`.

    A key that ends in `.name` is called like its section: `backbone` for `detector.backbone.name`.

    Args:
        keys: dotted keys.
        taken: names that mean something else, such as other columns of a table.
    """
    used, endings = set(taken), {key: _endings(key) for key in keys}
    found = {}
    for key, own in endings.items():
        others = used.union(*(each for other, each in endings.items() if other != key))
        found[key] = next((each for each in own if each not in others), key)
    return found


def varied_values(config: Config, keys: Iterable[str]) -> dict[str, Any]:
    """Return the values of those dotted keys that a trial has. A section has no value."""
    values = {key: _value(config, key) for key in keys}
    return {key: value for key, value in values.items() if value is not _MISSING}


def value_text(value: Any) -> str:
    """Return a value as one cell of a table: text as it is, anything else as JSON."""
    return "null" if value is None else str(cell(value))


def varied_cells(config: Config, keys: Iterable[str]) -> list[str]:
    """Return one cell per key; an empty one for a key that the trial lacks."""
    keys = list(keys)
    values = varied_values(config, keys)
    return [value_text(values[key]) if key in values else "" for key in keys]


def trial_label(config: Config, keys: Iterable[str]) -> str:
    """Return the assignment and the varied keys that the trial has: `poto alpha=0.5`.

    Values are not escaped: escape the label where it is printed.
    """
    name = varied_values(config, [ASSIGNMENT]).get(ASSIGNMENT, "")
    names = short_names(keys)
    values = varied_values(config, [key for key in names if key != ASSIGNMENT])
    parts = [f"{names[key]}={value_text(value)}" for key, value in values.items()]
    return " ".join([value_text(name), *parts] if name else parts)


def _assignment_first(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: not key.startswith("assignment"))


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial that has these values of dotted keys and nothing else."""
    whole: dict[str, Any] = {}
    for key in sorted(
        (k for k in settings if not k.startswith("read.")), key=lambda k: k.count(".")
    ):
        *above, last = key.split(".")
        node = whole
        for part in above:
            inner = node.get(part)
            node[part] = dict(inner) if isinstance(inner, Mapping) else {}
            node = node[part]
        node[last] = settings[key]
    return whole


def _differing(values: Sequence[Any], key: str) -> Iterator[str]:
    """Yield the keys at and below `key` in which values differ; repeats some of them."""
    if key in SETTINGS:
        return
    sections = [each for each in values if isinstance(each, Mapping) and each]
    others = [each for each in values if not isinstance(each, Mapping) or not each]
    leaves = {_comparable(each) for each in others}
    if len(leaves | ({_MISSING} if sections else set())) > 1:
        yield key
    absent: list[Config] = [{}] if _MISSING in leaves else []
    yield from _inside(_distinct(sections) + absent, key) if sections else ()


def _inside(sections: Sequence[Config], key: str) -> Iterator[str]:
    """Yield the keys inside sections in which these differ."""
    selector, groups = _by_selector(sections)
    if selector and len(groups) > 1:
        yield f"{key}.{selector}" if key else selector
    for group in groups:
        for name in dict.fromkeys(name for each in group for name in each):
            if name != selector:
                values = _once([each.get(name, _MISSING) for each in group])
                yield from _differing(values, f"{key}.{name}" if key else name)


def _by_selector(sections: Sequence[Config]) -> tuple[str, list[list[Config]]]:
    """Return the key that selects sections, and the sections by its value.

    The key is empty if there is none: the sections are one group then.
    """
    for selector in _SELECTORS:
        names = [each.get(selector) for each in sections]
        if any(isinstance(name, str) for name in names):
            custom = any(str(name).startswith(_CUSTOM) for name in names)
            by_name: dict[Any, list[Config]] = {}
            for name, section in zip(names, sections, strict=True):
                by_name.setdefault(None if custom else _comparable(name), []).append(section)
            return selector, list(by_name.values())
    return "", [list(sections)]


def _once(values: Sequence[Any]) -> list[Any]:
    """Return values without repeated objects: trials of one spec have most sections in common."""
    return list({id(each): each for each in values}.values())


def _distinct(sections: Sequence[Config]) -> list[Config]:
    """Return sections without most of the repeated ones, which saves most of the time."""
    return list({json.dumps(each): each for each in sections}.values())


def _comparable(value: Any) -> Any:
    """Return what is equal for equal values of JSON: 1 is 1.0, but not true."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, Mapping):
        return ("map", frozenset((key, _comparable(inner)) for key, inner in value.items()))
    return ("list", *map(_comparable, value)) if isinstance(value, list | tuple) else value


def _endings(key: str) -> list[str]:
    """Return the names that a key may have, shortest first; itself last."""
    stem = key
    for selector in _SELECTORS:
        stem = stem.removesuffix(f".{selector}")
    parts = stem.split(".")
    found = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
    return list(dict.fromkeys([*found, key]))


def _value(config: Config, key: str) -> Any:
    """Return the value of a dotted key; _MISSING if the trial lacks it, or it is a section."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    return _MISSING if isinstance(value, Mapping) and value else value
