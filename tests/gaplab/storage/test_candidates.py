"""Dumps of candidates: round trips with any number of ranks, and every kind of damage."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.rle import Rles
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.records import Subject
from gaplab.storage import candidate_rows
from gaplab.storage.candidates import Dump, DumpInfo, Masked, Part, delete_leftovers, write_part
from gaplab.storage.filesystem import Storage
from tests.builders import empty_truth

CLASSES = ("person", "traffic light", "été")
SUBJECT = Subject("abc", 9, "o2o", primary=True)
FOLDER = "trials/abc/candidates/epoch=9/branch=o2o"


@dataclass
class FakeWorld:
    rank: int
    size: int

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def gather(self, value: Any) -> list[Any]:
        raise NotImplementedError


Writer = Callable[[Path, Candidates, GroundTruth], str]


def truth(image_ids: Sequence[int], classes: Sequence[str] = CLASSES) -> GroundTruth:
    return empty_truth(image_ids, classes)


def candidates(counts: Sequence[int], seed: int = 0, classes: int = len(CLASSES)) -> Candidates:
    """Return counts[i] candidates of image i, with arbitrary valid float32 values."""
    rng = torch.Generator().manual_seed(seed)
    total = sum(counts)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    scores = torch.rand(total, generator=rng)
    if total:
        scores[0], scores[-1] = 1.0, 0.0
    order = (image - scores.double() / 2).argsort(stable=True)
    bits = torch.randint(-(2**31), 2**31, (total, 4), generator=rng).to(torch.int32)
    boxes = bits.view(torch.float32).nan_to_num(nan=-0.0, posinf=1e-45, neginf=3e38)
    return Candidates(
        image=image,
        boxes=boxes,
        scores=scores[order],
        labels=torch.randint(0, classes, (total,), generator=rng),
        levels=torch.randint(0, 7, (total,), generator=rng),
        points=torch.rand(total, 2, generator=rng) * 800,
        strides=2.0 ** torch.randint(3, 8, (total,), generator=rng),
        level_points=torch.randint(1, 20_000, (total,), generator=rng),
    )


def write(folder: Path, found: Candidates, data: GroundTruth, size: int = 1) -> str:
    """Write all parts, the last rank first, and return the URI of the dump."""
    storage, uris = Storage(str(folder)), set()
    for rank in reversed(range(size)):
        part = Part(SUBJECT, data, 1000, FakeWorld(rank, size))
        uris.add(write_part(storage, part, found.take(found.image % size == rank)))
    (uri,) = uris
    return uri


def read(uri: str, image_ids: Sequence[int], classes: Sequence[str] = CLASSES) -> Candidates:
    chunks = list(Dump.open(uri).stream(image_ids, classes))
    assert all((chunk.image.diff() >= 0).all() for chunk in chunks)
    images = [each for chunk in chunks for each in sorted(set(chunk.image.tolist()))]
    assert len(images) == len(set(images)), "an image is in two chunks"
    return Candidates.join([Candidates.none(), *chunks])


def assert_equal(one: Candidates, other: Candidates) -> None:
    """Assert that bits, types and shapes are equal."""
    for name, column in vars(one).items():
        twin = getattr(other, name)
        if name == "masks":
            assert (column and [*column.counts]) == (twin and [*twin.counts])
            continue
        assert (column.dtype, column.shape) == (twin.dtype, twin.shape), name
        assert column.numpy().tobytes() == twin.numpy().tobytes(), name


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.usefixtures("few_rows")
def test_masks_are_read_as_they_were_written(tmp_path: Path, size: int, share: float) -> None:
    """Also if some candidates, or all of a row group, have none, and several have the same."""
    found = candidates([4, 0, 11, 3])
    rng = np.random.default_rng(0)
    held = rng.random(len(found)) < share
    held[:4] &= share == 1
    texts = rng.choice([b"01", b"0[D1", b"PPYo1oo"], len(found))
    masks = Rles.of(bytes(text) if has else b"" for text, has in zip(texts, held, strict=True))
    found, ids = replace(found, masks=masks), [5, 6, 7, 8]
    back = read(write(tmp_path, found, truth(ids), size), ids)
    assert_equal(back, found if share else replace(found, masks=None))


def test_a_dump_states_which_candidates_have_masks(tmp_path: Path) -> None:
    protocol = Protocol(evaluator="masks", score_floor=0.2, pre_nms_topk=7)
    part = Part(SUBJECT, truth([5]), 1000, FakeWorld(0, 1), Masked.of(protocol))
    uri = write_part(Storage(str(tmp_path)), part, candidates([2]))
    masked = Dump.open(uri).info.masked
    assert masked == Masked(0.2, 7, False)
    changes: list[dict[str, Any]] = [
        {"score_floor": 0.1},
        {"pre_nms_topk": 8},
        {"nms_iou": 0.1},
        {"score_floor": 0.3},
    ]
    served = [masked.serves(protocol.model_copy(update=each)) for each in changes]
    assert served == [False, False, True, True]
    capped = Masked(0.2, 7, True)
    assert [capped.serves(protocol.model_copy(update={"cap_at_points": x})) for x in (0, 1)] == [
        False,
        True,
    ]
    assert Dump.open(write(tmp_path / "plain", candidates([2]), truth([5]))).info.masked is None


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make row groups of about five rows."""
    monkeypatch.setattr(candidate_rows, "ROWS", 5)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(("most", "cut"), [(999, False), (1000, True), (1001, True)])
