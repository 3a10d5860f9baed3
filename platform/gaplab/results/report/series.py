"""How settings look in all figures of a report, and the legend that explains it."""

from collections.abc import Sequence

from markupsafe import Markup

from gaplab.formatting import plural
from gaplab.results.report.evidence import Evidence, Setting
from gaplab.results.report.figure import OTHER, Look, looks, sample
from gaplab.results.report.html import legend


def looks_of(evidence: Evidence) -> dict[str, Look]:
    """Return the look of each setting by its label; grey for those that are not shown apart."""
    shown = looks([setting.label for setting in evidence.shown()])
    return {setting.label: shown.get(setting.label, OTHER) for setting in evidence.settings}


def legend_of(evidence: Evidence, settings: Sequence[Setting]) -> Markup:
    """Return the legend of some settings; grey ones share an entry."""
    found = looks_of(evidence)
    own = [setting.label for setting in settings if found[setting.label] is not OTHER]
    entries = [(sample(found[label]), label) for label in own]
    if others := len(settings) - len(own):
        entries.append((sample(OTHER), plural(others, "other setting")))
    return legend(entries)


def behind(settings: Sequence[Setting], styles: dict[str, Look]) -> list[Setting]:
    """Return the settings in the order of drawing: grey ones first, the best one on top."""
    grey = [setting for setting in settings if styles[setting.label] is OTHER]
    own = [setting for setting in settings if styles[setting.label] is not OTHER]
    return [*grey, *own[::-1]]
