"""Keys that trials are grouped by, and conditions on the values that a group has for them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaplab.errors import UserError
from gaplab.formatting import cell
from gaplab.ledger.lookup import suggestion
from gaplab.results.comparison.leaderboard import COLUMNS, LeaderboardRow, settings, unknown_keys
from gaplab.spec.varied import in_fixed_order, short_names, varied_keys, varied_values

_COLUMNS = {"assignment.name": "assignment", "data.name": "dataset", "training.epochs": "epochs"}
"""Key of the spec -> the name of a leaderboard's column with the same value."""


def default_keys(rows: Sequence[LeaderboardRow]) -> list[str]:
    """Return all keys in which comparable trials differ, without the seed; at least one key.

    Rows of different data sets, or of different versions of the training code, differ in much else
    and are never compared; so only keys that vary within one of these count.
    """
    alike: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.epochs:  # measurements have no settings
            alike.setdefault((row.dataset, row.results_version), []).append(row.config)
    varied = {key for configs in alike.values() for key in varied_keys(configs)}
    found = [_COLUMNS.get(key, key) for key in in_fixed_order(varied)]
    named = "assignment" not in found and any(not row.epochs for row in rows)
    keys = [*(["assignment"] if named else []), *found]
    return keys or ["assignment"]


def values_of(row: LeaderboardRow, keys: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a row's trial under these keys; None where it has no such key."""
    own = varied_values(row.config, [key for key in keys if key not in COLUMNS])
    return {key: getattr(row, key) if key in COLUMNS else own.get(key) for key in keys}


def check_keys(rows: Sequence[LeaderboardRow], keys: Sequence[str]) -> None:
    """Raise UserError for keys that no row has, if there are rows."""
    others = [key for key in keys if key not in COLUMNS]
    missing = [key for key in others if not any(varied_values(r.config, [key]) for r in rows)]
    if rows and missing:
        error = unknown_keys(missing, {key for row in rows for key in settings(row)})
        if error:
            raise error


def in_order(value: Any) -> tuple[bool, bool, float, str]:
    """Return the sort key of a setting: numbers by size, then text, then None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None, not number, value if number else 0.0, str(value)


@dataclass(frozen=True)
class Condition:
    """A value that a group must have for one key, or for any of them."""

    key: str | None
    text: str

    def met_by(self, values: Mapping[str, Any]) -> set[str]:
        """Return the keys for which a group has the value."""
        return {k for k, v in values.items() if self.key in (None, k) and self._accepts(v)}

    def _accepts(self, value: Any) -> bool:
        if str(cell(value)) == self.text:
            return True
        try:
            given = json.loads(self.text)
        except (ValueError, RecursionError):  # not JSON, or a number or a nesting without end
            return False
        return type(given) in (int, float) and type(value) in (int, float) and given == value


def parse_conditions(
    texts: Sequence[str], keys: Sequence[str], groups: Sequence[Mapping[str, Any]]
) -> list[Condition]:
    """Return the conditions `key=value`, names of assignments, or values of any key.

    A key may be shortened to its last part where that is unambiguous.

    Raises:
        UserError: groups have no such key.
    """
    full = {short: key for key, short in short_names(keys).items()} | {key: key for key in keys}
    assignments = {values.get("assignment") for values in groups}
    conditions, unknown = [], []
    for each in texts:
        key, equals, value = each.partition("=")
        if equals and key.strip() not in full:
            unknown.append(key.strip())
        if equals:
            conditions.append(Condition(full.get(key.strip()), value.strip()))
        else:
            conditions.append(Condition("assignment" if each in assignments else None, each))
    if error := unknown_keys(unknown, full):
        raise error
    return conditions


def met(conditions: Sequence[Condition], values: Mapping[str, Any]) -> set[str] | None:
    """Return the keys whose values meet the conditions; None if one is not met."""
    found = [each.met_by(values) for each in conditions]
    return set().union(*found) if all(found) else None


def not_met(texts: Sequence[str], groups: Sequence[Mapping[str, Any]]) -> UserError:
    """Return the error for conditions that no group meets."""
    names = short_names({key for values in groups for key in values})
    known = [f"{names[key]}={cell(value)}" for values in groups for key, value in values.items()]
    wanted = " and ".join(texts)
    return UserError(f"--to {wanted}: no finished group; {suggestion(texts[-1], known)}")