def test_a_dump_is_cut_if_a_level_of_an_image_is_full(
    tmp_path: Path, size: int, most: int, cut: bool
) -> None:
    found = candidates([3000, most, 0])
    level = torch.arange(3000) // 600  # 600 of each level of the first image
    levels = torch.cat([level, torch.full((most,), 4)])
    uri = write(tmp_path, replace(found, levels=levels), truth([5, 6, 7]), size)
    assert Dump.open(uri).cut is cut


def test_a_dump_without_candidates_is_not_cut(tmp_path: Path) -> None:
    assert not Dump.open(write(tmp_path, candidates([0, 0]), truth([5, 6]))).cut


@pytest.mark.usefixtures("few_rows")
class TestRoundTrip:
    @given(
        counts=st.lists(st.sampled_from([0, 0, 1, 2, 4, 11]), min_size=1, max_size=9),
        classes=st.integers(1, 3),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=25)
    def test_any_number_of_ranks_gives_the_same(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        counts: list[int],
        classes: int,
        seed: int,
    ) -> None:
        ids = np.random.default_rng(seed).permutation(1 << 20)[: len(counts)].tolist()
        data, found = truth(ids, CLASSES[:classes]), candidates(counts, seed, classes)
        for size in (1, 2, 3):
            uri = write(tmp_path_factory.mktemp("d"), found, data, size)
            assert_equal(read(uri, ids, data.classes), found)

    def test_images_and_classes_are_matched_by_id_and_name(self, tmp_path: Path) -> None:
        ids, found = [70, 10, 40], candidates([3, 0, 8])
        uri = write(tmp_path, found, truth(ids), 2)
        shuffled, classes = [40, 70, 10], (CLASSES[2], CLASSES[0], CLASSES[1])
        back = read(uri, shuffled, classes)
        assert torch.tensor(shuffled)[back.image].tolist() == [40] * 8 + [70] * 3
        moved = torch.cat([found.labels[3:], found.labels[:3]])
        assert [classes[i] for i in back.labels] == [CLASSES[i] for i in moved]
        assert back.scores.tolist() == [*found.scores[3:].tolist(), *found.scores[:3].tolist()]

    def test_other_tools_can_read_it(self, tmp_path: Path) -> None:
        ids, found = [7, 5, 6, 900], candidates([4, 0, 6, 9])
        uri = write(tmp_path, found, truth(ids), 3)
        assert uri == f"{tmp_path}/{FOLDER}"
        root = tmp_path / "trials/abc/candidates"
        table = pds.dataset(root, partitioning="hive").to_table()
        assert set(table["epoch"].to_pylist()) == {9}
        assert set(table["branch"].to_pylist()) == {"o2o"}
        types = {field.name: field.type for field in table.schema}
        assert types["class"] == pa.dictionary(pa.int32(), pa.string())
        assert types["label"] == pa.int32()
        assert (types["image_id"], types["level"]) == (pa.int64(), pa.int16())
        assert pc.count_distinct(table["image_id"]).as_py() == 3
        table = table.filter(pc.equal(table["image_id"], 6))
        mine = found.take(found.image == 2)
        assert table["score"].to_pylist() == mine.scores.tolist()
        assert table["class"].to_pylist() == [CLASSES[i] for i in mine.labels]
        assert table["label"].to_pylist() == mine.labels.tolist()
        assert table["level"].to_pylist() == mine.levels.tolist()
        for i, name in enumerate(("x1", "y1", "x2", "y2")):
            assert types[name] == pa.float32()
            assert table[name].to_numpy().tobytes() == mine.boxes[:, i].numpy().tobytes()
        assert table["point_x"].to_pylist() == mine.points[:, 0].tolist()
        assert table["point_y"].to_pylist() == mine.points[:, 1].tolist()
        assert table["stride"].to_pylist() == mine.strides.tolist()

    def test_row_groups_end_with_images(self, tmp_path: Path) -> None:
        uri = write(tmp_path, candidates([2, 2, 2, 12, 0, 1]), truth(range(6)))
        file = pq.ParquetFile(f"{uri}/part-00000-of-00001.parquet")
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert groups == [6, 12, 1]

    def test_info(self, tmp_path: Path) -> None:
        uri = write(tmp_path, Candidates.none(), truth([3, 4, 5]), 2)
        dump = Dump.open(uri)
        assert (dump.uri, dump.info) == (uri, DumpInfo("abc", 9, "o2o", CLASSES, 1000))
        assert list(dump.stream([3, 4, 5], CLASSES)) == []


