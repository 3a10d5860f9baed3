"""`gaplab models`: weights and multiply-adds of a spec's detectors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detectors.cost import model_cost
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand, experiment_of

Gaplab = Callable[..., str]
Write = Callable[..., Path]
TABLE = Path(__file__).parents[3] / "experiments" / "004" / "t9.yaml"


def test_published_weights_of_each_row(gaplab: Gaplab) -> None:
    """004 Table 9: weights in training and at inference, of a data set that is not here."""
    asked = ("models", TABLE, "--profile", "paper", "--size", "800x1280", "--json")
    lines = {line["names"][0]: line for line in json.loads(gaplab(*asked))}
    trained = {row: round(line["training"]["trainable"] / 1e6, 1) for row, line in lines.items()}
    assert trained == {"004-T9-01": 33.6, "004-T9-02": 33.8, "004-T9-03": 38.5}
    infers = {row: round(line["inference"]["trainable"] / 1e6, 1) for row, line in lines.items()}
    assert infers == {"004-T9-01": 33.6, "004-T9-02": 32.0, "004-T9-03": 32.0}


def test_equal_detectors_stand_in_one_line(gaplab: Gaplab, write_spec: Write) -> None:
    names = [{"name": name} for name in ("center", "poto", "dual")]
    spec = write_spec(grid={"assignment": names})
    alone, both = json.loads(gaplab("models", spec, "--json"))
    assert (alone["names"], both["names"]) == (["center", "poto"], ["dual"])
    dual = experiment_of(expand(load_spec(spec)).trials[2])
    data = dual.data.expected()
    for mode, branches in (("training", ("o2o", "o2m")), ("inference", ("o2o",))):
        size = (data.height, data.width)
        wanted = model_cost(dual.detector, data.classes, branches, size, training=True)
        assert both[mode]["multiply_adds"] == wanted.multiply_adds
    said = gaplab("models", spec)
    assert "center and 1 more" in said
    assert f"{data.height} x {data.width}" in said


@pytest.mark.parametrize("size", ["800", "0x800", "800x", "a x b"])
def test_a_size_that_is_none(gaplab: Gaplab, write_spec: Write, size: str) -> None:
    said = gaplab("models", write_spec(), "--size", size, code=2)
    assert said.splitlines() == [
        f"gaplab: --size {size}: not height x width in pixels; write it as 800x1280"
    ]
