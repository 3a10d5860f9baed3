"""Files of matches: round trips, and every kind of damage."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.evaluation.matches import Matches
from detectors.evaluation.truth import GroundTruth
from gaplab.errors import UserError
from gaplab.storage.filesystem import Storage
from gaplab.storage.matches import MatchesInfo, read_matches, write_matches
from tests.builders import empty_truth, evaluation_record

EVALUATION = evaluation_record("abc", 9, protocol="custom-01234567", classes=())
CLASSES = ("cat", "été")


def truth(images: int, first: int = 100) -> GroundTruth:
    return empty_truth(range(first, first + images), CLASSES)


def matches(
    rng: np.random.Generator, images: int, detections: int, objects: int, thresholds: int
) -> Matches:
    hit = rng.random((thresholds, detections)) < 0.4
    return Matches(
        images=images,
        classes=2,
        image=rng.integers(0, images, detections),
        label=rng.integers(0, 2, detections),
        score=rng.random(detections),
        hit=hit,
        ignored=~hit & (rng.random((thresholds, detections)) < 0.2),
        object_image=rng.integers(0, images, objects),
        object_label=rng.integers(0, 2, objects),
    )


def pair(
    images: int = 3, detections: tuple[int, int] = (9, 6), objects: int = 4, thresholds: int = 10
) -> tuple[Matches, Matches]:
    rng = np.random.default_rng(0)
    one, other = (matches(rng, images, d, objects, thresholds) for d in detections)
    own = {"object_image": one.object_image, "object_label": one.object_label}
    return one, replace(other, **own)  # type: ignore[arg-type]


def assert_equal(one: Matches, other: Matches) -> None:
    for name, value in vars(one).items():
        twin = getattr(other, name)
        if isinstance(value, int):
            assert value == twin
        else:
            assert (value.dtype, value.shape) == (twin.dtype, twin.shape), name
            assert value.tobytes() == twin.tobytes(), name


@given(
    st.integers(1, 5),
    st.tuples(*[st.integers(0, 20)] * 2),
    st.integers(0, 6),
    st.sampled_from([1, 10, 16]),
)
@settings(max_examples=30)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    images: int,
    detections: tuple[int, int],
    objects: int,
    thresholds: int,
) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("m")))
    without, with_ = pair(images, detections, objects, thresholds)
    uri = write_matches(storage, EVALUATION, truth(images), without, with_)
    about, *back = read_matches(uri)
    assert_equal(back[0], without)
    assert_equal(back[1], with_)
    assert (about.count, about.thresholds, about.classes) == (images, thresholds, CLASSES)


def test_path_and_info(tmp_path: Path) -> None:
    uri = write_matches(Storage(str(tmp_path)), EVALUATION, truth(3), *pair())
    assert uri == f"{tmp_path}/trials/abc/matches/epoch=9/branch=o2o/custom-01234567.parquet"
    about = read_matches(uri)[0]
    assert about == MatchesInfo(
        "abc", 9, "o2o", "custom-01234567", CLASSES, about.images, 3, 10, truth(3).digest()[:16]
    )


def test_files_of_other_truth_are_apart(tmp_path: Path) -> None:
    """Also their names: both are kept."""
    other = replace(EVALUATION, truth="0123456789ab")
    uris = [
        write_matches(Storage(str(tmp_path)), each, truth(3), *pair())
        for each in (EVALUATION, other)
    ]
    assert uris[1].endswith("/custom-01234567-truth-0123456789ab.parquet")
    assert [read_matches(uri)[0].protocol for uri in uris] == ["custom-01234567"] * 2


def test_a_file_without_a_digest_of_its_truth(tmp_path: Path) -> None:
    """As older versions wrote them."""
    uri = write_matches(Storage(str(tmp_path)), EVALUATION, truth(3), *pair())
    table = pq.read_table(uri)
    document = json.loads(pq.read_metadata(uri).metadata[b"gaplab"])
    del document["truth"]
    pq.write_table(table.replace_schema_metadata({"gaplab": json.dumps(document)}), uri)
    about, *back = read_matches(uri)
    assert about.truth == ""
    assert_equal(back[0], pair()[0])


def test_the_digest_depends_on_ids_and_order_of_images(tmp_path: Path) -> None:
    def digest(truth: GroundTruth) -> str:
        uri = write_matches(Storage(str(tmp_path)), EVALUATION, truth, *pair())
        return read_matches(uri)[0].images

    forth, back = truth(3), replace(truth(3), image_ids=(102, 101, 100))
    assert digest(forth) == digest(truth(3))
    assert len({digest(forth), digest(back), digest(truth(3, first=99))}) == 3


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    without, with_ = pair()
    uri = write_matches(Storage(str(tmp_path)), EVALUATION, truth(3), without, with_)
    rows = pq.read_table(uri).to_pylist()
    assert [row["set"] for row in rows] == ["without"] * 9 + ["with"] * 6 + ["objects"] * 4
    for t in range(10):
        assert [row["hit"] >> t & 1 for row in rows[9:15]] == with_.hit[t].tolist()
        assert [row["ignored"] >> t & 1 for row in rows[:9]] == without.ignored[t].tolist()
    assert [row["score"] for row in rows] == [*without.score, *with_.score, *[None] * 4]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": 4}, "don't fit"),
        ({"classes": 3}, "don't fit"),
        ({"hit": np.zeros((9, 6), dtype=bool)}, "don't fit"),
        ({"object_label": np.array([1, 1, 1, 1])}, "different objects"),
        ({"object_image": np.array([1])}, "different objects"),
    ],
)
def test_matches_that_do_not_belong_together_are_rejected(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    without, with_ = pair()
    with pytest.raises(ValueError, match=problem):
        write_matches(
            Storage(str(tmp_path)), EVALUATION, truth(3), without, replace(with_, **change)
        )
    assert list(tmp_path.iterdir()) == []


def test_too_many_thresholds_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="17 IoU thresholds"):
        write_matches(Storage(str(tmp_path)), EVALUATION, truth(3), *pair(thresholds=17))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("set", "neither", "rows of an unknown set"),
        ("image", 3, "images out of range"),
        ("image", -1, "images out of range"),
        ("label", 2, "labels out of range"),
        ("score", None, "scores that are not finite"),
        ("score", float("inf"), "scores that are not finite"),
    ],
)
def test_invalid_rows(tmp_path: Path, name: str, value: Any, problem: str) -> None:
    uri = write_matches(Storage(str(tmp_path)), EVALUATION, truth(3), *pair())
    document = pq.read_metadata(uri).metadata[b"gaplab"]
    table = pq.read_table(uri)
    index, values = table.schema.get_field_index(name), table[name].to_pylist()
    values[2] = value
    field = table.field(name)
    table = table.set_column(index, field, pa.array(values, field.type))
    pq.write_table(table.replace_schema_metadata({"gaplab": document}), uri)
    with pytest.raises(UserError, match=f"^{uri}: {problem}; restore it"):
        read_matches(uri)


def test_a_truncated_or_missing_file(tmp_path: Path) -> None:
    uri = write_matches(Storage(str(tmp_path)), EVALUATION, truth(3), *pair())
    whole = Path(uri).read_bytes()
    for keep in range(0, len(whole), 97):
        Path(uri).write_bytes(whole[:keep])
        with pytest.raises(UserError, match=f"^{uri}: damaged"):
            read_matches(uri)
    Path(uri).unlink()
    with pytest.raises(UserError, match=f"^{uri}: no such file; restore it"):
        read_matches(uri)
