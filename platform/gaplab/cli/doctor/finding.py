"""What a check found."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of `gaplab doctor`; `remedy` says what to do where `level` isn't ok."""

    level: Level
    check: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        end = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:<7} {self.check}: {self.what}{end}"
