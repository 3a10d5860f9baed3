"""Format numbers, durations and nested settings for terminals and files."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def points(value: float | None) -> str:
    """Return percentage points with one decimal, or a dash for None."""
    return "-" if value is None else f"{value:.1f}"


def signed(value: float | None) -> str:
    """Return percentage points with a sign and one decimal; what rounds to zero has no sign."""
    if value is None:
        return "-"
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def duration(seconds: float) -> str:
    """Return a duration such as `48 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 trial`, `2 trials`, `0 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def joined(names: Sequence[str], last: str) -> str:
    """Return names as `a, b or c` for `last` "or"."""
    return f" {last} ".join(each for each in (", ".join(names[:-1]), *names[-1:]) if each)


def named_trials(ids: Sequence[str]) -> str:
    """Return `trial A`, or `5 trials (A, B, C, ...)` for several."""
    if len(ids) == 1:
        return f"trial {ids[0]}"
    return f"{len(ids)} trials ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"


def one_line(text: str) -> str:
    """Return text on one line, without characters that a terminal interprets."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return text without characters that a terminal interprets; they are escaped.

    Names of files, classes and trials may come from untrusted sources.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings with dotted keys; lists and empty mappings are values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        found |= inner or {f"{prefix}{key}": value}
    return found


def by_branch(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return values named `branch.quantity` by branch, then by quantity."""
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        branch, _, quantity = name.partition(".")
        found.setdefault(branch, {})[quantity] = value
    return found


def rounded(value: float | None) -> float | None:
    """Return a number with 4 decimals."""
    return None if value is None else round(value, 4) + 0.0  # + 0.0 turns -0.0 into 0.0


def cell(value: Any) -> Any:
    """Return a value as a field of a CSV file: JSON unless it is text; an empty field for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
