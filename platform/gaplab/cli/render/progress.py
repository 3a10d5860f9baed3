"""Lines of progress on a terminal, which no script reads."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from gaplab.cli.render.terminal import encodable


@contextmanager
def progress_line(text: str) -> Iterator[Callable[[str], None]]:
    """Show a line on standard error while the context is entered, if that is a terminal.

    Args:
        text: The line at first.

    Yields:
        A function that replaces the line.
    """
    spinner = Spinner("dots", text)
    # With redirect_stdout, Rich prints standard output through its console, to standard error. That
    # is only right if both are the same terminal.
    live = Live(
        spinner, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    )
    with live:
        yield lambda line: spinner.update(text=line)


def bar_line(part: float, words: str, console: Console) -> Text:
    """Return a bar and words in one line.

    Args:
        part: the part of the bar that is full, from 0 to 1.
        words: what is written behind the bar.
        console: where the line will be printed: the bar takes a quarter of its width.
    """
    width = max(10, console.width // 4)
    full = round(part * width)
    done, rest = (encodable(text, console.encoding) for text in ("━" * full, "─" * (width - full)))
    line = Text.assemble((done, "green"), (rest, "dim"), f" {words}")
    line.truncate(console.width)
    return line
