"""Evidence and HTML for the tests of reports."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from gaplab.results.report.evidence import Evidence, Run, Setting
from gaplab.states import TrialState
from gaplab.storage.home import Home
from tests.builders import evaluation_view, trial_view

EMPTY = {"meta", "link", "br", "img", "hr"}
"""Elements of HTML without an end tag."""


def run(label: str = "poto", seed: int = 0, ap: float = 30.0, **changes: Any) -> Run:
    """Build a finished trial with one evaluation per epoch, whose gap is -1."""
    trial = trial_view(f"{label}-{seed}", assignment=label, seed=seed, **changes.pop("trial", {}))
    values = {"ap": ap, "ap_nms": ap + 1.0, "gap": -1.0, "ar": 60.0, "ar_gap": 2.0}
    metrics = values | changes.pop("metrics", {})
    evaluations = tuple(evaluation_view(trial.id, e, metrics=metrics) for e in (1, 3))
    losses = {epoch: {"o2o.cls": 1.0 / epoch} for epoch in (1, 2, 3)}
    found = {"evaluations": evaluations, "losses": losses, "cpu_seconds": 60.0, "gpu_seconds": 0.0}
    return Run(trial, **{**found, "fingerprint": "", **changes})


def setting(label: str, aps: Sequence[float] = (30.0,), cells: Sequence[str] = ()) -> Setting:
    """Build a setting with one finished trial per AP, the seeds 0, 1, ..."""
    runs = tuple(run(label, seed, ap) for seed, ap in enumerate(aps))
    return Setting(label, tuple(cells) or (label,), runs)


def unfinished(*cells: str) -> Setting:
    """Build a setting whose only trial is still running."""
    running = run("late", evaluations=(), trial={"state": TrialState.RUNNING})
    return Setting("late", cells or ("late",), (running,))


def evidence(*settings: Setting, **changes: Any) -> Evidence:
    """Build evidence of a sweep that varies the assignment, apart from `changes`."""
    found = {
        "title": "alphas",
        "sweep": None,
        "question": "",
        "protocol": "default",
        "keys": {"assignment.name": "assignment"},
        "settings": settings,
        "home": Home(Path("nowhere")),
    }
    return Evidence(**{**found, **changes})


class Tree(HTMLParser):
    """The tags, attributes and text of a page; `balanced` if every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.text, self.balanced = list[str](), list[str](), "", True
        self.attributes = list[tuple[str, str | None]]()
        self.feed(str(html))  # no Markup, which would escape what is added to it
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[str]:
        """Return the values of one attribute."""
        return [value or "" for key, value in self.attributes if key == name]
