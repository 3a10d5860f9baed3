"""Rows of `paper_results.json`."""

import json
from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.results.papers.paper_table import PaperRow, nearest_paper, read_paper


def row(**metrics: float) -> PaperRow:
    return PaperRow(id="x", metrics=metrics)


def write(folder: Path, content: Any) -> Path:
    path = folder / "paper_results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_numbers_by_our_names() -> None:
    found = row(ap=35.8, ap_nms=37.2, aps=20.0, aps_nms=21.5, ap50=50.0, ar=59.2)
    assert (found.number("ap"), found.number("ap_nms")) == (35.8, 37.2)
    assert found.number("gap") == found.number("ap_gap") == -1.4
    assert (found.number("ap_small"), found.number("ap_small_nms")) == (20.0, 21.5)
    assert found.number("ap_small_gap") == -1.5
    assert (found.number("ap50"), found.number("ap50_nms")) == (50.0, None)
    assert found.number("ar_gap") is found.number("mmr") is found.number("ap_smal") is None
    both = {f"{base}{end}" for base in ("ap", "ap_small") for end in ("", "_nms", "_gap")}
    assert found.names() == both | {"ap50", "ar"}


def test_ap_on_crowdhuman_is_its_ap50() -> None:
    with_nms = row(ap50_nms=81.7, mmr_nms=57.6)
    assert (with_nms.number("ap"), with_nms.number("ap_nms")) == (None, 81.7)
    both = row(ap50=90.8, ap50_nms=86.3)
    assert (both.number("ap"), both.number("gap")) == (90.8, 4.5)
    assert row(ap_nms=38.6, ap50=50.0).number("ap") is None
    assert row().number("gap") is None
    assert row().names() == set()


def test_the_file_beside_a_spec_or_above_it(tmp_path: Path) -> None:
    spec = tmp_path / "experiments" / "tables" / "t1.yaml"
    spec.parent.mkdir(parents=True)
    above = write(tmp_path, {"rows": []})
    assert nearest_paper(spec) == above
    near = write(spec.parent.parent, {"rows": []})
    assert nearest_paper(spec) == near
    near.unlink()
    near.mkdir()  # a folder of that name does not count
    assert nearest_paper(spec) == above


def test_rows_are_read_by_id_and_other_keys_ignored(tmp_path: Path) -> None:
    first = {"id": "003-T1-02", "row": "Anchor", "paper": "003", "metrics": {"ap": 35.8, "fps": 7}}
    path = write(tmp_path, {"about": "x", "rows": [first, {"id": "b", "metrics": {}}]})
    found = read_paper(path)
    assert list(found) == ["003-T1-02", "b"]
    assert (found["003-T1-02"].row, found["003-T1-02"].metrics) == (
        "Anchor",
        {"ap": 35.8, "fps": 7},
    )
    assert read_paper(write(tmp_path, {"rows": []})) == {}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("{", ["is not JSON: "]),
        ('{"rows": [{"id": "a", "metrics": {"ap": NaN}}]}', ["rows[0].metrics.ap: must be finite"]),
        ([], ["must be a mapping, got []"]),
        ({}, ["rows: is required"]),
        ({"rows": {}}, ["rows: must be a list, got {}"]),
        (
            {"rows": [{"metrics": {"ap": "x"}}, {"id": 3, "metrics": {}}]},
            [
                "rows[0].id: is required",
                'rows[0].metrics.ap: must be a number, got "x"',
                "rows[1].id: must be text, got 3",
            ],
        ),
        (
            {"rows": [{"id": i, "metrics": {}} for i in ("a", "b", "a", "b", "a")]},
            ["rows: id a appears more than once", "rows: id b appears more than once"],
        ),
    ],
)
def test_problems_are_one_line_each(tmp_path: Path, content: Any, lines: list[str]) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_paper(path)
    assert len(caught.value.problems) == len(lines)
    for found, line in zip(caught.value.problems, lines, strict=True):
        assert found.startswith(f"{path}: {line}")
        assert "\n" not in found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.json: No such file"):
        read_paper(tmp_path / "no.json")
    (tmp_path / "latin.json").write_bytes(b'{"rows": "\xe9"}')
    with pytest.raises(UserError, match=r"latin\.json: is not JSON"):
        read_paper(tmp_path / "latin.json")


def test_the_collected_numbers_of_the_five_papers_can_be_read() -> None:
    path = Path(__file__).resolve().parents[4] / "experiments" / "paper_results.json"
    if not path.is_file():
        pytest.skip(f"not here ({path})")
    found = read_paper(path)
    anchor = found["003-T1-02"]
    assert (anchor.number("ap"), anchor.number("ap_nms"), anchor.number("gap")) == (
        35.8,
        37.2,
        -1.4,
    )
