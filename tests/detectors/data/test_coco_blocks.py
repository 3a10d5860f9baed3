"""COCO files that are read in blocks and columns: the same as one object after the other."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.data import coco_index, json_blocks
from detectors.data.base import DataError
from detectors.data.coco_columns import parts_of
from detectors.data.coco_index import Index, read_index, with_sizes
from tests.detectors.data.random_coco import CHANGES, random_coco, written
from tests.detectors.data.small_coco import document


def shown(index: Index) -> Any:
    """Return all that an index holds."""
    entries = [(e.file_name, e.places, *map(str, vars(e.truth).values())) for e in index.entries]
    columns = [index.entries.boxes.tolist(), index.entries.areas.tolist()]
    problems = (index.problems.refusals(""), index.problems.notes(""), index.problems.fatal)
    kept = (index.categories, index.notes, index.lost, index.rules, index.content)
    return entries, columns, problems, kept, [*map(str, unsized(index))]


def unsized(index: Index) -> Iterator[Any]:
    """Yield the images without a size and their annotations."""
    for id_, (image, annotations) in index.unsized.items():
        yield id_, image
        for found in annotations:
            plain = found.annotation.model_copy(update={"segmentation": None})
            yield found._replace(annotation=plain)


def read(content: bytes, block: int = json_blocks.BLOCK, whole: bool = False) -> Any:
    """Read a file, in blocks or as a whole, where each annotation is an object."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (path := Path(folder) / "train.json").write_bytes(content)
        patch.setattr(json_blocks, "BLOCK", block)
        if whole:
            patch.setattr(coco_index, "divided", lambda text, key: [])
        try:
            index = read_index(path)
        except DataError as error:
            return [problem.replace(folder, "") for problem in error.problems]
    sized = with_sizes(index, dict.fromkeys(index.entries.names[::2], (64, 48)))
    return str((shown(index), shown(sized))).replace(folder, "")


def is_divided(content: bytes) -> bool:
    """Return whether a file is read in blocks."""
    for place in json_blocks.divided(content, "annotations"):
        with suppress(ValueError):
            parts_of(place)
            return True
    return False


@given(
    seed=st.integers(0, 2**32 - 1),
    bad=st.sampled_from([0.0, 0.03, 0.4]),
    unsized=st.sampled_from([0.0, 0.3]),
    block=st.sampled_from([1, 300, 3000, 2**21]),
)
def test_blocks_are_read_as_single_objects_are(
    seed: int, bad: float, unsized: float, block: int
) -> None:
    content = written(random_coco(seed, bad, unsized), seed)
    assert is_divided(content)
    assert read(content, block) == read(content, whole=True)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_change_of_an_annotation(change: dict[str, Any]) -> None:
    document = random_coco(3, 0.0)
    document["annotations"][4].update(change)
    content = written(document, 0)
    assert read(content, 500) == read(content, whole=True)


def with_key(text: str) -> bytes:
    """Write the small file with more text at the start of the object."""
    return b"{" + text.encode() + json.dumps(document())[1:].encode()


@pytest.mark.parametrize(
    "content",
    [
        with_key('"annotations": [{"id": 1}], '),
        with_key('"info": {"annotations": [{"id": 1}, {"id": 2}]}, '),
        with_key('"annotations": [], '),
        with_key('"x\\"annotations": [{"id": 1}], '),
        with_key('"x": "\\"annotations\\": [", '),
        json.dumps(document())[:-1].encode() + b', "annotations": []}',
        json.dumps(document())[:-1].encode() + b', "\\u0061nnotations": []}',
        json.dumps(document() | {"annotations": []}).encode(),
        json.dumps(document() | {"annotations": [1, [], None]}).encode(),
        json.dumps(document() | {"annotations": {}}).encode(),
        json.dumps([document()]).encode(),
        json.dumps(document()).encode()[:-1],
        json.dumps(document()).encode() + b"}",
        json.dumps(document()).replace("}, {", "}\x0b, {").encode(),
        json.dumps(document()).replace("}, {", "},, {").encode(),
        json.dumps(document())
        .replace('"bbox"', '"note": "\udc80", "bbox"')
        .encode("utf-8", "surrogatepass"),
        json.dumps(document()).replace("}, {", "} \t\r\n , \n\n {").encode(),
    ],
)
@pytest.mark.parametrize("block", [50, 2**21])
def test_other_places_of_annotations(content: bytes, block: int) -> None:
    assert read(content, block) == read(content, whole=True)


def test_a_repeated_group_is_found_in_blocks() -> None:
    content = document()
    content["categories"] += [{"id": 1, "name": "cat", "supercategory": "cat"}]
    for used in (2, 1, 1.0, True):
        content["annotations"][0]["category_id"] = used
        text = json.dumps(content).encode()
        assert read(text, 50) == read(text, whole=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_photographs_are_read_in_blocks(bccd: Path, split: str) -> None:
    content = (bccd / f"{split}.json").read_bytes()
    assert is_divided(content)
    assert read(content, 5000) == read(content, whole=True)
