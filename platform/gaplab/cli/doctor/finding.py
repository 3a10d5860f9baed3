"""The result of one check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of `gaplab doctor`; `remedy` says what to do unless `level` is ok."""

    level: Literal["ok", "warn", "problem"]
    check: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        end = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:<7} {self.check}: {self.what}{end}"


def ok(check: str, what: str) -> Finding:
    """Return a finding about something that is as it should be."""
    return Finding("ok", check, what)


def warn(check: str, what: str, remedy: str) -> Finding:
    """Return a finding about something that may cause trouble."""
    return Finding("warn", check, what, remedy)


def problem(check: str, what: str, remedy: str) -> Finding:
    """Return a finding about something that has to be changed."""
    return Finding("problem", check, what, remedy)
