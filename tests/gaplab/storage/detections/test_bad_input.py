"""Input that can't be measured is one line per problem: where, what and the remedy."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gaplab.errors import UserError
from gaplab.storage.detections import Detections, ReadOptions, open_detections
from tests.gaplab.storage.detections.inputs import (
    SIZE,
    Rows,
    annotations,
    boxes,
    columns,
    corners,
    results,
    save_table,
    write_json,
    write_parquet,
    write_yolo,
)

TRUTH = annotations()
COUNTS = (9, 4, 5, 6)
TOTAL = sum(COUNTS)


def rows(**changes: Any) -> Rows:
    """Build rows; `changes` are values for the second one."""
    made = results(TRUTH, COUNTS)
    made[1] |= changes
    return made


def read(path: Path, **options: Any) -> Detections:
    return open_detections(path, TRUTH, ReadOptions(**options))


def refused(path: Path, **options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert all("\n" not in each and str(path) in each for each in caught.value.problems)
    assert all(";" in each or ":" in each for each in caught.value.problems)
    return list(caught.value.problems)


TEXTS = {
    "": "an empty file",
    "  \n": "an empty file",
    "[]": "an empty list: no detection to measure",
    "[ ]\n": "an empty list: no detection to measure",
    '[{"image_id": 10, "category_id": 2, "bbox": [1, 2, 3': "cut off after 0 detections",
    "[": "cut off after 0 detections",
    '[{"image_id": 10}, oops]': "not JSON: expected value",
    '[{"image_id": 10}] {"a": 1}': "not JSON: trailing characters",
    "7": "not JSON; write a list of objects",
    '{"images": [], "annotations": [], "categories": []}': "name the file of detections first",
    '{"detections": [], "info": 1}': "an object (keys: detections, info), not a list of results",
    "{oops": "not JSON",
    "[[1, 2]]": "[0]: must be an object, got [1, 2]",
    "[{}]": "[0].image_id: is missing",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_that_is_no_list_of_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    (problem,) = refused(path)
    assert TEXTS[text] in problem


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"image_id": None}, "[1].image_id: must be an integer of 64 bits or a name, got null"),
        ({"image_id": 10.5}, "[1].image_id: must be an integer of 64 bits or a name, got 10.5"),
        ({"image_id": True}, "[1].image_id: must be an integer of 64 bits or a name, got true"),
        ({"image_id": 2**70}, "[1].image_id: must be an integer of 64 bits"),
        ({"category_id": [1]}, "[1].category_id: must be an integer of 64 bits or a name, got [1]"),
        ({"bbox": [1, 2, 3]}, "[1].bbox: must be 4 numbers, got [1, 2, 3]"),
        ({"bbox": None}, "[1].bbox: must be 4 numbers, got null"),
        ({"bbox": "1 2 3 4"}, '[1].bbox: must be 4 numbers, got "1 2 3 4"'),
        ({"bbox": [1, 2, 3, "4"]}, "[1].bbox: must be 4 numbers"),
        ({"score": "0.5"}, '[1].score: must be a number, got "0.5"'),
        ({"score": None}, "[1].score: must be a number, got null"),
    ],
)
def test_a_row_of_another_form(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    (problem,) = refused(write_json(tmp_path, rows(**changes), TRUTH))
    assert part in problem
    assert "write a list of objects with image_id, category_id, bbox and score" in problem


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_row_without_a_key(tmp_path: Path, key: str) -> None:
    made = rows()
    del made[7][key]
    (problem,) = refused(write_json(tmp_path, made, TRUTH))
    assert f"[7].{key}: " in problem


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_ids_may_be_whole_floats_or_digits(tmp_path: Path, key: str) -> None:
    usual = read(write_json(tmp_path, rows(), TRUTH))
    for spelled in (float, str):
        made = [each | {key: spelled(each[key])} for each in rows()]
        assert read(write_json(tmp_path, made, TRUTH)).digest == usual.digest


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown image": ({"image_id": 77}, f"1 of {TOTAL} detections of 1 unknown image (77)"),
    "unknown category": ({"category_id": 4}, f"1 of {TOTAL} detections of 1 unknown category"),
    "nan": ({"score": float("nan")}, "scores that are NaN or infinite: 1 (images 10)"),
    "infinity": ({"bbox": [1, 2, float("inf"), 4]}, "boxes that are NaN or infinite: 1"),
    "negative": ({"bbox": [9, 9, -3, 4]}, "boxes with a negative width or height: 1 (images 10)"),
}


@pytest.mark.parametrize("write", [write_json, write_parquet])
@pytest.mark.parametrize("case", UNUSABLE)
def test_rows_that_cannot_be_used(tmp_path: Path, case: str, write: Callable[..., Path]) -> None:
    changes, part = UNUSABLE[case]
    path = write(tmp_path, rows(**changes), TRUTH)
    (problem,) = refused(path)
    assert part in problem
    assert "--on-bad skip" in problem
    found = read(path, on_bad="skip")
    assert found.findings.rows == TOTAL - 1 == sum(map(len, found.chunks()))
    assert any(note.startswith(f"{path}: left out ") for note in found.notes)


def test_rows_that_are_written_twice(tmp_path: Path) -> None:
    path = write_json(tmp_path, rows() + rows(), TRUTH)
    (problem,) = refused(path)
    assert f"{TOTAL} of {2 * TOTAL} rows are equal to an earlier one" in problem
    found = read(path, on_bad="skip")
    assert (found.findings.rows, found.findings.repeats) == (TOTAL, 0)
    assert any("left out rows that are equal" in note for note in found.notes)
    assert found.digest == read(write_json(tmp_path, rows(), TRUTH)).digest


def test_a_few_equal_rows_are_kept(tmp_path: Path) -> None:
    found = read(write_json(tmp_path, rows() + rows()[:1], TRUTH))
    assert (found.findings.rows, found.findings.repeats) == (TOTAL + 1, 1)
    assert any(line.startswith("repeated: 1 of 25 rows") for line in found.findings.lines())


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    made = rows(image_id=77)
    made[2]["category_id"], made[3]["score"], made[4]["bbox"][2] = 4, float("nan"), -1
    assert len(refused(write_json(tmp_path, made, TRUTH))) == 4


def test_nothing_is_left(tmp_path: Path) -> None:
    made = [each | {"image_id": 77} for each in rows()]
    (problem,) = refused(write_json(tmp_path, made, TRUTH), on_bad="skip")
    assert "no detection is left to measure" in problem


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda score: 8 * score - 6, "they look like logits; apply the sigmoid"),
        (lambda score: 100 * score, "they look like percentages; divide them by 100"),
        (lambda score: 1.2 * score, "not in [0, 1]; write probabilities"),
        (lambda score: 1000 * score, "not in [0, 1]; write probabilities"),
    ],
)
def test_scores_that_are_no_probabilities(
    tmp_path: Path, change: Callable[[float], float], part: str
) -> None:
    made = [each | {"score": change(i / TOTAL)} for i, each in enumerate(rows(), start=1)]
    for on_bad in ("refuse", "skip"):
        (problem,) = refused(write_json(tmp_path, made, TRUTH), on_bad=on_bad)
        assert part in problem


def spread(form: Callable[..., list[float]]) -> Rows:
    """Build rows all over the image, in another form."""
    made, (width, height) = rows(), SIZE
    for number, each in enumerate(made):
        x, y = 0.7 * width * number / TOTAL, 0.65 * height * number / TOTAL
        each["bbox"] = form(x, y, 0.3 * width, 0.35 * height)
    return made


@pytest.mark.parametrize(
    ("form", "part"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "look like corners (x1, y1, x2, y2)"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "look like centres"),
        (
            lambda x, y, w, h: [x / SIZE[0], y / SIZE[1], w / SIZE[0], h / SIZE[1]],
            "look normalised",
        ),
    ],
)
def test_boxes_of_another_form(tmp_path: Path, form: Callable[..., list[float]], part: str) -> None:
    (problem,) = refused(write_json(tmp_path, spread(form), TRUTH))
    assert part in problem
    assert ("--boxes xyxy" in problem) == ("corners" in part)


def test_sides_where_corners_are_expected(tmp_path: Path) -> None:
    made = spread(lambda x, y, w, h: [x, y, w, h])
    sides = dict(zip(("x1", "y1", "x2", "y2"), boxes(made).T, strict=True))
    path = save_table(tmp_path / "a.parquet", columns(made) | sides)
    (problem,) = refused(path)
    assert "look like x, y, width, height, not corners" in problem
    assert "--boxes xywh" in problem
    assert read(path, boxes="xywh").findings.rows == TOTAL


def test_normalised_boxes_that_leave_their_image(tmp_path: Path) -> None:
    made = spread(lambda x, y, w, h: [(x - 8) / SIZE[0], y / SIZE[1], 1.05, h / SIZE[1]])
    (problem,) = refused(write_json(tmp_path, made, TRUTH))
    assert "look normalised: no coordinate is above 2" in problem


def test_an_image_with_several_wrong_rows_is_named_once(tmp_path: Path) -> None:
    made = rows()
    (image, *_) = [each["image_id"] for each in made]
    wrong = [each | {"score": float("nan")} for each in made if each["image_id"] == image]
    rest = [each for each in made if each["image_id"] != image]
    (problem,) = refused(write_json(tmp_path, wrong * 2 + rest, TRUTH))
    assert f"infinite: {2 * len(wrong)} (images {image}):" in problem


def test_normalised_corners(tmp_path: Path) -> None:
    table = corners(rows())
    table = {key: each / (SIZE[0] if key[0] == "x" else SIZE[1]) for key, each in table.items()}
    (problem,) = refused(save_table(tmp_path / "a.parquet", columns(rows()) | table))
    assert "look normalised" in problem


def test_sound_boxes_that_leave_their_image_are_accepted(tmp_path: Path) -> None:
    made = spread(lambda x, y, w, h: [x - 8, y - 5, w + 16, h + 10])
    assert read(write_json(tmp_path, made, TRUTH)).findings.rows == TOTAL


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("0 0.5 0.5 0.2 0.2", "x.txt: line 1 has no confidence"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.5", "x.txt: line 1 has 8 values, not 6"),
        ("0.5 0.5 0.5 0.2 0.2 0.5", "x.txt: classes that are not integers from 0"),
        ("-1 0.5 0.5 0.2 0.2 0.5", "x.txt: classes that are not integers from 0"),
        ("cat 0.5 0.5 0.2 0.2 0.5", "x.txt: could not convert string to float"),
        ("nan 0.5 0.5 0.2 0.2 0.5", "x.txt: classes that are not integers from 0"),
    ],
)
def test_label_files_of_another_form(tmp_path: Path, line: str, part: str) -> None:
    folder = write_yolo(tmp_path, rows(), TRUTH)
    (folder / "x.txt").write_text(line + "\n")
    (problem,) = refused(folder)
    assert part in problem
    assert "write class, centre x, centre y, width, height, confidence" in problem


def test_labels_in_pixels(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, rows(), TRUTH)
    (folder / "000010.txt").write_text("0 50 50 20 20 0.5\n")
    (problem,) = refused(folder)
    assert "coordinates up to 50, so they are not fractions of the image" in problem


def test_folders_without_detections(tmp_path: Path) -> None:
    assert "no label files (.txt) and no Parquet files" in refused(tmp_path)[0]
    (tmp_path / "classes.txt").write_text("cat\n")
    assert "no label files (.txt) and no Parquet files" in refused(tmp_path)[0]
    (tmp_path / "000010.txt").write_text("\n")
    assert "all label files are empty" in refused(tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"image_id": None}, "no column for the image (image_id or file_name); it has"),
        ({"category_id": None}, "no column for the category (category_id or class)"),
        ({"score": None, "x2": None}, "for the score (score); for the box (x1, y1, x2, y2"),
        ({"image_id": [*range(TOTAL - 1), None]}, "column image_id: 1 values are missing"),
        ({"image_id": [i + 0.5 for i in range(TOTAL)]}, "24 values are no ids or names"),
        ({"score": ["high"] * TOTAL}, "column score is string, not numbers"),
        ({"score": []}, "no rows: no detection to measure"),
    ],
)
def test_parquet_files_of_another_form(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    table = columns(rows()) | corners(rows())
    if change.get("score") == []:
        table = {key: pa.array([], pa.float64()) for key in table}
    else:
        table = {k: each for k, each in (table | change).items() if each is not None}
    (problem,) = refused(save_table(tmp_path / "a.parquet", table))
    assert part in problem


def test_lists_of_another_length(tmp_path: Path) -> None:
    lists = {"bbox": [[1.0, 2.0, 3.0]] * TOTAL}
    (problem,) = refused(save_table(tmp_path / "a.parquet", columns(rows()) | lists))
    assert "column bbox: must be lists of 4 numbers" in problem


def test_files_of_one_folder_with_other_columns(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    save_table(folder / "1.parquet", columns(rows()) | corners(rows()))
    sides = dict(zip("xywh", boxes(rows()).T, strict=True))
    save_table(folder / "2.parquet", columns(rows()) | sides)
    (problem,) = refused(folder)
    assert "2.parquet: has other columns than" in problem


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.parquet", b"PAR1 not", "not a Parquet file"),
        ("a.csv", b"x,y\n", "not detections; name results of COCO"),
        ("a.json", b"\xff\xfe[\x00\xff", "not text in utf-16"),
        ("a.json.gz", gzip.compress(b"[1, 2]", mtime=0)[:-9], "damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    (problem,) = refused(path)
    assert part in problem


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(rows()[:3])
    for end in range(1, len(text) - 1, 9):
        path.write_text(text[:end])
        (problem,) = refused(path)
        assert "cut off" in problem or "not JSON" in problem


def test_a_missing_file(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path / "a.json")
    assert "no such file or folder; name the detections" in problem
