"""`gaplab predict` and `weights` on a trained trial."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detectors
import gaplab as package
from detectors.onnx_export import Difference
from detectors.rle import encode
from detectors.trained import Detections, TrainedDetector
from gaplab.ledger.views import TrialView
from gaplab.results.use import trained
from gaplab.results.use.drawing import COLOURS, LONGEST, SHORTEST, Panel, side_by_side
from gaplab.spec.sweep import experiment_of

Gaplab = Callable[..., str]


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder to write to."""
    return Path(shutil.copytree(trained, tmp_path / "home"))


@pytest.fixture
def dual(home: Path) -> TrialView:
    with package.open_home(home).reader() as reader:
        return next(each for each in reader.all_trials() if each.assignment == "dual")


@pytest.fixture
def pictures(dual: TrialView, tmp_path: Path) -> Path:
    """A folder with the validation images as files, and their annotations in COCO's format."""
    data, folder = experiment_of(dual).data.load("val"), tmp_path / "pictures"
    folder.mkdir()
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for index, truth in enumerate(data.truth()):
        name, pixels = f"{index}.png", data[index].image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / name)
        size = {"width": truth.width, "height": truth.height}
        images.append({"id": 10 + index, "file_name": name, **size})
        for (x1, y1, x2, y2), label in zip(
            truth.boxes.tolist(), truth.labels.tolist(), strict=True
        ):
            key = {"id": len(annotations) + 1, "image_id": 10 + index, "category_id": 7 - label}
            annotations.append({**key, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    named = [{"id": 7 - label, "name": name} for label, name in enumerate(data.classes)]
    document = {"images": images, "annotations": annotations, "categories": named[::-1]}
    (folder / "truth.json").write_text(json.dumps(document))
    return folder


class TestPredict:
    def test_measuring_its_json_gives_the_metrics_of_the_trial(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path, home: Path, tmp_path: Path
    ) -> None:
        """With as many boxes as the trial's protocol has before NMS: 300 of each of 3 levels."""
        every = ["--threshold", 0, "--protocol", "{max_dets: 900}", "-o", tmp_path / "a.json"]
        gaplab("predict", dual.id, pictures, *every)
        options = ["--protocol", "{pre_nms_topk: 900}", "--resamples", 0, "--json"]
        truth = pictures / "truth.json"
        measured = json.loads(gaplab("measure", tmp_path / "a.json", truth, *options))
        with package.open_home(home).reader() as reader:
            own = next(e for e in reader.evaluations(dual.id) if e.epoch == 2 and e.primary)
        for name in ("ap", "ap_nms", "gap"):
            assert measured["metrics"][name] == pytest.approx(own.metrics[name], abs=1e-3)

    @pytest.mark.parametrize("nms", [False, True])
    def test_json_has_the_boxes_of_the_detector(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path, home: Path, nms: bool
    ) -> None:
        path = pictures / "1.png"
        detector = package.open_home(home).trial(dual.id).detector()
        every = detector.detections(path, nms=nms, branch="o2m")
        found = every.above(level := float(every.scores[9]))
        words = ["--json", "--threshold", level, "--branch", "o2m", *["--nms"] * nms]
        rows = json.loads(gaplab("predict", dual.id[:5], path, *words))
        assert rows == found.coco(str(path))
        assert len(rows) == 10

    def test_a_table_counts_the_boxes(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path, tmp_path: Path
    ) -> None:
        output = gaplab("predict", dual.id, pictures, pictures / "0.png", "--threshold", 0)
        lines = [line.split() for line in output.splitlines() if ".png" in line]
        assert [Path(path).name for path, *_ in lines] == [f"{i}.png" for i in range(5)]
        assert all(int(without) >= int(with_nms) > 0 for _, without, with_nms in lines)
        nothing = gaplab("predict", dual.id, pictures / "0.png", "--threshold", 1)
        assert nothing.split()[-2:] == ["0", "0"]

    def test_drawings_do_not_touch_the_pictures(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path
    ) -> None:
        before = {path: path.read_bytes() for path in pictures.iterdir()}
        gaplab("predict", dual.id, pictures, "--draw", pictures, "--threshold", 0)
        gaplab("predict", dual.id, pictures, "--draw", pictures, "--threshold", 0)
        assert all(path.read_bytes() == content for path, content in before.items())
        drawn = sorted(set(pictures.iterdir()) - set(before))
        assert [path.name for path in drawn] == [f"{i}.detections.png" for i in range(5)]
        with Image.open(drawn[0]) as picture:
            assert picture.width >= 2 * SHORTEST

    @pytest.mark.parametrize("made", [True, False])
    def test_one_picture_is_drawn_to_a_file(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path, tmp_path: Path, made: bool
    ) -> None:
        target = tmp_path / "x.png"
        expected = target
        if made:  # a folder with the name of a picture stays one
            target.mkdir()
            expected = target / "0.detections.png"
        output = gaplab("predict", dual.id, pictures / "0.png", "--draw", target)
        assert output.splitlines()[-1] == str(expected)
        with Image.open(expected) as picture:
            assert (picture.format, picture.width >= 2 * SHORTEST) == ("PNG", True)

    def test_all_bad_input_is_named_and_nothing_written(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path, tmp_path: Path
    ) -> None:
        (pictures / "cut.jpg").write_bytes(b"\xff\xd8\xff")
        (tmp_path / "empty").mkdir()
        bad = ["none.jpg", tmp_path / "empty", pictures / "truth.json", "\x1b[31m.png"]
        targets = ["-o", tmp_path / "a.json", "--draw", tmp_path / "drawn"]
        lines = gaplab("predict", dual.id, pictures, *bad, *targets, code=2).splitlines()
        parts = [
            "no pictures in this",
            "cut.jpg: ",
            "none.jpg: ",
            "truth.json: ",
            r"\x1b[31m.png: ",
        ]
        assert len(lines) == len(parts)
        assert all(any(part in line for line in lines) for part in parts), lines
        assert not (tmp_path / "a.json").exists()
        assert not (tmp_path / "drawn").exists()

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["nothing", "0.png"], "trial 'nothing': not in the ledger"),
            (["DUAL", "0.png", "--branch", "o2f"], "--branch 'o2f': the detector has o2o, o2m"),
            (["DUAL", "0.png", "--epoch", "9"], "no undamaged checkpoint of epoch 9"),
            (["DUAL", "0.png", "--protocol", "{nms_iou: 3}"], "nms_iou"),
            (["DUAL", "0.png", "--draw", "truth.json"], "is a file, but no picture; give a .png"),
            (
                ["DUAL", "0.png", "1.png", "--draw", "d.PNG"],
                "d.PNG: is one file, but there are 2 pictures; give a folder, such as --draw d",
            ),
            (["DUAL", "copy", "--draw", "d.png"], "is one file, but there are 5 pictures"),
            (["DUAL", "0.png", "--draw", "d.jpg"], "a drawing is a PNG; give a name that ends in"),
            (["DUAL", "0.png", "--draw", "missing/d.png"], "d.png: no folder missing; create it"),
            (["DUAL", "0.png", "--draw", "copy/../0.png"], "--draw copy/../0.png: would replace a"),
            (["DUAL", "0.png", "-o", "0.png"], "-o 0.png: would replace a picture that is read"),
            (["DUAL", "0.png", "-o", "missing/a.json"], "a.json: no folder missing; create it"),
            (["DUAL", "0.png", "-o", "copy"], "-o copy: is a folder; give the name of a file"),
            (["DUAL", "0.png", "copy/0.png", "--draw", "d"], "would be drawn to the same file"),
        ],
    )
    def test_wrong_input_is_one_line(
        self,
        gaplab: Gaplab,
        dual: TrialView,
        pictures: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        line: str,
    ) -> None:
        monkeypatch.chdir(pictures)
        shutil.copytree(pictures, pictures / "copy")
        words = [dual.id if word == "DUAL" else word for word in words]
        output = gaplab("predict", *words, code=2)
        assert line in output
        assert not {"d", "d.png", "d.PNG", "d.jpg"} & {path.name for path in pictures.iterdir()}
        assert (pictures / "0.png").read_bytes() == (pictures / "copy" / "0.png").read_bytes()


