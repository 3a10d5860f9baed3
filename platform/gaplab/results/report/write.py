"""Write a report: the table of its sections, and the page around them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from gaplab.errors import UserError
from gaplab.formatting import one_line
from gaplab.results.report import (
    answer,
    cost,
    epochs,
    factors,
    grids,
    maps,
    photographs,
    score_gaps,
    thresholds,
)
from gaplab.results.report.evidence import Evidence, Missing
from gaplab.results.report.html import join, paragraph
from gaplab.results.report.stored import Archive


@dataclass(frozen=True)
class Section:
    """One section. `build` returns its content, or raises Missing or UserError without data."""

    name: str
    """Its anchor in the page."""
    title: str
    build: Callable[[Archive], Markup]


def _ledger(build: Callable[[Evidence], Markup]) -> Callable[[Archive], Markup]:
    """Return the function of a section that needs the ledger alone."""
    return lambda archive: build(archive.evidence)


SECTIONS = (
    Section("answer", "Answer", _ledger(answer.build)),
    Section("images", "Detections", photographs.build),
    Section("maps", "Points, scores and labels", maps.build),
    Section("epochs", "Over the epochs", _ledger(epochs.build)),
    Section("keys", "By varied key", _ledger(factors.build)),
    Section("grids", "Two keys", _ledger(grids.build)),
    Section("cost", "AP against cost", _ledger(cost.build)),
    Section("precision-recall", "Precision and recall", thresholds.precision_recall),
    Section("duplicates", "Duplicates", thresholds.duplicates),
    Section("score-gaps", "Score gaps", score_gaps.build),
    Section("trials", "Trials", _ledger(answer.trials)),
)
"""All sections, in the order of the page."""

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


def page(evidence: Evidence, report: Callable[[str], None] = lambda title: None) -> str:
    """Return a report as one HTML page that needs no other file, no network and no script.

    Args:
        evidence: what is reported.
        report: called with the title of each section before it is made.
    """
    sections, archive = [], Archive(evidence)
    for section in SECTIONS:
        report(section.title)
        sections.append(_section(section, archive))
    return _PAGE.format(
        title=f"NMS gap: {evidence.title}",
        style=Markup(files(__package__).joinpath("report.css").read_text()),
        question=paragraph(evidence.question, "question") if evidence.question else "",
        links=join(
            Markup('<li><a href="#{}">{}</a></li>').format(s.name, s.title) for s in SECTIONS
        ),
        sections=join(sections),
        footer=_footer(evidence),
    )


def _section(section: Section, archive: Archive) -> Markup:
    """Return a section, or the sentence why it has no content."""
    try:
        content = section.build(archive)
    except Missing as reason:
        content = paragraph(f"{reason}", "missing")
    except UserError as error:
        content = join(paragraph(one_line(each), "missing") for each in error.problems)
    head = Markup('<section id="{0}">\n<h2>{1}</h2>\n{2}</section>\n')
    return head.format(section.name, section.title, content)


def _footer(evidence: Evidence) -> str:
    source = f"sweep {evidence.sweep.id}" if evidence.sweep else f"{len(evidence.runs)} trials"
    return f"Made by gaplab from the ledger: {source}, protocol {evidence.protocol}."
