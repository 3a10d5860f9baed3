"""Consoles for terminals of every kind, and for what is none."""

import sys
from collections.abc import Callable

import pytest

from gaplab.cli.render.terminal import FULL, can_redraw, encodable, open_console


@pytest.mark.parametrize(
    ("term", "redraws"),
    [
        ("xterm-256color", True),
        ("screen", True),
        ("dumb", False),
        ("unknown", False),
        (None, False),
    ],
)
def test_the_width_is_that_of_the_terminal_and_only_some_can_redraw_lines(
    terminal: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    term: str | None,
    redraws: bool,
) -> None:
    terminal(45)
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    console = open_console()
    assert (console.width, can_redraw(console)) == (45, redraws)


def test_what_is_no_terminal_has_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = open_console()
    assert (console.width, can_redraw(console), console.is_terminal) == (FULL, False, False)


def test_one_stream_may_be_a_terminal_without_the_other(
    terminal: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(45)
    assert open_console().width == 45
    assert open_console(stderr=True).width == FULL
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert open_console(stderr=True).width == 45


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("37.0±11.9 █", "utf-8", "37.0±11.9 █"),
        ("37.0±11.9", "latin-1", "37.0±11.9"),
        ("37.0±11.9 █ ─", "ascii", "37.0+-11.9 # -"),
        ("Größe", "ascii", r"Gr\xf6\xdfe"),
        ("自", "latin-1", r"\u81ea"),
        ("🚲", "cp437", r"\U0001f6b2"),
        ("", "ascii", ""),
    ],
)
def test_characters_that_an_encoding_lacks(text: str, encoding: str, shown: str) -> None:
    assert encodable(text, encoding) == shown