class TestDrawing:
    RED = (213, 94, 0)

    @staticmethod
    def found(count: int, names: tuple[str, ...] = ("cell",)) -> Detections:
        boxes = torch.tensor([[10.0 + i, 20.0, 50.0 + i, 60.0] for i in range(count)])
        labels = torch.arange(count) % len(names)
        scores = torch.linspace(0.9, 0.4, count)
        return Detections(boxes.reshape(-1, 4), scores, labels, names, (100, 80))

    @pytest.mark.parametrize(
        ("size", "scaled"),
        [((100, 80), 6.4), ((1000, 20), 1.0), ((4000, 3000), 0.32), ((1, 1), 640.0)],
    )
    def test_pictures_of_any_size(self, size: tuple[int, int], scaled: float) -> None:
        picture = Image.new("RGB", size, "white")
        drawn = side_by_side(picture, [Panel("a", self.found(3)), Panel("b", self.found(0))])
        width, height = (max(1, round(side * scaled)) for side in size)
        assert max(width, height) in range(SHORTEST, LONGEST + 1)
        assert drawn.width >= 2 * width
        assert drawn.height > height

    def test_a_box_has_the_colour_of_its_class_where_it_is(self) -> None:
        picture = Image.new("RGB", (640, 480), "white")
        names = tuple("abcdef")
        found = Detections(
            torch.tensor([[100.0, 100, 300, 200]]),
            torch.ones(1),
            torch.tensor([5]),
            names,
            (640, 480),
        )
        pixels = np.asarray(side_by_side(picture, [Panel("p", found)]))
        bar = pixels.shape[0] - 480
        assert tuple(pixels[bar + 150, 100]) == self.RED
        assert tuple(pixels[bar + 200, 250]) == self.RED
        assert tuple(pixels[bar + 150, 200]) == (255, 255, 255)

    def test_a_mask_tints_its_pixels_in_the_colour_of_its_class(self) -> None:
        """Of two masks, that of the better detection is on top; the picture is enlarged twice."""
        masks = torch.zeros(2, 240, 320, dtype=torch.bool)
        masks[0, 100:200, :100] = masks[1, 100:, :] = True
        boxes, scores = torch.tensor([[0.0, 0, 9, 9]]).repeat(2, 1), torch.tensor([0.9, 0.8])
        about = (scores, torch.tensor([5, 0]), tuple("abcdef"), (320, 240), encode(masks))
        white = Image.new("RGB", (320, 240), "white")
        pixels = np.asarray(side_by_side(white, [Panel("p", Detections(boxes, *about))]))
        bar = pixels.shape[0] - 480
        for at, colour in (
            ((300, 100), self.RED),
            ((460, 100), COLOURS[0]),
            ((300, 600), COLOURS[0]),
        ):
            expected = [0.55 * 255 + 0.45 * channel for channel in colour]
            assert pixels[bar + at[0], at[1]].tolist() == pytest.approx(expected, abs=1)
        assert tuple(pixels[bar + 150, 300]) == (255, 255, 255)

    @pytest.mark.parametrize("size", [(640, 4), (4, 640)])
    def test_labels_in_narrow_pictures_are_whole(self, size: tuple[int, int]) -> None:
        found = Detections(
            torch.tensor([[0.0, 0, *size]]), torch.ones(1), torch.tensor([5]), tuple("abcdef"), size
        )
        pixels = np.asarray(side_by_side(Image.new("RGB", size, "white"), [Panel("p", found)]))
        coloured = (pixels == self.RED).all(axis=2)
        assert coloured.any(axis=1).sum() >= 14
        assert coloured.any(axis=0).sum() >= 30

    def test_equal_boxes_of_many_objects_do_not_hide_labels(self) -> None:
        """Also with hostile and empty names, and boxes that leave the picture."""
        names = ("'; DROP TABLE", "<b>", "\x1b[31m", "", "x" * 500, "猫\n")
        found = self.found(200, names)
        away = Detections(found.boxes - 30, *(found.scores, found.labels, names, (100, 80)))
        drawn = side_by_side(
            Image.new("RGB", (100, 80)), [Panel("p", found), Panel("\n", away)], "c"
        )
        assert drawn.width > 2 * SHORTEST


