"""Task-aligned assignment, SimOTA, OTA and PAA assign what the released codes did.

The expected assignments are from runs of these codes on the scenes of this file, in double
precision: mmdetection 3.3.0 (`TaskAlignedAssigner` with the `topk` of all points, targets as in
TOOD's head), Ultralytics 8.4.0 (`TaskAlignedAssigner` with the IoU instead of the CIoU; for YOLOv10
without the growth of small boxes), YOLOX (`get_assignments` of commit 02aecba, without objectness),
OTA (`get_ground_truth` and `SinkhornDistance` of ota.res101) and PAA (`compute_paa` and its
matcher, with the costs of the paper and plain IoUs).

A character is a point: the letter of its object, or a dot if it is negative.
"""

import pytest
import torch
from torch import Tensor

from detectors.assigners.base import Assigner
from detectors.assigners.consistent_dual import ConsistentDual
from detectors.assigners.ota import Ota
from detectors.assigners.paa import Paa
from detectors.assigners.progressive_dual import ProgressiveDual
from detectors.assigners.simota import SimOta
from detectors.assigners.tal import Tal
from detectors.structures import Assignment, Points, Predictions, Progress, Targets
from tests.detectors.assigners.loops import points_of, targets_at

Scene = tuple[Points, Predictions, Targets]
Kind = tuple[int, int, float, float]
"""Seed, number of objects, and their shortest and longest side."""
ONE10, MANY10 = (each.assigner for each in ConsistentDual().branches().values())
ONE26, MANY26 = (each.assigner for each in ProgressiveDual().branches().values())
RULES = {
    "tal": Tal(topk=300),
    "yolov10 o2m": MANY10,
    "yolov10 o2o": ONE10,
    "yolo26 o2m": MANY26,
    "yolo26 o2o": ONE26,
    "simota": SimOta(),
    "ota": Ota(),
    "paa": Paa(),
}
CROWD, CROWD2, SMALL = (27, 14, 10.0, 40.0), (57, 14, 10.0, 40.0), (0, 8, 2.0, 7.0)
EXPECTED = {
    (CROWD, "tal"): "fffejgg..aaafffejgg..aaafff....n.aaabldd...n.iaablld.hmnni..bbl"
    "..hhnmi..ccck.hhmmm..ccck.hhmmm..fejg.afl.niablhni.ckhmm.fgalh.",
    (CROWD, "yolov10 o2m"): "f.fejgg..aaa.ffejgg..aa.fff....n.aa.bldd...n.i.ablld.h.nni..bbl"
    "..hhnmi..ccck.hhmm...ccck.hhmmm..fejg.af..ni.blhni.ckhmm.fgalh.",
    (CROWD, "yolov10 o2o"): "...............ej.................a....d........b.l............"
    "......i...ck..h..............m...f..............n.........g....",
    (CROWD, "yolo26 o2o"): "...............ej.................a....d........b.l............"
    "......i...c...h..............m...f..............n...k.....g....",
    (CROWD, "simota"): "..fejgg...aa..fejgg.......e.......a..ldd...n.i..blldd..n.i.i..b"
    "...hmmi..cckk.h.nm....cb..hhmm...ffj..af...i....ni.ckh...egal..",
    (CROWD, "ota"): "f.fejgj..aaafffejgg..a....e.......a..l.d...n..a.bll....n....b.b"
    "..hhnmi..cckk.hhmm....cb....mm...fej..af.....bbhni.c.h.m.egal..",
    (CROWD, "paa"): "f..jjggg.aaafffejg.....a..f....n..a........n..a.b.l....n.i....b"
    "....mm....b.kh...mmm..c.....mmm..f.j..ab...............m.......",
    (CROWD2, "yolov10 o2o"): "..i........................n..h.....l.c........d..............."
    "...........ke....................f...a.......j...b.......g.....",
    (CROWD2, "simota"): "fmii.....a.affin..hh.....lln......ddc.cg......bd.........b...je"
    "e..h......kke.........kk..........mn.aacgnhbbj..hb..e....g.dk..",
    (CROWD2, "ota"): "fmiimm.....affi.m.h.....clln..h...d.llcg.....bbd......h..b...j."
    "...h......kke.........kk.........fm..aacg.hb.j..hb..e....g.d...",
    (CROWD2, "paa"): "..i..m...a.af...mmh.ha....l.n....bd.c.l.l...hbb....e..h..b....."
    "...h...b.jk....h......kk.e.........gh..c..h.b...h..j....b......",
    (SMALL, "yolov10 o2m"): ".................f.......................h....................."
    "........a.................b....................................",
    (SMALL, "yolo26 o2m"): "....ff..........ffee.....dd...ee.....dd..hh...."
    "....gghh........gg..cc..a.....b.cc..a.....bb.......f....dhe....g..a..bc..df....",
    (SMALL, "yolo26 o2o"): "..........................d....e..........h...................."
    "........a.....b..c.................f...........g...............",
    (SMALL, "simota"): "d....f.e.....d...f.ee......df.......d...hhhe...a.......c.a.a..."
    "g.gc.c..a....bb..c........bb.....ddfe.........ggc..gg...a..e..a",
    (SMALL, "ota"): ".................f.........d.............h.e..................."
    "...c....a.............g...b.....................c..............",
    (SMALL, "paa"): "....fff.....d......ee........h......d....hh......d.g.......a..."
    "g....c..a....bb..c........bb...................................",
}
DEGREES = {
    (CROWD, "tal", 1e-4): "2.328188 0.772155 1.189937 0.854620 0.931392 2.072306 1.086369 "
    "2.699645 1.190413 0.823642 1.265301 1.106932 0.981720 0.970266",
    (
        CROWD,
        "yolov10 o2m",
        2e-6,
    ): "3.047006 0.923858 1.160521 0.825564 1.061503 2.656654 1.145823 "
    "3.353449 1.937866 0.992492 0.837598 1.575463 1.120170 1.355958",
    (CROWD, "yolo26 o2o", 2e-6): "0.653831 0.512330 0.736832 0.524104 0.706427 0.624516 "
    "0.712620 0.573627 0.588420 0.638507 0.648259 0.574594 0.701947 0.653168",
}
"""Sums of the degrees of each object, by scene, rule and tolerance: TOOD adds 1e-7 to the divisor
of a degree, Ultralytics 1e-9."""


