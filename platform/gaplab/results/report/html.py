"""HTML of a report: text is escaped wherever it is put into a `Markup`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup

_PAGE = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="gaplab">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{question}<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{sections}</main>
<footer>{footer}</footer>
</body>
</html>
""")


class Part(NamedTuple):
    """One section of a page."""

    name: str
    """Its anchor in the page."""
    title: str
    content: Markup


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are aligned at the right."""

    name: str
    is_number: bool = True


def text(name: str) -> Column:
    """Return a column of text."""
    return Column(name, is_number=False)


def join(parts: Iterable[str | Markup]) -> Markup:
    """Join parts; those that are not `Markup` are escaped."""
    return Markup("").join(parts)


def paragraph(content: str | Markup, kind: str = "") -> Markup:
    """Return a paragraph of a class of the style sheet."""
    return Markup('<p class="{}">{}</p>\n').format(kind, content)


def missing(sentences: Iterable[str]) -> Markup:
    """Return a paragraph for each thing that a section lacks."""
    return join(paragraph(sentence, "missing") for sentence in sentences)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Markup]]) -> Markup:
    """Return a table in a box of its own, which scrolls if the page is narrower."""
    head = join(_cell("th", column, column.name) for column in columns)
    body = join(
        Markup("<tr>{}</tr>\n").format(
            join(_cell("td", *pair) for pair in zip(columns, row, strict=True))
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0"><table>\n<thead><tr>{}</tr></thead>\n'
        "<tbody>\n{}</tbody></table></div>\n"
    ).format(head, body)


def _cell(tag: str, column: Column, content: str | Markup) -> Markup:
    kind = Markup(' class="number"') if column.is_number else ""
    return Markup("<{0}{1}>{2}</{0}>").format(tag, kind, content)


def captioned(content: Markup, caption: str) -> Markup:
    """Return a figure with a caption above it. A figure inside of `content` loses its own tag."""
    inner = Markup(content.removeprefix("<figure>").rstrip().removesuffix("</figure>"))
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>\n").format(caption, inner)


def panels(figures: Iterable[Markup], kind: str = "panels") -> Markup:
    """Return figures side by side, as many as fit the width of the page."""
    return Markup('<div class="{}">\n{}</div>\n').format(kind, join(figures))


def legend(entries: Iterable[tuple[Markup, str]]) -> Markup:
    """Return a line that explains marks: pairs of a small picture and its meaning."""
    items = join(Markup("<li>{} {}</li>").format(*entry) for entry in entries)
    return Markup('<ul class="legend">{}</ul>\n').format(items)


def document(title: str, question: str, sections: Sequence[Part], footer: str) -> str:
    """Return a page that needs no other file, no network and no script.

    Args:
        title: heading of the page.
        question: what stands below it, or nothing.
        sections: the sections, in their order.
        footer: the last line.
    """
    section = Markup('<section id="{0}">\n<h2>{1}</h2>\n{2}</section>\n')
    link = Markup('<li><a href="#{}">{}</a></li>')
    return _PAGE.format(
        title=title,
        style=Markup(files(__package__).joinpath("report.css").read_text()),
        question=paragraph(question, "question") if question else "",
        links=join(link.format(each.name, each.title) for each in sections),
        sections=join(section.format(*each) for each in sections),
        footer=footer,
    )
