"""Standard output and standard error that are full, closed, or lack characters."""

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

CLOSED = 128 + signal.SIGPIPE
"""Exit code of a command whose reader closed the pipe, as in `gaplab leaderboard | head -1`."""
FAILED = 1
"""Exit code of a command whose output could not be written."""


class OutputError(Exception):
    """Standard output can't be written.

    It is no OSError, so that it is not taken for the error of a file.
    """


class _Borrowed(io.TextIOWrapper):
    """A stream over the file of another one, which it leaves open."""

    def close(self) -> None:
        """Write what is buffered."""
        if not self.buffer.closed:
            self.flush()


class StandardOutput(_Borrowed):
    """Standard output that discards everything after an error.

    Attributes:
        error: The error; None if everything could be written.
        goes_on: Whether an error is only a line on standard error, instead of an `OutputError`.
    """

    error: OSError | None = None
    goes_on = False

    def write(self, text: str) -> int:
        """Write text. Raises OutputError."""
        try:
            return super().write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered. Raises OutputError."""
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    @property
    def code(self) -> int:
        """The exit code of a command that has not failed otherwise."""
        if self.error is None:
            return 0
        return CLOSED if self.error.errno == errno.EPIPE else FAILED

    def _fail(self, error: OSError) -> None:
        self.error = error
        _discard(self)
        rest = "; the sweep goes on, see gaplab status" if self.goes_on else ""
        if rest or self.code != CLOSED:
            sys.stderr.write(f"gaplab: standard output: {error.strerror}{rest}\n")
        if not self.goes_on:
            raise OutputError from error


class StandardError(_Borrowed):
    """Standard error that discards everything after an error, which no message can report."""

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return super().write(text)
        except OSError:
            _discard(self)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            super().flush()
        except OSError:
            _discard(self)


@contextmanager
def standard_streams() -> Iterator[Callable[[], int]]:
    """Use `StandardOutput` and `StandardError` while the context is entered.

    A stream that was replaced before, as in a test, stays as it is.

    Yields:
        A function that returns the exit code of a command that has not failed otherwise.
    """
    _open_closed()
    _ignore_invalid_sizes()
    before = sys.stdout, sys.stderr
    errors = sys.stderr is sys.__stderr__ and StandardError(**_settings(sys.stderr, 2))
    output = sys.stdout is sys.__stdout__ and StandardOutput(**_settings(sys.stdout, 1))
    sys.stdout, sys.stderr = output or sys.stdout, errors or sys.stderr
    try:
        yield lambda: output.code if output else 0
    finally:
        with suppress(OutputError):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def output_may_fail() -> Iterator[None]:
    """Go on without standard output if it can't be written, while the context is entered."""
    output = sys.stdout
    if not isinstance(output, StandardOutput):
        yield
        return
    output.goes_on = True
    try:
        yield
    finally:
        output.goes_on = False


def _settings(stream: TextIO | None, number: int) -> dict[str, Any]:
    """Return the arguments for a stream that replaces one of Python's, or one that was closed."""
    if not isinstance(stream, io.TextIOWrapper):
        return {"buffer": open(number, "wb", closefd=False)}
    return {
        "buffer": stream.buffer,
        "encoding": stream.encoding,
        "errors": "backslashreplace",
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
    }


def _open_closed() -> None:
    """Open those of the three standard files that are closed, as after `>&-`.

    Otherwise the ledger would be opened under their numbers, and libraries would print into it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)


def _ignore_invalid_sizes() -> None:
    """Delete variables for the size of the terminal that are no positive number.

    Libraries print nothing, or a traceback, where COLUMNS is 0 or a superscript digit.
    """
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,5}", os.environ.get(name, "1")):
            del os.environ[name]


def _discard(stream: io.TextIOWrapper) -> None:
    """Write what is still in the buffers of a stream, and all that follows, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
