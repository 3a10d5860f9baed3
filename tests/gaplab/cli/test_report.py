"""`gaplab report` on trained trials."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.ledger import Ledger
from gaplab.storage.home import Home
from tests.gaplab.results.report.making import Tree

Gaplab = Callable[..., str]


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of a home with a finished dual trial, and a POTO trial without candidates."""
    return Path(shutil.copytree(trained, tmp_path / "home"))


def test_a_report_of_the_newest_sweep_goes_into_the_home(gaplab: Gaplab, home: Path) -> None:
    path = Path(gaplab("report").strip())
    assert path.parent == home / "reports"
    content = path.read_text()
    found = Tree(content)
    assert found.balanced
    images = content.partition('<section id="images">')[2].partition("</section>")[0]
    assert images.count('class="missing"') == 1, "POTO stored no candidates"
    assert found.tags.count("image") >= 1
    assert "without NMS" in found.text
    assert len(content) < 2_000_000


def test_single_trials_and_another_file(gaplab: Gaplab, home: Path, tmp_path: Path) -> None:
    with Ledger.open(Home(home).ledger_url) as ledger:
        bare = next(t.id for t in ledger.all_trials() if t.assignment == "poto")
    output = tmp_path / "new folder" / "poto & co.html"
    assert gaplab("report", bare, "-o", output).strip() == str(output)
    assert "no candidates are stored" in output.read_text()
    assert not (home / "reports").exists()


def test_what_was_deleted_is_said_and_the_rest_is_shown(gaplab: Gaplab, home: Path) -> None:
    for folder in home.glob("trials/*/checkpoints"):
        shutil.rmtree(folder)
    found = Tree(Path(gaplab("report").strip()).read_text())
    assert "no undamaged checkpoint" in found.text
    assert found.tags.count("image") >= 1
    for folder in home.glob("trials/*/candidates"):
        shutil.rmtree(folder)
    found = Tree(Path(gaplab("report").strip()).read_text())
    assert "image" not in found.tags
    assert "restore it from a backup" in found.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smull"], "small"),
        (["--protocol", "date"], "gaplab reevaluate"),
        (["-o", "."], "is a folder"),
    ],
)
def test_wrong_arguments_write_nothing(
    gaplab: Gaplab, home: Path, words: list[str], message: str
) -> None:
    assert message in gaplab("report", *words, code=2)
    assert not (home / "reports").exists()
