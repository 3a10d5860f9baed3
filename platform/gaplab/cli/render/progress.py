"""A line of progress on a terminal, which no script reads."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner


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
