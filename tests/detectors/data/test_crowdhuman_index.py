"""Files of CrowdHuman whose lines are validated as a whole: the same as one box after the other."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import SchemaValidator, core_schema

from detectors.data import crowdhuman_index, index_file
from detectors.data.crowdhuman_index import Index, entries, read_index
from detectors.data.index_file import stored_people
from tests.detectors.data.test_crowdhuman import person

NAN, INF = float("nan"), float("inf")
CHANGES: list[dict[str, Any]] = [
    {"fbox": [1, 2, 0, 5]},
    {"fbox": [1, NAN, 3, 5]},
    {"fbox": [1, 2, INF, 5]},
    {"fbox": [1, 2, 3]},
    {"fbox": [1, "2", 3, 4]},
    {"fbox": [1, 2, 3, 2**60]},
    {"fbox": [1, 2, 3, 10**30]},
    {"fbox": [1, 2, 3, True]},
    {"fbox": [200, 2, 3, 4]},
    {"fbox": [-0.0, -5, 3.25, 90]},
    {"fbox": None},
    {"tag": "mask"},
    {"tag": 5},
    {"extra": None},
    {"extra": {}},
    {"extra": {"ignore": "1"}},
    {"extra": {"ignore": 1.0}},
    {"extra": {"ignore": 2**70}},
    {"extra": {"ignore": 1, "more": [[], {}]}},
]
"""Keys that a box has instead of sound ones."""
LINES = [b"", b"[]", b"{", b"\xff", b'{"ID": ""}', b'{"ID": 5, "gtboxes": []}', b"null", b"[" * 900]


def random_odgt(seed: int, bad: float) -> bytes:
    """Draw a file, of whose boxes and lines a part is not valid."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(int(rng.integers(1, 8))):
        boxes = []
        for _ in range(int(rng.integers(0, 6))):
            x, y, w, h = rng.uniform(-9, 40, 4).round(2).tolist()
            box = person([x, y, abs(w) + 1, abs(h) + 1], ignore=int(rng.random() < 0.2))
            if rng.random() < bad:
                box |= CHANGES[int(rng.integers(len(CHANGES)))]
            boxes.append(box)
        name = f"{number if rng.random() < 0.9 else 0},ä"
        lines.append(json.dumps({"ID": name, "gtboxes": boxes}).encode())
        if rng.random() < bad:
            lines.append(LINES[int(rng.integers(len(LINES)))])
    return b"\n".join(lines)


def shown(index: Index) -> Any:
    """Return all that an index holds, and what becomes of it with the sizes of some images."""
    sizes = dict.fromkeys([*index.people.names][::2], (48, 40))
    whole = [index.people, *(entries(index, sizes, mask_is_person=m)[0] for m in (False, True))]
    columns = [{k: [*v] if k in ("names", "places") else v.tolist() for k, v in vars(e).items()}
               for e in whole]  # fmt: skip
    found = [index.problems, entries(index, sizes, mask_is_person=True)[1]]
    return repr((columns, [(p.refusals(""), p.fatal) for p in found], index.content))


def read(content: bytes, one_by_one: bool = False) -> Any:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (path := Path(folder) / "train.odgt").write_bytes(content)
        if one_by_one:
            nothing = SchemaValidator(core_schema.literal_schema(["no line"]))
            patch.setattr(crowdhuman_index, "_PLAIN", nothing)
        return shown(read_index(path))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.5]))
def test_lines_are_read_as_single_boxes_are(seed: int, bad: float) -> None:
    content = random_odgt(seed, bad)
    assert read(content) == read(content, one_by_one=True)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_change_of_a_box(change: dict[str, Any]) -> None:
    boxes = [person([1, 2, 30, 30]), person([3, 4, 5, 6]) | change, person([9, 9, 9, 9])]
    content = json.dumps({"ID": "a", "gtboxes": boxes}).encode()
    assert read(content) == read(content, one_by_one=True)


def test_a_file_that_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_file, "LEAST_BYTES", 0)
    paths = [tmp_path / f"{seed}.odgt" for seed in range(12)]
    for seed, path in enumerate(paths):
        path.write_bytes(random_odgt(seed, 0.3))
    expected = [shown(read_index(path)) for path in paths]
    assert [shown(stored_people(path)) for path in paths] == expected
    monkeypatch.delattr(crowdhuman_index, "_lines")
    assert [shown(stored_people(path)) for path in paths] == expected
    paths[0].write_bytes(random_odgt(20, 0.0))
    with pytest.raises(NameError):
        stored_people(paths[0])
