"""The attempts at a trial, as `gaplab show` prints them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gaplab.cli.render.tabular import plain_table
from gaplab.formatting import duration, flat
from gaplab.ledger.views import AttemptView

LAST = 10
"""Of more attempts, only so many are printed."""
WIDTH = 100
"""Columns of the table at most."""


def print_attempts(attempts: Sequence[AttemptView], console: Console) -> None:
    """The last attempts: where and with which code each ran, what it cost, why it ended.

    Then what was not the same in all of them.
    """
    last = attempts[-LAST:]
    console.print(_table(last), width=min(WIDTH, console.width))
    lines = [line for attempt in last for line in _endings(attempt)]
    lines += [*_codes(last), *_strays(last), *_differences(last)]
    if hidden := len(attempts) - len(last):
        lines.append(f"{hidden} earlier attempts: see --json")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _table(attempts: Sequence[AttemptView]) -> Table:
    """GPU time has a column where there is some."""
    gpu = ["GPU"] if any(a.gpu_seconds for a in attempts) else []
    heads = ("attempt", "state", "code", "node", "device", "wall", "CPU", *gpu, "memory")
    table = plain_table(*heads, whole=("state",), between=0)
    for a in attempts:
        seconds = (a.wall_seconds, a.cpu_seconds, *([a.gpu_seconds] if gpu else []))
        cost = ["-" if s is None else duration(s) for s in seconds]
        memory = "-" if a.peak_memory_mib is None else f"{a.peak_memory_mib:.0f} MiB"
        what = (a.state, _short(a).replace(" ", "\n"), escape(a.node), escape(a.device))
        table.add_row(str(a.number), *what, *cost, memory)
    return table


def _endings(attempt: AttemptView) -> list[str]:
    what = f" ({attempt.fault})" if attempt.fault else ""
    ending = f"attempt {attempt.number} {attempt.state}{what}: {attempt.reason}"
    notes = [f"attempt {attempt.number}: {note}" for note in attempt.notes]
    return notes + ([ending] if attempt.reason else [])


def _code(attempt: AttemptView) -> dict[str, Any]:
    code: dict[str, Any] = attempt.provenance.get("code", {})
    return code


def _short(attempt: AttemptView) -> str:
    """`1a2b3c4d`, `1a2b3c4d dirty`; without a commit, that of the modules: `=1a2b3c4d`."""
    code = _code(attempt)
    if code.get("commit"):
        state = {True: " dirty", False: "", None: " ?"}[code["dirty"]]
        return f"{code['commit'][:8]}{state}"
    return f"={code['sources'][:8]}" if code else "-"


def _codes(attempts: Sequence[AttemptView]) -> list[str]:
    """One line for each code that is more or less than a commit, then one if there are several."""
    found = _numbers(attempts, lambda a: json.dumps(_code(a)))
    lines = [_about(json.loads(text), which) for text, which in found.items()]
    if len(found) > 1:
        runs = ", ".join(f"{short} ({n})" for short, n in _numbers(attempts, _named).items())
        modules = _numbers(attempts, lambda a: str(a.provenance.get("sources")))
        same = "; the modules of gaplab and detectors were the same" if len(modules) == 1 else ""
        lines.append(f"attempts ran with different code: {runs}{same}")
    return [line for line in lines if line]


def _named(attempt: AttemptView) -> str:
    return f"{_short(attempt)} {_code(attempt).get('digest', '')}".strip()


def _about(code: dict[str, Any], which: str) -> str:
    parts = []
    if code.get("uri"):
        parts.append(f"changes {code['digest']} on top of {code['commit'][:8]}: {code['uri']}")
    if code.get("left_out"):
        parts.append(f"changed but not kept: {', '.join(code['left_out'])}")
    if code.get("note"):
        parts.append(code["note"])
    return f"code of attempt {which}: {'; '.join(parts)}" if parts else ""


def _strays(attempts: Sequence[AttemptView]) -> list[str]:
    """Attempts whose worker had other modules than its driver."""
    return [
        f"attempt {a.number}: its worker had other modules of gaplab or detectors than its driver"
        for a in attempts
        if a.provenance.get("sources", _code(a).get("sources")) != _code(a).get("sources")
    ]


def _differences(attempts: Sequence[AttemptView]) -> list[str]:
    """Versions, hardware, settings and data that were not the same in all attempts that know."""
    around = [a for a in attempts if "packages" in a.provenance]
    facts = {a.id: flat({k: v for k, v in a.provenance.items() if k != "code"}) for a in around}
    keys = dict.fromkeys(key for each in facts.values() for key in each if key != "sources")
    lines = []
    for key in keys:
        values = _numbers(around, lambda a, key=key: str(facts[a.id].get(key, "-")))  # type: ignore[misc]
        if len(values) > 1:
            lines.append(f"{key}: " + ", ".join(f"{v} ({n})" for v, n in values.items()))
    return ["not the same in all attempts:", *(f"  {line}" for line in lines)] if lines else []


def _numbers(attempts: Sequence[AttemptView], key: Callable[[AttemptView], str]) -> dict[str, str]:
    """What `key` says -> the numbers of the attempts of which it says so."""
    found: dict[str, list[str]] = {}
    for each in attempts:
        found.setdefault(key(each), []).append(str(each.number))
    return {text: ", ".join(numbers) for text, numbers in found.items()}
