"""The attempts of a trial: a table, and lines about their code, ends and differences."""

import json as jsonlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.formatting import duration, flat, plural
from gaplab.ledger.views import AttemptView

LAST_ATTEMPTS = 10
"""Of more attempts at a trial, only the last ones are printed."""


def print_attempts(attempts: Sequence[AttemptView], console: Console) -> None:
    """Print the last attempts: where and with which code they ran, their cost, and their end.

    Below the table are the differences between the attempts.
    """
    last = attempts[-LAST_ATTEMPTS:]
    console.print(_attempts(last))
    lines = [line for attempt in last for line in _endings(attempt)]
    lines += [*_codes(last), *_changed_modules(last), *_differences(last)]
    if hidden := len(attempts) - len(last):
        lines.append(f"{plural(hidden, 'earlier attempt')}: see --json")
    for line in lines:
        console.print(line, soft_wrap=True)


def _attempts(attempts: Sequence[AttemptView]) -> PlainTable:
    """Return the table of attempts; with a column of GPU time if any was used."""
    gpu = any(a.gpu_seconds for a in attempts)
    columns = [
        number("attempt"),
        text("state", wrap=False, rank=0),
        replace(text("code", wrap=False), marks=(" ",)),
        *(text(heading, rank=2) for heading in ("node", "device")),
        *(number(heading) for heading in ("wall", "CPU", *(["GPU"] if gpu else []), "memory")),
    ]
    return plain_table(columns, (_attempt(each, gpu) for each in attempts))


def _attempt(a: AttemptView, gpu: bool) -> list[str]:
    """Return the cells of one attempt."""
    seconds = (a.wall_seconds, a.cpu_seconds, *([a.gpu_seconds] if gpu else []))
    return [
        *(str(a.number), a.state, _commit(a), a.node, a.device),
        *("-" if each is None else duration(each) for each in seconds),
        "-" if a.peak_memory_mib is None else f"{a.peak_memory_mib:.0f} MiB",
    ]


def _endings(attempt: AttemptView) -> list[str]:
    """Return the notes of an attempt, and why it ended."""
    fault = f" ({attempt.fault})" if attempt.fault else ""
    ending = f"attempt {attempt.number} {attempt.state}{fault}: {attempt.reason}"
    notes = [f"attempt {attempt.number}: {note}" for note in attempt.notes]
    return notes + ([ending] if attempt.reason else [])


def code_of(attempt: AttemptView) -> dict[str, Any]:
    """Return the code of its driver, see `trial.provenance`; empty if it is unknown."""
    code: dict[str, Any] = attempt.provenance.get("code", {})
    return code


def _commit(attempt: AttemptView) -> str:
    """Return `1a2b3c4d` or `1a2b3c4d dirty`; without a commit `=` and a digest of the modules."""
    code = code_of(attempt)
    if code.get("commit"):
        state = {True: " dirty", False: "", None: " ?"}[code["dirty"]]
        return f"{code['commit'][:8]}{state}"
    return f"={code['sources'][:8]}" if code else "-"


def _codes(attempts: Sequence[AttemptView]) -> list[str]:
    """Return a line per code that is not exactly a commit, and a line if the codes differ."""
    found = _group(attempts, lambda a: jsonlib.dumps(code_of(a)))
    lines = [_changes(jsonlib.loads(code), numbers) for code, numbers in found.items()]
    if len(found) > 1:
        codes = ", ".join(f"{name} ({n})" for name, n in _group(attempts, _version).items())
        modules = _group(attempts, lambda a: str(a.provenance.get("sources")))
        same = "; the modules of gaplab and detectors were the same" if len(modules) == 1 else ""
        lines.append(f"attempts ran with different code: {codes}{same}")
    return [line for line in lines if line]


def _version(attempt: AttemptView) -> str:
    return f"{_commit(attempt)} {code_of(attempt).get('digest', '')}".strip()


def _changes(code: dict[str, Any], numbers: str) -> str:
    """Return a line about the changes on top of a commit; empty if there are none."""
    parts = []
    if code.get("uri"):
        parts.append(f"changes {code['digest']} on top of {code['commit'][:8]}: {code['uri']}")
    if code.get("left_out"):
        parts.append(f"changed but not kept: {', '.join(code['left_out'])}")
    if code.get("note"):
        parts.append(code["note"])
    return f"code of attempt {numbers}: {'; '.join(parts)}" if parts else ""


def _changed_modules(attempts: Sequence[AttemptView]) -> list[str]:
    """Return a line per attempt whose worker imported other modules than its driver."""
    return [
        f"attempt {a.number}: its worker had other modules of gaplab or detectors than its driver"
        for a in attempts
        if a.provenance.get("sources", code_of(a).get("sources")) != code_of(a).get("sources")
    ]


def _differences(attempts: Sequence[AttemptView]) -> list[str]:
    """Return the versions, hardware, settings and data that differ between attempts.

    Attempts that ended before they reported any are not compared.
    """
    reported = [a for a in attempts if "packages" in a.provenance]
    facts = [
        {k: v for k, v in a.provenance.items() if k not in ("code", "sources")} for a in reported
    ]
    lines = _unequal(attempts, [a.config for a in attempts]) + _unequal(reported, facts)
    return ["not the same in all attempts:", *(f"  {line}" for line in lines)] if lines else []


def _unequal(attempts: Sequence[AttemptView], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line per key of `facts`, one for each attempt, whose values are not all the same."""
    known = {a.id: flat(each) for a, each in zip(attempts, facts, strict=True)}
    lines = []
    for key in dict.fromkeys(key for each in known.values() for key in each):
        values = _group(attempts, lambda a, key=key: _text(known[a.id].get(key, "-")))  # type: ignore[misc]
        if len(values) > 1:
            lines.append(f"{key}: " + ", ".join(f"{v} ({n})" for v, n in values.items()))
    return lines


def _text(value: Any) -> str:
    """Return text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else jsonlib.dumps(value)


def _group(attempts: Sequence[AttemptView], key: Callable[[AttemptView], str]) -> dict[str, str]:
    """Return the numbers of the attempts for each value of `key`."""
    found: dict[str, list[str]] = {}
    for each in attempts:
        found.setdefault(key(each), []).append(str(each.number))
    return {value: ", ".join(numbers) for value, numbers in found.items()}
