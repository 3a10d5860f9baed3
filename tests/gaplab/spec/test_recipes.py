"""The paper profiles: they train as the released configurations do, with a detector that builds.

The numbers are written here in the units of those configurations, from which they were read.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from detectors.cost import parameter_count
from detectors.models import DETECTORS
from detectors.models.base import DetectorOptions
from detectors.training import Training
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import experiment_of
from tests.gaplab.spec.tables import FOLDER, outline_of, trials

DETR_SIDES = tuple(range(480, 801, 32))
DEFCN_SIDES = tuple(range(640, 801, 32))
ONENET_SIDES = tuple(range(640, 897, 32))
COCO, CROWDHUMAN = 118_287, 15_000


@dataclass(frozen=True)
class Recipe:
    """A released configuration of the training."""

    steps: tuple[float, ...]
    """The steps, or epochs, at which the rate drops to a tenth, and the last one."""
    lr: float
    sides: tuple[int, ...]
    """Shorter sides of the training images; none: the one of the test."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options in which it differs from `USUAL`."""
    images: int = COCO

    def check(self, training: Training) -> None:
        """Compare with the training of a row; epochs are rounded, fractions have three digits."""
        *drops, last = self.steps
        assert training.decay_at == pytest.approx([at / last for at in drops], abs=6e-4)
        expected = {"lr": self.lr, "train_sides": self.sides, **USUAL, **self.options}
        assert {key: getattr(training, key) for key in expected} == expected
        crowd = self.options.get("train_max_side") == 1400
        images = CROWDHUMAN if crowd else self.images
        whole = last if last <= 300 else last * training.batch / images
        assert training.epochs == pytest.approx(whole, rel=0.02)


QUERIES = ("detr", "deformable_detr", "sparse_rcnn")
USUAL = {
    "batch": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "backbone_lr": 1.0,
    "sampling_lr": 1.0,
    "weight_decay": 1e-4,
    "weight_decay_norm": 0.0,
    "weight_decay_bias": 1e-4,
    "warmup_steps": 1000,
    "decay": "step",
    "decay_to": 0.1,
    "clip_norm": 0.0,
    "ema": 0.0,
    "augment": "hflip",
    "side_range": False,
    "train_max_side": 1333,
    "crop": False,
}
ADAMW = {"optimizer": "adamw", "weight_decay_norm": 1e-4}
TRANSFORMER = {**ADAMW, "warmup_steps": 0, "backbone_lr": 0.1, "clip_norm": 0.1, "crop": True}
DEFORMABLE = {**TRANSFORMER, "sampling_lr": 0.1}
SPARSE = {**ADAMW, "clip_norm": 1.0, "crop": True}
STRIDE_4 = {**ADAMW, "batch": 64, "train_max_side": 853}
DATE = {**ADAMW, "backbone_lr": 0.1, "clip_norm": 0.1}
RANGE = {"side_range": True}
SWIN = {"optimizer": "adamw", "weight_decay": 0.05, "weight_decay_bias": 0.05}
CONDINST = {"weight_decay_norm": 1e-4, "weight_decay_bias": 0.0, "warmup_steps": 500}
CROWDS = {"train_max_side": 1400}
LONG, CROWDED = (210_000, 250_000, 270_000), (20_000, 25_000, 30_000)
STRIDE_4_SIDES = (416, 448, 480, 512)