class TestWriting:
    def test_images_of_another_rank_are_rejected(self, tmp_path: Path) -> None:
        part = Part(SUBJECT, truth([1, 2, 3]), 10, FakeWorld(1, 2))
        with pytest.raises(ValueError, match=r"images \[0, 2\] are not in the share of rank 1"):
            write_part(Storage(str(tmp_path)), part, candidates([1, 1, 1]))

    @pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 2, 3, 1], [2, 3, 0, 1]])
    def test_unsorted_candidates_are_rejected(self, tmp_path: Path, order: list[int]) -> None:
        part = Part(SUBJECT, truth([1, 2]), 10, FakeWorld(0, 1))
        mixed = candidates([2, 2]).take(torch.tensor(order))
        with pytest.raises(ValueError, match="not sorted"):
            write_part(Storage(str(tmp_path)), part, mixed)
        assert not list(tmp_path.rglob("*.par*"))

    def test_writing_again_replaces_the_dump(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            uri = write(tmp_path, candidates([3, 4], seed), truth([1, 2]), 2)
        assert_equal(read(uri, [1, 2]), candidates([3, 4], 2))

    @pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 2)])
    def test_leftovers_are_deleted(self, tmp_path: Path, before: int, after: int) -> None:
        data = truth(range(4))
        write(tmp_path, candidates([1, 2, 3, 4], 1), data, before)
        uri = write(tmp_path, candidates([1, 2, 3, 4], 2), data, after)
        folder = Path(uri)
        (folder / "part-00000-of-00009.parquet.0a1b2c3d.part").write_text("half")
        (folder / "notes.txt").write_text("mine")
        delete_leftovers(Storage(str(tmp_path)), uri, after)
        parts = {f"part-{rank:05d}-of-{after:05d}.parquet" for rank in range(after)}
        assert {path.name for path in folder.iterdir()} == parts | {"notes.txt"}
        assert_equal(read(uri, range(4)), candidates([1, 2, 3, 4], 2))


