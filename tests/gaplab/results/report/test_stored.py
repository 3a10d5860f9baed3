"""Which settings a section shows: those whose candidates can be read, on the same images."""

from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.results.report.evidence import Evidence, Missing, Setting
from gaplab.results.report.stored import Archive, with_candidates
from tests.builders import evaluation_view
from tests.gaplab.results.report.making import evidence, run, setting


def stored(label: str, fingerprint: str = "") -> Setting:
    """A setting whose trial has candidates."""
    last = evaluation_view(label, candidates=label, metrics={"ap": 1.0})
    config = {"config": {"data": {"name": "shapes"}}}
    own = run(label, evaluations=(last,), fingerprint=fingerprint, trial=config)
    return Setting(label, (label,), (own,))


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Three settings: one without candidates, one whose candidates are damaged, and one more."""

    def read(found: Evidence, own: Any, truth: object) -> object:
        if own.trial.assignment == "damaged":
            raise UserError("part-0: damaged\x1b; restore it")
        return None

    monkeypatch.setattr("gaplab.results.report.stored._read", read)
    monkeypatch.setattr(Archive, "_truth", lambda self, own: None)
    settings = (setting("bare"), stored("damaged"), stored("good"), stored("other", "f"))
    return Archive(evidence(*settings))


def test_the_others_are_shown_with_a_sentence_for_each_that_is_not(archive: Archive) -> None:
    found, problems = archive.shown(9)
    assert [each.setting.label for each in found] == ["good", "other"]
    assert problems == [
        "bare: no candidates are stored.",
        "damaged: part-0: damaged\\x1b; restore it",
    ]


def test_settings_that_are_left_out_are_counted(archive: Archive) -> None:
    _, problems = archive.shown(3)
    assert problems[-1].startswith("3 of 4 settings: the first, the last and some evenly between")
    assert len(archive.shown(4)[1]) == 2


def test_pictures_are_of_one_data_set(archive: Archive) -> None:
    found, problems = archive.alike(9)
    assert [each.setting.label for each in found] == ["good"]
    assert problems[-1] == "other: has other validation images, which are not drawn."


def test_nothing_to_show_is_missing() -> None:
    with pytest.raises(Missing, match="bare: no candidates are stored"):
        Archive(evidence(setting("bare"))).shown(9)
    with pytest.raises(Missing, match="No trial has finished"):
        Archive(evidence()).shown(9)


def test_the_first_seed_with_candidates_stands_for_a_setting() -> None:
    bare, good = run("poto", 0), stored("poto").runs[0]
    assert with_candidates(Setting("poto", ("poto",), (bare, good))) is good
    assert with_candidates(Setting("poto", ("poto",), (bare,))) is None