RECIPES = {
    # DETR, main.py; 150 epochs as in its README
    "000-T1-01|000-T2-0[12]": Recipe((100, 150), 1e-4, DETR_SIDES, TRANSFORMER),
    # Deformable DETR, main.py, on 16 GPUs
    "000-T1-02|000-T2-0[34]|001-T6-0[12]": Recipe(
        (40, 50), 2e-4, DETR_SIDES, {**DEFORMABLE, "batch": 32}
    ),
    # Sparse R-CNN, sparsercnn.res50.300pro.3x
    "000-T1-03|000-T2-0[56]|001-T6-0[34]": Recipe(LONG, 2.5e-5, DETR_SIDES, SPARSE),
    # FCOS and RetinaNet, 1x
    "000-T1-0[48]": Recipe((60_000, 80_000, 90_000), 0.01, DEFCN_SIDES),
    # OneNet: onenet.{fcos,retinanet}.res50, onenet.res50.dcn, onenet.*.res50.crowdhuman
    "000-T1-0[59]|000-T2-(0[789]|1[345])": Recipe(
        LONG, 4e-5, ONENET_SIDES, {**SPARSE, "train_max_side": 1500}
    ),
    "000-T1-07|000-T2-1[012]": Recipe(LONG, 5e-5, STRIDE_4_SIDES, {**STRIDE_4, "crop": True}),
    "000-T3-0[3467]": Recipe(
        (37_500, 46_875), 4e-5, ONENET_SIDES, {**SPARSE, **CROWDS, "crop": False}
    ),
    # the text of 001, which does not crop; T2 to T4 vary one number each
    "001-T1-.*|001-T2-0[13]|001-T3-02|001-T4-03|001-T5-0[467]": Recipe(
        LONG, 5e-5, STRIDE_4_SIDES, STRIDE_4
    ),
    "001-T2-0[245]": Recipe(LONG, 1e-4, STRIDE_4_SIDES, STRIDE_4),
    "001-T3-01|001-T5-05": Recipe(LONG, 5e-5, STRIDE_4_SIDES, {**STRIDE_4, "train_max_side": 640}),
    "001-T4-01": Recipe((28, 33.33, 36), 5e-5, STRIDE_4_SIDES, STRIDE_4),
    "001-T4-02": Recipe((56, 66.67, 72), 5e-5, STRIDE_4_SIDES, STRIDE_4),
    "001-T4-04": Recipe((168, 200, 216), 5e-5, STRIDE_4_SIDES, STRIDE_4),
    # CenterNet with the schedule of OneNet
    "000-T1-06|001-T5-0[123]": Recipe(LONG, 5e-5, (), STRIDE_4),
    # o2f: r50_1x, r50_3x_ms, swin_1x, swin_3x, condinst_r50_1x, condinst_r50_3x, crowdhuman
    r"002-T[1-4]-.*|002-T[56]-\d[13579]|002-TEXT-4.3-01": Recipe((8, 11, 12), 0.01, ()),
    r"002-T[56]-\d[02468]|002-TEXT-4.3-02": Recipe((24, 33, 36), 0.01, (640, 800), RANGE),
    r"002-T7-\d[13579]": Recipe((8, 11, 12), 1e-4, (), SWIN),
    r"002-T7-\d[02468]": Recipe((24, 33, 36), 1e-4, (640, 800), {**SWIN, **RANGE}),
    r"002-T9-\d[13579]": Recipe((8, 11, 12), 0.01, (), CONDINST),
    r"002-T9-\d[02468]": Recipe((24, 33, 36), 0.01, (640, 800), {**CONDINST, **RANGE}),
    "002-T8-04": Recipe((40, 50), 4e-5, (480, 960), {**ADAMW, **RANGE, **CROWDS}),
    # DeFCN: 2x as in the text of 003, 1x and 3x as 004 quotes it; poto.res50.*.crowdhuman.30k
    "003-T[1-79]-.*": Recipe((120_000, 160_000, 180_000), 0.01, DEFCN_SIDES),
    "004-T2-01": Recipe((60_000, 80_000, 90_000), 0.01, DEFCN_SIDES),
    "004-T2-04": Recipe(LONG, 0.01, DEFCN_SIDES),
    "003-T8-.*|002-T8-0[123]|000-T3-0[25]": Recipe(CROWDED, 0.01, (), {}, CROWDHUMAN),
    # DATE: adamw_1x, adamw_3x with coco_det_3x, adamw_30k with crowdhuman
    "004-T(1-0[1-4]|2-0[23]|5-.*|6-01|7-.*|8-.*|9-.*|10-.*)": Recipe((8, 11, 12), 4e-4, (), DATE),
    "004-T(1-0[567]|2-0[56]|3-.*|6-02|11-.*)": Recipe(
        (24, 33, 36), 4e-4, DETR_SIDES, {**DATE, "crop": True}
    ),
    "004-T4-.*": Recipe(CROWDED, 4e-4, ONENET_SIDES, {**DATE, **CROWDS, "crop": True}),
    # the text of 004, section 4.6: 30,000 steps
    "004-TEXT-4.6-0[12]": Recipe((20_000, 27_500, 30_000), 4e-4, (), DATE),
}
"""Pattern of rows -> recipe."""
OF_QUERIES = {
    # H-DETR, r50_hybrid_branch_lambda1_group6_t1500 without dp0, mqs and lft; MS-DETR, the same
    "queries-(?!deta).*": Recipe((11, 12), 2e-4, DETR_SIDES, DEFORMABLE),
    # DETA, deta.sh
    "queries-deta": Recipe((10, 12), 2e-4, DETR_SIDES, DEFORMABLE),
}