class TestSets:
    """Which parts belong to the dump."""

    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        """A complete set of two parts, and two of three parts that an earlier attempt left."""
        write(tmp_path, candidates([1, 2, 3], 1), truth([1, 2, 3]), 3)
        (tmp_path / FOLDER / "part-00001-of-00003.parquet").unlink()
        return write(tmp_path, candidates([1, 2, 3], 2), truth([1, 2, 3]), 2)

    def test_the_complete_set_is_read(self, uri: str) -> None:
        assert_equal(read(uri, [1, 2, 3]), candidates([1, 2, 3], 2))

    def test_no_complete_set(self, uri: str) -> None:
        (Path(uri) / "part-00000-of-00002.parquet").unlink()
        missing = "part-00000-of-00002.parquet, part-00001-of-00003.parquet; restore it"
        with pytest.raises(UserError, match=f"^{uri}: missing parts: {missing}"):
            Dump.open(uri)

    def test_two_complete_sets(self, tmp_path: Path, uri: str) -> None:
        write(tmp_path, candidates([1, 2, 3], 3), truth([1, 2, 3]), 1)
        with pytest.raises(
            UserError, match=f"^{uri}: complete sets of 1 and of 2 parts; delete all"
        ):
            Dump.open(uri)

    def test_no_parts(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"/gone: no candidates found; restore it"):
            Dump.open(f"{tmp_path}/gone")

    def test_parts_of_different_dumps(self, tmp_path: Path, uri: str) -> None:
        other = write(tmp_path / "other", Candidates.none(), truth([1, 2, 4], ["cat"]), 2)
        foreign = Path(other) / "part-00001-of-00002.parquet"
        (Path(uri) / foreign.name).write_bytes(foreign.read_bytes())
        line = f"^{uri}/{foreign.name}: doesn't belong to part-00000-of-00002.parquet; restore"
        with pytest.raises(UserError, match=line):
            Dump.open(uri)

    def test_parts_with_the_same_images(self, tmp_path: Path) -> None:
        uri = write(tmp_path, candidates([1, 1, 1, 1]), truth([1, 2, 3, 4]), 2)
        part = Part(SUBJECT, truth([9, 1, 9, 3]), 1000, FakeWorld(1, 2))
        write_part(Storage(str(tmp_path)), part, Candidates.none())
        with pytest.raises(UserError, match=r"part-00001-of-00002.parquet: doesn't belong to"):
            Dump.open(uri)

    def test_renamed_parts(self, uri: str) -> None:
        names = ["part-00000-of-00002.parquet", "part-00001-of-00002.parquet"]
        first, second = ((Path(uri) / name).read_bytes() for name in names)
        for name, raw in zip(names, (second, first), strict=True):
            (Path(uri) / name).write_bytes(raw)
        with pytest.raises(UserError) as error:
            Dump.open(uri)
        assert error.value.problems == (
            f"{uri}/{names[0]}: was written as {names[1]}; rename it back",
            f"{uri}/{names[1]}: was written as {names[0]}; rename it back",
        )


class TestCheck:
    def test_another_data_set(self, tmp_path: Path) -> None:
        dump = Dump.open(write(tmp_path, candidates([1] * 7), truth(range(10, 17)), 2))
        dump.check(range(16, 9, -1), CLASSES[::-1])
        with pytest.raises(UserError) as error:
            dump.check([10, 3], ["person", "dog"])
        assert str(error.value) == (
            f"{dump.uri}: belongs to another data set "
            "(images only in the dump: 11, 12, 13, ... (6 in all); images only in the data: 3; "
            "classes only in the dump: traffic light, été; classes only in the data: dog); "
            "other ground truth needs the same images and classes"
        )
        with pytest.raises(UserError, match="belongs to another data set"):
            next(dump.stream([10, 3], CLASSES))

    @pytest.mark.parametrize(
        ("held", "given", "line"),
        [
            ("aab", "ab", "(classes only in the dump: a)"),
            ("ab", "aab", "(classes only in the data: a)"),
            ("aab", "abb", "(classes only in the dump: a; classes only in the data: b)"),
            ("aab", "aba", "its classes named a can't be told apart; give every class its own"),
        ],
    )
    def test_other_classes_of_equal_names(
        self, tmp_path: Path, held: str, given: str, line: str
    ) -> None:
        data = truth([1], tuple(held))
        dump = Dump.open(write(tmp_path, candidates([9], classes=len(held)), data))
        with pytest.raises(UserError) as error:
            dump.check([1], tuple(given))
        assert line in str(error.value)
        assert "\n" not in str(error.value)


def aged(found: Candidates) -> Candidates:
    """Return what is read from a dump of version 1 or 2, which has no numbers of points."""
    return replace(found, level_points=torch.ones_like(found.level_points))


