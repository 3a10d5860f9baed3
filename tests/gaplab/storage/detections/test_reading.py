"""Every kind of input gives the same candidates, in parts of any size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.data.annotations import Annotations
from detectors.structures import Candidates
from detectors.world import LocalWorld
from gaplab.records import Subject
from gaplab.storage.candidates import Part, write_part
from gaplab.storage.detections import (
    Detections,
    ReadOptions,
    coco_json,
    flat_parquet,
    open_detections,
)
from gaplab.storage.filesystem import Storage
from tests.examples import examples
from tests.gaplab.storage.detections.inputs import (
    WRITERS,
    Rows,
    annotations,
    boxes,
    columns,
    corners,
    results,
    save_table,
    write_json,
    write_parquet,
)

TRUTH = annotations()
COUNTS = (3, 0, 5, 1)
each_kind = pytest.mark.parametrize("kind", WRITERS)


def read(path: Path, truth: Annotations = TRUTH, **options: object) -> Detections:
    return open_detections(path, truth, ReadOptions(**options))  # type: ignore[arg-type]


def all_of(found: Detections) -> Candidates:
    return Candidates.join([*found.chunks()])


def expected(rows: Rows, truth: Annotations = TRUTH) -> list[tuple[object, ...]]:
    """Return (image, label, score, x1, y1, x2, y2), sorted by image and descending score."""
    found = []
    for row, box in zip(rows, boxes(rows), strict=True):
        image = truth.truth.image_ids.index(row["image_id"])
        label = truth.category_ids.index(row["category_id"])
        low, high = box[:2], box[:2] + box[2:]
        found.append((image, label, row["score"], *low.tolist(), *high.tolist()))
    return sorted(found, key=lambda each: (each[0], -each[2]))


def tuples(c: Candidates) -> list[tuple[object, ...]]:
    columns = (c.image.tolist(), c.labels.tolist(), c.scores.tolist(), *c.boxes.T.tolist())
    return [*zip(*columns, strict=True)]


@each_kind
def test_every_kind_of_input_gives_the_same_candidates(tmp_path: Path, kind: str) -> None:
    rows = results(TRUTH, COUNTS)
    found = read(WRITERS[kind](tmp_path, rows, TRUTH))
    held = all_of(found)
    assert [each[:3] for each in tuples(held)] == [each[:3] for each in expected(rows)]
    want = torch.tensor([each[3:] for each in expected(rows)], dtype=torch.float64)
    assert torch.allclose(held.boxes, want, rtol=0, atol=1e-9)
    assert held.boxes.dtype == held.scores.dtype == torch.float64
    assert not found.placed
    assert found.topk is None
    assert held.points.isnan().all()
    assert not held.levels.any()
    assert (found.findings.rows, found.findings.images_without) == (9, 1)


def test_digests_are_those_of_the_content(tmp_path: Path) -> None:
    rows = results(TRUTH, COUNTS)
    kinds = ("json", "gzip", "named")
    digests = {read(WRITERS[kind](tmp_path, rows, TRUTH)).digest for kind in kinds}
    other = [each for id_ in (30, 10, 40) for each in rows if each["image_id"] == id_]
    assert {read(write_json(tmp_path, other, TRUTH)).digest} == digests
    rows[0]["score"] /= 2
    assert read(write_json(tmp_path, rows, TRUTH)).digest not in digests


@examples(50)
@given(st.lists(st.integers(0, 6), min_size=4, max_size=4).filter(any), st.integers(1, 400))
def test_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], block: int
) -> None:
    rows = results(TRUTH, counts)
    for row in rows:  # what must not be taken for the end of a row
        row |= {"note": 'a "}, {" b', "segmentation": [{"a": [{}, {}]}, {"b": "}, {"}]}
    path = write_json(tmp_path_factory.mktemp("blocks"), rows, TRUTH)
    whole = all_of(read(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_json, "BLOCK", block)
        assert tuples(all_of(read(path))) == tuples(whole) == expected(rows)


@examples(50)
@given(
    st.lists(st.integers(0, 6), min_size=4, max_size=4).filter(any),
    st.integers(1, 8),
    st.integers(1, 8),
    st.booleans(),
)
def test_parts_of_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    batch: int,
    part: int,
    mixed: bool,
) -> None:
    rows = results(TRUTH, counts)
    if mixed:
        order = np.random.default_rng(0).permutation(len(rows))
        rows = [rows[i] for i in order]
    path = write_parquet(tmp_path_factory.mktemp("parts"), rows, TRUTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_parquet, "_BATCH", batch)
        patch.setattr(flat_parquet, "PART", part)
        chunks = [*read(path).chunks()]
    images = [image for chunk in chunks for image in {*chunk.image.tolist()}]
    assert len(images) == len({*images})
    assert tuples(Candidates.join(chunks)) == expected(rows)


def test_equal_scores_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [each | {"score": 0.5} for each in results(TRUTH, (40, 0, 0, 0))]
    held = all_of(read(write_json(tmp_path, rows, TRUTH)))
    assert held.boxes[:, 0].tolist() == boxes(rows)[:, 0].tolist()


def test_float32_stays_float32(tmp_path: Path) -> None:
    rows = results(TRUTH, COUNTS)
    table = {**columns(rows), **corners(rows)}
    single = {k: np.float32(v) for k, v in table.items() if k[0] in "sxy"}
    found = all_of(read(save_table(tmp_path / "a.parquet", table | single)))
    assert found.scores.dtype == found.boxes.dtype == torch.float32


def test_stored_candidates_keep_levels_and_points(tmp_path: Path) -> None:
    count = 5
    stored = Candidates(
        image=torch.tensor([0, 0, 2, 2, 2]),
        boxes=torch.tensor([[1.0, 2, 30, 40]]).repeat(count, 1),
        scores=torch.tensor([0.9, 0.5, 0.8, 0.4, 0.1]),
        labels=torch.tensor([0, 1, 2, 0, 1]),
        levels=torch.tensor([0, 1, 2, 0, 1]),
        points=torch.ones(count, 2),
        strides=torch.full((count,), 8.0),
        level_points=torch.full((count,), 64),
    )
    part = Part(Subject("abc", 9, "o2o", primary=True), TRUTH.truth, 1000, LocalWorld())
    uri = write_part(Storage(str(tmp_path)), part, stored)
    found = read(Path(uri))
    assert found.placed
    assert found.topk == 1000
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(vars(all_of(found)).values(), vars(stored).values(), strict=True)
        if theirs is not None
    )
    assert found.findings.rows == count


@pytest.mark.parametrize("form", ["xyxy", "xywh"])
def test_the_form_of_boxes_can_be_named(tmp_path: Path, form: str) -> None:
    rows = results(TRUTH, COUNTS)
    whole = all_of(read(write_json(tmp_path, rows, TRUTH)))
    if form == "xyxy":
        rows = [
            each | {"bbox": [x, y, x + w, y + h]} for each in rows for x, y, w, h in [each["bbox"]]
        ]
    found = all_of(read(write_json(tmp_path, rows, TRUTH), boxes=form))
    assert torch.equal(found.boxes, whole.boxes)


def test_results_with_a_byte_order_mark_and_spaces(tmp_path: Path) -> None:
    rows = results(TRUTH, COUNTS)
    path = tmp_path / "dump"
    path.write_bytes(b"\xef\xbb\xbf \n[\n" + json.dumps(rows, indent=2).encode()[1:] + b"\n\n")
    renamed = path.rename(tmp_path / "dump.json")
    assert tuples(all_of(read(renamed))) == expected(rows)


def test_exchanged_classes_are_noted(tmp_path: Path) -> None:
    truth = annotations(images=30, categories={1: "a", 2: "b", 3: "c"})
    rows = [
        {"image_id": id_, "category_id": 2, "bbox": [11, 9, 30, 50], "score": 0.9}
        for id_ in truth.truth.image_ids
    ]
    found = read(write_json(tmp_path, rows, truth), truth)
    assert found.findings.agreement == 0
    assert any("classes look exchanged" in line for line in found.findings.lines())
    rows = [each | {"category_id": 1} for each in rows]
    found = read(write_json(tmp_path, rows, truth), truth)
    assert found.findings.agreement == 1
    assert not any("exchanged" in line for line in found.findings.lines())
