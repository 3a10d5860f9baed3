"""The console through which commands print."""

import os
import shutil
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from gaplab.formatting import printable

FULL = 1_000_000
"""Width of output that is not a terminal, in columns: nothing is wrapped or left out."""
_IN_ASCII = str.maketrans({"±": "+-", "█": "#", "━": "#", "─": "-"})


class PlainConsole(Console):
    """A console that prints strings as they are, without markup.

    Lines are broken between words; with `soft_wrap` by the terminal, so that a command or a path
    can be copied. Characters that a terminal interprets, or that the encoding lacks, are escaped.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a string as text that Rich can print."""
        lines = [encodable(printable(line), self.encoding) for line in text.split("\n")]
        return super().render_str("\n".join(lines), **settings)


def open_console(*, stderr: bool = False, soft_wrap: bool = False) -> PlainConsole:
    """Return a console for standard output, or for standard error.

    Only a terminal limits the width of lines and gets colors and cursor movements.
    """
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    console = PlainConsole(
        file=stream,
        stderr=stderr,
        soft_wrap=soft_wrap,
        width=None if terminal else FULL,
        force_terminal=terminal,
    )
    if console.is_dumb_terminal:  # Rich would take 80 columns for all of them
        console.size = shutil.get_terminal_size()
    return console


def can_redraw(console: Console) -> bool:
    """Return whether lines that were printed to the console can be replaced."""
    return console.is_terminal and not console.is_dumb_terminal and "TERM" in os.environ


def encodable(text: str, encoding: str) -> str:
    """Return text of characters that an encoding has; the others are replaced or escaped."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(_IN_ASCII)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text