def write_version_1(folder: Path, found: Candidates, data: GroundTruth) -> str:
    """Write a dump as version 1 of the layout did, which had classes by name only."""
    columns = {
        "image_id": pa.array(np.array(data.image_ids)[found.image.numpy()], pa.int64()),
        "level": pa.array(found.levels.numpy(), pa.int16()),
        "class": pa.array([data.classes[i] for i in found.labels]).dictionary_encode(),
        "score": pa.array(found.scores.numpy(), pa.float32()),
        **{n: pa.array(found.boxes[:, i].numpy()) for i, n in enumerate(("x1", "y1", "x2", "y2"))},
        "point_x": pa.array(found.points[:, 0].numpy()),
        "point_y": pa.array(found.points[:, 1].numpy()),
        "stride": pa.array(found.strides.numpy()),
    }
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    own = {"trial": "abc", "epoch": 9, "branch": "o2o", "classes": data.classes, "topk": 1000}
    about = {"rank": 0, "size": 1, "images": data.image_ids, "rows": len(found)}
    document = {**own, **about, "format": "candidates", "version": 1}
    schema = pa.schema(fields, metadata={"gaplab": json.dumps(document)})
    (folder / FOLDER).mkdir(parents=True)
    table = pa.Table.from_arrays(list(columns.values()), schema=schema)
    pq.write_table(table, folder / FOLDER / "part-00000-of-00001.parquet")
    return f"{folder}/{FOLDER}"


class TestClasses:
    """Which class a candidate has: by label, or by name in files of version 1."""

    @pytest.mark.parametrize("writer", [write, write_version_1])
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
    def test_classes_in_any_order(
        self, tmp_path: Path, writer: Writer, order: tuple[int, ...]
    ) -> None:
        found, ids = candidates([4, 0, 7]), [5, 7, 6]
        uri, given = writer(tmp_path, found, truth(ids)), [CLASSES[i] for i in order]
        back = read(uri, ids, given)
        assert [given[i] for i in back.labels] == [CLASSES[i] for i in found.labels]
        if order == (0, 1, 2):
            assert_equal(back, found if writer is write else aged(found))

    def test_labels_of_equal_names_stay(self, tmp_path: Path) -> None:
        names, found = ("cell", "cell", "cell", "dog"), candidates([30, 40], classes=4)
        uri = write(tmp_path, found, truth([1, 2], names))
        assert_equal(read(uri, [1, 2], names), found)

    def test_equal_names_without_labels_are_refused(self, tmp_path: Path) -> None:
        names = ("cell", "cell", "dog")
        uri = write_version_1(tmp_path, candidates([5]), truth([1], names))
        with pytest.raises(UserError) as error:
            Dump.open(uri).check([1], names)
        assert str(error.value) == (
            f"{uri}: its classes named cell can't be told apart; give every class its own name, "
            "and train the trial again"
        )

    def test_an_old_part_among_new_ones(self, tmp_path: Path) -> None:
        """As after a restart with another version on one of the machines."""
        found, data = candidates([3, 3]), truth([1, 2])
        whole = write(tmp_path / "new", found, data, 2)
        first = found.take(found.image == 0)
        old = write_version_1(tmp_path / "old", first, data) + "/part-00000-of-00001.parquet"
        table = pq.read_table(old)
        document = json.loads(table.schema.metadata[b"gaplab"]) | {"size": 2, "images": [1]}
        part = f"{whole}/part-00000-of-00002.parquet"
        pq.write_table(table.replace_schema_metadata({"gaplab": json.dumps(document)}), part)
        back = read(whole, [1, 2])
        assert_equal(back.take(back.image == 1), found.take(found.image == 1))
        assert_equal(back.take(back.image == 0), aged(first))
        assert Dump.open(whole).clipped


@pytest.mark.parametrize(("writer", "clipped"), [(write, False), (write_version_1, True)])
def test_dumps_of_clipped_boxes_are_recognised(
    tmp_path: Path, writer: Writer, clipped: bool
) -> None:
    assert Dump.open(writer(tmp_path, candidates([4]), truth([1]))).clipped == clipped


Change = Callable[[pa.Table], pa.Table]


