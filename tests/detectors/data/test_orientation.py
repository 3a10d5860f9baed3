"""EXIF orientations. The references are the table of the EXIF standard, written with numpy, and
Pillow's own `exif_transpose`; in each picture a box covers a rectangle of one colour.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from detectors.data.base import DataError
from detectors.data.coco import Coco
from detectors.data.crowdhuman import CrowdHuman
from detectors.data.images import ImageError, read_size
from detectors.data.orientation import Orientation
from detectors.structures import Sample
from gaplab.identity import identity
from tests.examples import examples

Array = NDArray[np.uint8]
Boxes = list[list[int]]
TO_STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""What a camera stores of an upright picture, by orientation."""
ORIENTATIONS = sorted(TO_STORED)
TURNED = ORIENTATIONS[1:]
SIDEWAYS = [5, 6, 7, 8]
COLOURS = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
UPRIGHT_BOXES = [[0, 0, 16, 8], [16, 8, 8, 24], [40, 40, 8, 8]]
"""One per colour, multiples of 8: no block of a JPEG has two colours."""
SAVE: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
SIZES = [(64, 48), (64, 64)]


def upright(size: tuple[int, int]) -> Array:
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for colour, (x, y, w, h) in zip(COLOURS, UPRIGHT_BOXES, strict=True):
        picture[y : y + h, x : x + w] = colour
    return picture


def boxes_of(picture: Array) -> Boxes:
    """Return xywh of each colour."""
    found = []
    for colour in COLOURS:
        ys, xs = (picture == colour).all(axis=2).nonzero()
        found.append([int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)])
    return found


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save(path: Path, picture: Array, orientation: int, form: str = "JPEG") -> Array:
    """Save an upright picture as a camera does. Returns the stored pixels."""
    stored = np.ascontiguousarray(TO_STORED[orientation](picture))
    Image.fromarray(stored).save(path, form, exif=tagged(orientation), **SAVE[form])
    return stored


