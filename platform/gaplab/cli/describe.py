"""`gaplab options`: what a spec may contain, with types, ranges, defaults and meanings."""

import inspect
import json as jsonlib
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gaplab.cli.options import JsonOption
from gaplab.cli.render.terminal import open_console

if TYPE_CHECKING:
    from detectors.options import Options
    from gaplab.spec.describe import Option

WIDTH = 100
"""Longest line, in columns; shorter on a narrow terminal."""
INDENT = " " * 6
"""Start of the lines that continue an entry."""


def options(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]",
            help="A section, an entry or an option: training.loss, assignment, poto, lr.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List what a spec may contain: detectors, assignments and options.

    Without a key, there is one line per section. A section whose `name` selects one of several
    entries, such as assignment, has one line per entry. Any other key has a paragraph per option:
    its type and range, its default and its meaning. Options with a star are no part of a trial's
    id.
    """
    from gaplab.spec.describe import TABLES, find

    if json:
        sys.stdout.write(jsonlib.dumps(_plain(key), indent=2) + "\n")
        return
    console = open_console()
    width = min(WIDTH, console.width)
    if key is None:
        lines = _overview(width)
    elif key in TABLES:
        lines = _entries(key, width)
    else:
        lines = (line for each in find(key) for line in _described(*each, width))
    for line in lines:
        console.print(line, soft_wrap=True)


def _plain(key: str | None) -> list[dict[str, object]]:
    """Return the options below a key, or all, as JSON."""
    from gaplab.spec.describe import TABLES, everything, find, options_of

    if key is None or key in TABLES:
        start = f"{key}." if key else ""
        below = [each for each in everything() if each[0].startswith(start)]
        found = [(name, model, options_of(model)) for name, model in below]
    else:
        found = find(key)
    return [
        {
            "key": name,
            "option": each.name,
            "values": _text(each.values),
            "default": _text(each.default),
            "meaning": each.meaning,
            "identity": each.counted,
        }
        for name, _, wanted in found
        for each in wanted
    ]


def _overview(width: int) -> Iterator[str]:
    from gaplab.spec.describe import SECTIONS, TABLES

    for key, table in TABLES.items():
        yield from _wrapped(f"{key}: ", ", ".join(table), width)
    yield ""
    for key, model in SECTIONS.items():
        yield from _wrapped(f"{key}: ", _summary(model), width)
    yield ""
    yield "gaplab options KEY describes one of them, or an entry: gaplab options poto"


def _entries(key: str, width: int) -> Iterator[str]:
    from gaplab.spec.describe import TABLES

    for name, model in TABLES[key].items():
        yield from _wrapped(f"{name}: ", _summary(model), width)
    yield ""
    yield f"gaplab options {key}.NAME describes the options of one"


def _described(
    name: str, model: "type[Options]", found: "list[Option]", width: int
) -> Iterator[str]:
    """Yield the description of a class and of options; of a single option, without the class."""
    from gaplab.spec.describe import description_of, options_of

    yield name
    if len(found) == len(options_of(model)):
        for text in description_of(model).split("\n\n"):
            yield from (*_paragraph(text, width), "")
    for each in found:
        yield from _option(each, width)
    yield from () if found else ("  no options",)
    yield ""


def _paragraph(text: str, width: int) -> list[str]:
    """Return a paragraph with an indent; a list keeps its lines."""
    if "\n- " in f"\n{text}":
        return [f"  {line}" for line in text.split("\n")]
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")


def _option(option: "Option", width: int) -> Iterator[str]:
    star = "" if option.counted else " *"
    default = _text(option.default)
    end = default if default == "required" else f"default {default}"
    yield from _wrapped(f"  {option.name}{star}: ", f"{_text(option.values)}; {end}", width)
    yield from _wrapped(INDENT, option.meaning, width)


def _summary(model: "type[Options]") -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n")[0]


def _wrapped(start: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=INDENT)


def _text(marked: str) -> str:
    return marked.replace("`", "")