class TestWeights:
    def test_the_file_is_the_detector(
        self, gaplab: Gaplab, dual: TrialView, pictures: Path, home: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "dual.safetensors"
        output = gaplab("weights", dual.id, "-o", path)
        assert f"dual, trial {dual.id}, epoch 2, " in output
        own, loaded = (
            package.open_home(home).trial(dual.id).detector(),
            detectors.load_detector(path),
        )
        assert loaded.config == own.config
        for picture in pictures.glob("*.png"):
            first, second = own.detections(picture), loaded.detections(picture)
            assert torch.equal(first.boxes, second.boxes)
            assert torch.equal(first.scores, second.scores)
        command = (pictures, "--json", "--threshold", 0)
        assert gaplab("predict", path, *command) == gaplab("predict", dual.id, *command)

    def test_a_released_checkpoint_is_converted(
        self,
        gaplab: Gaplab,
        dual: TrialView,
        home: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The conversion itself is tested in tests/detectors/published."""
        own = package.open_home(home).trial(dual.id).detector()
        source: dict[str, str | int] = {"published": "detr", "file": "detr.pth"}
        released = TrainedDetector(own.network, own.config.model_copy(update={"source": source}))
        monkeypatch.setattr(trained, "load_published", lambda name: released)
        monkeypatch.chdir(tmp_path)
        Path("detr.pth").touch()
        output = gaplab("weights", "detr.pth", "-o", "own.safetensors")
        assert output.startswith("own.safetensors: detr of detr.pth, ")
        assert detectors.load_detector("own.safetensors").config.source == source

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["no.pth", "-o", "a.safetensors"], "no.pth: no such file; name a file of weights"),
            (
                ["truth.json", "-o", "a.safetensors"],
                "truth.json: can't be read (no file of plain tensors); correct `FILE`",
            ),
            (["truth.json", "--epoch", "1", "-o", "a.safetensors"], "--epoch 1: a file of weights"),
            (["DUAL", "-o", "a.pt"], "the name must end in .safetensors"),
            (
                ["DUAL", "-o", "none/a.safetensors"],
                "no folder none; create it, or correct the path",
            ),
            (["DUAL", "--epoch", "5", "-o", "a.safetensors"], "no undamaged checkpoint of epoch 5"),
            (["nothing", "-o", "a.safetensors"], "trial 'nothing': not in the ledger"),
        ],
    )
    def test_wrong_input_is_one_line(
        self,
        gaplab: Gaplab,
        dual: TrialView,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        line: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("truth.json").write_text("{}")
        words = [dual.id if word == "DUAL" else word for word in words]
        assert line in gaplab("weights", *words, code=2)
        assert not Path("a.safetensors").exists()
        assert not list(tmp_path.glob("a.*"))


class TestOnnx:
    @pytest.mark.parametrize(
        ("apart", "code"), [((2e-5, 1e-6), 0), ((1.0, 1e-6), 1), ((2e-5, torch.inf), 1)]
    )
    def test_the_file_is_checked(
        self,
        gaplab: Gaplab,
        dual: TrialView,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        apart: tuple[float, float],
        code: int,
    ) -> None:
        """`tests/detectors/test_onnx_export.py` has the export and the comparison themselves."""
        calls = list[dict[str, Any]]()

        def measured(path: Path, detector: Any, pictures: list[Any], **options: Any) -> Difference:
            assert (path.read_text(), pictures[0].shape[2]) == ("graph", 3)
            return Difference(*apart)

        def exported(detector: Any, path: Path, **options: Any) -> None:
            calls.append(options)
            path.write_text("graph")

        monkeypatch.setattr("detectors.onnx_export.export", exported)
        monkeypatch.setattr("detectors.onnx_export.difference", measured)
        output = gaplab("onnx", dual.id, "-o", tmp_path / "dual.onnx", "--branch", "o2m", code=code)
        assert [(each["nms"], each["branch"]) for each in calls] == [(False, "o2m")]
        if not code:
            assert f"dual, trial {dual.id}, epoch 2, without NMS, input [batch, 3, 64, " in output
            assert "scores 1e-06, boxes 2e-05 pixels" in output

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["DUAL", "--nms", "--protocol", "centernet"], "ONNX has no operator for suppression"),
            (["DUAL", "--branch", "o2f"], "branch 'o2f': the detector has o2o, o2m"),
            (["nothing"], "trial 'nothing': not in the ledger"),
            (["DUAL", "--epoch", "5"], "no undamaged checkpoint of epoch 5"),
        ],
    )
    def test_wrong_input_is_one_line(
        self, gaplab: Gaplab, dual: TrialView, tmp_path: Path, words: list[str], line: str
    ) -> None:
        words = [dual.id if word == "DUAL" else word for word in words]
        assert line in gaplab("onnx", *words, "-o", tmp_path / "a.onnx", code=2)
        assert not (tmp_path / "a.onnx").exists()

    def test_the_folder_is_checked_before_the_export(self, gaplab: Gaplab, dual: TrialView) -> None:
        assert "no folder none; create it" in gaplab("onnx", dual.id, "-o", "none/a", code=2)