def coco(root: Path, boxes: Boxes, sizes: list[tuple[int, int] | None], **options: Any) -> Coco:
    """Write annotations of the pictures 0.jpg, 1.jpg, ... with the same boxes."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": size and size[0], "height": size and size[1]}
        for i, size in enumerate(sizes)
    ]
    annotations = [
        {"id": 10 * i + number, "image_id": i, "category_id": 1, "bbox": box}
        for i in range(len(sizes))
        for number, box in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "rectangle"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(json.dumps(content))
    return Coco(root=str(root), train_images=".", val_images=".", height=64, width=64, **options)


def assert_boxes_are_on_their_colours(sample: Sample) -> None:
    assert sample.scale == (1.0, 1.0)
    for colour, box in zip(COLOURS, sample.targets.boxes.tolist(), strict=True):
        x1, y1, x2, y2 = map(int, box)
        inside = sample.image[:, y1:y2, x1:x2].permute(1, 2, 0).reshape(-1, 3).int().numpy()
        assert np.abs(inside - np.array(colour)).max() <= 8, (colour, box)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_table_is_that_of_pillow(tmp_path: Path, orientation: int) -> None:
    picture = upright((64, 48))
    save(tmp_path / "a.png", picture, orientation, "PNG")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), picture)


@pytest.mark.parametrize("said", ["in the file", "of the picture"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", SAVE)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_of_the_upright_picture(
    tmp_path: Path, orientation: int, form: str, size: tuple[int, int], said: str
) -> None:
    save(tmp_path / "0.jpg", upright(size), orientation, form)
    data = coco(tmp_path, UPRIGHT_BOXES, [size if said == "in the file" else None]).load("train")
    assert (data.truth()[0].width, data.truth()[0].height) == size
    assert_boxes_are_on_their_colours(data[0])
    where = tmp_path / "train.json"
    expected = f"{where}: turned images with EXIF orientation {orientation}: 1 (0.jpg)"
    assert data.notes == ((expected,) if orientation > 1 else ())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", SAVE)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_of_the_stored_pixels(
    tmp_path: Path, orientation: int, form: str, size: tuple[int, int]
) -> None:
    stored = save(tmp_path / "0.jpg", upright(size), orientation, form)
    shape = (stored.shape[1], stored.shape[0])
    data = coco(tmp_path, boxes_of(stored), [shape], exif="ignore").load("train")
    assert_boxes_are_on_their_colours(data[0])
    expected = f"did not turn images with EXIF orientation {orientation} (exif: ignore): 1 (0.jpg)"
    assert [note.split(": ", 1)[1] for note in data.notes] == [expected][: orientation > 1]


@pytest.mark.parametrize("form", SAVE)
@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_stored_pixels_are_used_if_only_they_have_the_size(
    tmp_path: Path, orientation: int, form: str
) -> None:
    stored = save(tmp_path / "0.jpg", upright((64, 48)), orientation, form)
    data = coco(tmp_path, boxes_of(stored), [(48, 64)]).load("train")
    assert_boxes_are_on_their_colours(data[0])
    (note,) = data.notes
    assert (
        f"did not turn images with EXIF orientation {orientation}, because the annotations" in note
    )


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_one_known_side_decides(tmp_path: Path, orientation: int) -> None:
    stored = save(tmp_path / "0.jpg", upright((64, 48)), orientation)
    options = coco(tmp_path, boxes_of(stored), [(48, 64)])
    for split in ("train", "val"):
        path = tmp_path / f"{split}.json"
        content = json.loads(path.read_text())
        del content["images"][0]["height"]
        path.write_text(json.dumps(content))
    assert_boxes_are_on_their_colours(options.load("train")[0])


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_ignoring_is_not_the_remedy_for_sizes_of_the_upright_picture(
    tmp_path: Path, orientation: int
) -> None:
    save(tmp_path / "0.jpg", upright((64, 48)), orientation)
    options = coco(tmp_path, UPRIGHT_BOXES, [(64, 48)], exif="ignore")
    with pytest.raises(DataError) as caught:
        options.load("train")
    (problem,) = caught.value.problems
    assert f"is that after their EXIF orientation: 1 (0.jpg: {orientation}): set exif: " in problem


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_a_size_that_fits_neither_is_refused(tmp_path: Path, exif: str) -> None:
    save(tmp_path / "0.jpg", upright((64, 48)), 6)
    shown = {"apply": "64x48", "ignore": "48x64"}[exif]
    with pytest.raises(DataError, match=rf"annotations say: 1 \(0\.jpg: {shown}, not 60x60\)"):
        coco(tmp_path, UPRIGHT_BOXES, [(60, 60)], exif=exif).load("train")


@pytest.mark.parametrize("orientation", TURNED)
def test_orientations_may_be_refused(tmp_path: Path, orientation: int) -> None:
    for number, value in enumerate((1, orientation)):
        save(tmp_path / f"{number}.jpg", upright((64, 64)), value)
    sizes: list[tuple[int, int] | None] = [(64, 64)] * 2
    with pytest.raises(DataError) as caught:
        coco(tmp_path, UPRIGHT_BOXES, sizes, exif="refuse").load("train")
    (problem,) = caught.value.problems
    assert f"images with an EXIF orientation: 1 (1.jpg: {orientation}): set exif: " in problem
    data = coco(tmp_path, UPRIGHT_BOXES, sizes, exif="refuse", on_bad="skip").load("train")
    assert [truth.image_id for truth in data.truth()] == [0]
    assert "left out images with an EXIF orientation: 1 (1.jpg" in data.notes[0]


def test_the_notes_count_every_orientation(tmp_path: Path) -> None:
    values = [*ORIENTATIONS, *TURNED, 6]
    for number, value in enumerate(values):
        save(tmp_path / f"{number}.jpg", upright((64, 48)), value)
    data = coco(tmp_path, UPRIGHT_BOXES, [(64, 48)] * len(values)).load("train")
    where = tmp_path / "train.json"
    assert set(data.notes) == {
        f"{where}: turned images with EXIF orientation {value}: {len(names)} ({', '.join(names)})"
        for value in TURNED
        for names in [[f"{i}.jpg" for i, each in enumerate(values) if each == value]]
    }


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("orientation", TURNED)
def test_crowdhuman(tmp_path: Path, orientation: int, exif: str) -> None:
    stored = save(tmp_path / "a.jpg", upright((64, 48)), orientation)
    boxes = UPRIGHT_BOXES if exif == "apply" else boxes_of(stored)
    people = [{"tag": "person", "fbox": box} for box in boxes]
    for split in ("train", "val"):
        line = json.dumps({"ID": "a", "gtboxes": people})
        (tmp_path / f"annotation_{split}.odgt").write_text(line)
    options = {"root": str(tmp_path), "images": ".", "height": 64, "width": 64, "exif": exif}
    data = CrowdHuman.model_validate(options).load("train")
    assert_boxes_are_on_their_colours(data[0])
    assert len(data.notes) == 1


# Unusual and damaged EXIF data --------------------------------------------------------------------


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + name + content + checksum


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
LATE = [
    chunk(b"eXIf", tagged(6).tobytes()[6:]),
    chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  40\n" + tagged(6).tobytes().hex().encode()),
    chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
]


@pytest.mark.parametrize("late", LATE, ids=["eXIf", "profile", "XMP"])
def test_an_orientation_behind_the_pixels_of_a_png(tmp_path: Path, late: bytes) -> None:
    path = tmp_path / "0.jpg"
    Image.fromarray(TO_STORED[6](upright((64, 48)))).save(path, "PNG")
    end = chunk(b"IEND", b"")
    path.write_bytes(path.read_bytes().removesuffix(end) + late + end)
    for decode in (False, True):
        assert read_size(path, decode=decode) == Orientation((48, 64), 6)
    data = coco(tmp_path, UPRIGHT_BOXES, [(64, 48)], verify="header").load("train")
    assert_boxes_are_on_their_colours(data[0])


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
def test_an_orientation_in_xmp_only(tmp_path: Path, form: str) -> None:
    path = tmp_path / "0.jpg"
    how = {"tiffinfo": {700: XMP}} if form == "TIFF" else {"xmp": XMP}
    Image.fromarray(TO_STORED[6](upright((64, 48)))).save(path, form, **SAVE[form], **how)
    for decode in (False, True):
        found = read_size(path, decode=decode)
        assert (found.stored, found.value) == ((48, 64), 6)
    data = coco(tmp_path, UPRIGHT_BOXES, [(64, 48)]).load("train")
    assert_boxes_are_on_their_colours(data[0])


WHOLE = tagged(6).tobytes()
DAMAGED = {
    "no TIFF header": b"Exif\0\0garbage and more of it",
    "half an entry": WHOLE[:18],
    "far away": WHOLE[:10] + b"\xff\xff\xff\xff" + WHOLE[14:],
    "of type text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0\x36\0\0\0\0\0\0\0",
    **{f"value {value}": tagged(value).tobytes() for value in (0, 9, 65535)},
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_orientation_is_counted_as_none(tmp_path: Path, form: str, data: bytes) -> None:
    picture = upright((64, 48))
    Image.fromarray(picture).save(tmp_path / "0.jpg", form, exif=data, **SAVE[form])
    loaded = coco(tmp_path, UPRIGHT_BOXES, [(64, 48)], exif="refuse").load("train")
    assert_boxes_are_on_their_colours(loaded[0])
    assert loaded.notes == (
        f"{tmp_path / 'train.json'}: ignored EXIF orientations that can't be read: 1 (0.jpg)",
    )


@pytest.mark.parametrize("data", [b"Exif\0\0", Image.Exif().tobytes(), tagged(1).tobytes()])
def test_exif_data_without_a_turn_is_not_mentioned(tmp_path: Path, data: bytes) -> None:
    Image.fromarray(upright((64, 48))).save(tmp_path / "0.jpg", exif=data)
    assert coco(tmp_path, UPRIGHT_BOXES, [(64, 48)], exif="refuse").load("train").notes == ()


@examples(60)
@given(st.integers(6, len(WHOLE) - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_no_exif_data_stops_the_reading(
    tmp_path_factory: pytest.TempPathFactory, start: int, change: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.jpg"
    data = WHOLE[:start] + change + (b"" if cut else WHOLE[start + len(change) :])
    Image.new("RGB", (40, 32)).save(path, "JPEG", exif=data)
    header = read_size(path, decode=False)
    assert header == read_size(path, decode=True)
    assert header.stored == (40, 32)
    assert 1 <= header.value <= 8


def test_a_truncated_png_has_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000] + b"eXIf")
    assert read_size(path, decode=False) == Orientation((64, 48))
    with pytest.raises(ImageError):
        read_size(path, decode=True)


# Identity -----------------------------------------------------------------------------------------


def test_the_option_is_part_of_the_identity() -> None:
    plain, ignoring = Coco(root="a"), Coco(root="a", exif="ignore")
    assert identity(plain)["exif"] == "apply"
    assert identity(ignoring) == identity(plain) | {"exif": "ignore"}