def scene(seed: int, count: int, low: float, high: float) -> Scene:
    """Make objects with sides from `low` to `high`, and predictions around the nearest ones."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    center, side = draw(count, 2) * torch.tensor([96, 64]), low + (high - low) * draw(count, 2)
    boxes = torch.cat([center - side / 2, center + side / 2], 1)
    points = points_of(64, 96, (8, 16, 32))
    near = torch.cdist(points.xy.double(), center).argmin(1)
    noise = (2 * draw(len(points), 4) - 1) * side.repeat(1, 2)[near] / 3
    x0, y0, x1, y1 = (boxes[near] + noise).unbind(1)
    corners = [x0.minimum(x1), y0.minimum(y1), x0.maximum(x1), y0.maximum(y1)]
    predictions = Predictions(6 * draw(len(points), 3) - 5, torch.stack(corners, 1))
    return points, predictions, targets_at(boxes.tolist())


def assign(rule: Assigner, kind: Kind) -> Assignment:
    return rule.assign(*scene(*kind), Progress(0, 1, 0, 1))


@pytest.mark.parametrize(("kind", "rule"), EXPECTED, ids=str)
def test_points_belong_to_the_same_objects(kind: Kind, rule: str) -> None:
    found = assign(RULES[rule], kind).object.tolist()
    letters = "".join("." if each < 0 else chr(ord("a") + each) for each in found)
    assert letters == EXPECTED[kind, rule]


@pytest.mark.parametrize(("kind", "rule", "tolerance"), DEGREES, ids=str)
def test_degrees_are_the_same(kind: Kind, rule: str, tolerance: float) -> None:
    found = assign(RULES[rule], kind)
    sums = [found.degree[found.object == each].sum().item() for each in range(kind[1])]
    expected = [float(each) for each in DEGREES[kind, rule, tolerance].split()]
    assert sums == pytest.approx(expected, abs=tolerance)