@pytest.mark.parametrize("pattern", RECIPES)
def test_a_row_trains_as_the_released_configuration_does(pattern: str) -> None:
    rows = [row for row in trials("paper") if re.fullmatch(pattern, row)]
    assert rows
    for row in rows:
        for trial in trials("paper")[row]:
            RECIPES[pattern].check(experiment_of(trial).training)


def test_every_row_has_one_recipe() -> None:
    for row in trials("paper"):
        assert sum(bool(re.fullmatch(pattern, row)) for pattern in RECIPES) == 1, row


@pytest.mark.parametrize("pattern", OF_QUERIES)
def test_queries_train_as_the_released_configurations_do(pattern: str) -> None:
    found = outline_of(FOLDER / "queries.yaml", "paper").rows
    rows = [row for row in found if re.fullmatch(pattern, row)]
    assert rows
    for row in rows:
        OF_QUERIES[pattern].check(experiment_of(found[row][0]).training)


def test_queries_have_the_numbers_of_their_papers() -> None:
    found = outline_of(FOLDER / "queries.yaml", "paper").rows
    for row, (trial, *_) in found.items():
        if row.startswith("dense"):
            continue
        numbers = (900, 2, 0.0) if row == "queries-deta" else (300, 1, 0.1)
        detector = trial.config["detector"]
        assert numbers == (detector["queries"], detector["extra_levels"], detector["dropout"]), row
        light = row.startswith(("queries-deta", "queries-ms-detr"))
        assert trial.config["training"]["loss"]["cls_weight"] == (1 if light else 2), row


def test_detectors_with_queries_are_those_published() -> None:
    for row, (trial, *_) in trials("paper").items():
        detector = trial.config["detector"]
        published = dict(DETECTORS[detector["name"]].published)
        if detector["name"] in QUERIES:
            backbone = published.pop("backbone", {})
            assert detector.items() >= published.items(), row
            assert detector["backbone"].items() >= {"depth": 50, "bn": "frozen", **backbone}.items()


def test_every_detector_of_the_paper_profiles_can_be_built() -> None:
    """On the meta device, without weights; timm's backbones are left out."""
    specs = [FOLDER / f"{name}.yaml" for name in ("assignments", "queries", "quickstart")]
    others = [trial for path in specs for trial in outline_of(path, "paper").sweep.trials]
    found = dict[DetectorOptions, Experiment]()
    for trial in [*others, *(each[0] for each in trials("paper").values())]:
        experiment = experiment_of(trial)
        if trial.config["detector"]["backbone"]["name"] != "timm":
            found.setdefault(experiment.detector, experiment)
    for detector, experiment in found.items():
        branches = tuple(experiment.assignment.branches())
        assert parameter_count(detector, 80, branches) > 10_000_000, detector