def put(name: str, value: Any) -> Change:
    """Return a change that puts `value` into row 7 of a column."""

    def change(table: pa.Table) -> pa.Table:
        index, values = table.schema.get_field_index(name), table[name].to_pylist()
        values[7] = value
        return table.set_column(index, table.field(name), pa.array(values, table.field(name).type))

    return change


def exchange(first: int, second: int) -> Change:
    """Return a change that exchanges two rows."""

    def change(table: pa.Table) -> pa.Table:
        order = list(range(len(table)))
        order[first], order[second] = second, first
        return table.take(order)

    return change


@pytest.mark.usefixtures("few_rows")
class TestBadRows:
    """A part with two row groups of five rows (images 10 and 20) that another tool has changed."""

    @pytest.fixture
    def part(self, tmp_path: Path) -> Path:
        uri = write(tmp_path, candidates([5, 5]), truth([10, 20]))
        return Path(uri) / "part-00000-of-00001.parquet"

    def rewrite(self, part: Path, change: Change, rows: int = 5) -> None:
        document = pq.read_metadata(part).metadata[b"gaplab"]
        table = change(pq.read_table(part).replace_schema_metadata({"gaplab": document}))
        pq.write_table(table, part, row_group_size=rows)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (put("score", float("nan")), "scores outside [0, 1]"),
            (put("score", 1.5), "scores outside [0, 1], images that are not sorted"),
            (put("score", -0.25), "scores outside [0, 1]"),
            (put("x2", float("inf")), "boxes that are not finite"),
            (put("y1", float("nan")), "boxes that are not finite"),
            (put("point_y", float("nan")), "anchor points that are not finite"),
            (put("stride", 0.0), "strides that are not positive"),
            (put("level", -1), "levels below 0"),
            (put("class", "dog"), "unknown classes"),
            (put("label", 3), "unknown classes"),
            (put("label", -1), "unknown classes"),
            (put("label", 2), "names of classes that differ from their labels"),
            (put("class", "person"), "names of classes that differ from their labels"),
            (put("image_id", 30), "images that are not in this part"),
            (exchange(6, 8), "images that are not sorted by falling score"),
        ],
    )
    def test_the_row_group_is_named(self, part: Path, change: Change, problem: str) -> None:
        self.rewrite(part, change)
        chunks = Dump.open(str(part.parent)).stream([10, 20], CLASSES)
        assert_equal(next(chunks), candidates([5, 5]).take(torch.arange(5)))
        with pytest.raises(UserError) as error:
            next(chunks)
        assert str(error.value).startswith(f"{part}: row group 1: {problem}")
        assert "\n" not in str(error.value)

    def test_an_image_in_two_row_groups(self, part: Path) -> None:
        self.rewrite(part, lambda table: table, rows=7)
        with pytest.raises(UserError, match="row group 1: continues an image of an earlier one"):
            read(str(part.parent), [10, 20])

    def test_a_damaged_page(self, part: Path) -> None:
        column = pq.read_metadata(part).row_group(1).column(3)
        raw = bytearray(part.read_bytes())
        raw[column.data_page_offset + column.total_compressed_size - 1] ^= 1
        part.write_bytes(raw)
        with pytest.raises(UserError, match=r"00001\.parquet: row group 1: damaged"):
            read(str(part.parent), [10, 20])

    def test_a_truncated_file(self, part: Path) -> None:
        whole = part.read_bytes()
        for keep in range(0, len(whole), 211):
            part.write_bytes(whole[:keep])
            with pytest.raises(UserError, match=r"00001\.parquet: damaged \("):
                Dump.open(str(part.parent))

    def test_a_file_of_another_tool(self, part: Path) -> None:
        pq.write_table(pa.table({"score": [0.5]}), part)
        with pytest.raises(
            UserError, match="a Parquet file without gaplab's metadata; give a file of candid"
        ):
            Dump.open(str(part.parent))

    def test_another_column_type(self, part: Path) -> None:
        def cast(table: pa.Table) -> pa.Table:
            index = table.schema.get_field_index("score")
            return table.set_column(index, "score", table["score"].cast(pa.float64()))

        self.rewrite(part, cast)
        with pytest.raises(
            UserError, match="column score is double with missing values, not float"
        ):
            Dump.open(str(part.parent))
