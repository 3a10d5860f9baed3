"""Write a report: the table of its sections, and the page around them."""

from collections.abc import Callable
from dataclasses import dataclass

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
from gaplab.results.report.html import Part, document, join, paragraph
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


def page(evidence: Evidence, report: Callable[[str], None] = lambda title: None) -> str:
    """Return a report as one HTML page that needs no other file, no network and no script.

    Args:
        evidence: what is reported.
        report: called with the title of each section before it is made.
    """
    sections, archive = list[Part](), Archive(evidence)
    for section in SECTIONS:
        report(section.title)
        sections.append(Part(section.name, section.title, _content(section, archive)))
    return document(f"NMS gap: {evidence.title}", evidence.question, sections, _footer(evidence))


def _content(section: Section, archive: Archive) -> Markup:
    """Return the content of a section, or the sentence why it has none."""
    try:
        return section.build(archive)
    except Missing as reason:
        return paragraph(f"{reason}", "missing")
    except UserError as error:
        return join(paragraph(one_line(each), "missing") for each in error.problems)


def _footer(evidence: Evidence) -> str:
    source = f"sweep {evidence.sweep.id}" if evidence.sweep else f"{len(evidence.runs)} trials"
    return f"Made by gaplab from the ledger: {source}, protocol {evidence.protocol}."
