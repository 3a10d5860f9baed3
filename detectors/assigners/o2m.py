"""The table of one-to-many assigners."""

from detectors.assigners.atss import Atss
from detectors.assigners.base import Assigner
from detectors.assigners.centernet import CenterNet
from detectors.assigners.deta import Deta
from detectors.assigners.fcos import Fcos
from detectors.assigners.min_cost_many import MinCostMany
from detectors.assigners.ms_detr import MsDetr
from detectors.assigners.ota import Ota
from detectors.assigners.paa import Paa
from detectors.assigners.quality_atss import QualityAtss
from detectors.assigners.quality_fcos import QualityFcos
from detectors.assigners.quality_topk import QualityTopk
from detectors.assigners.retinanet import RetinaNetIou
from detectors.assigners.simota import SimOta
from detectors.assigners.tal import Tal

O2M: dict[str, type[Assigner]] = {
    "fcos": Fcos,
    "atss": Atss,
    "retinanet": RetinaNetIou,
    "centernet": CenterNet,
    "quality_fcos": QualityFcos,
    "quality_atss": QualityAtss,
    "quality_topk": QualityTopk,
    "tal": Tal,
    "simota": SimOta,
    "paa": Paa,
    "ota": Ota,
    "min_cost_many": MinCostMany,
    "ms_detr": MsDetr,
    "deta": Deta,
}
"""Name in a spec -> options. A new assignment needs a file, a line here and a row in the tests."""
