"""`gaplab run` and `plan` on data that can't be used: one line each, before anything starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gaplab.spec.specs import coco

Gaplab = Callable[..., str]
Write = Callable[..., Path]
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_sweep(*_: object) -> None:
        raise AssertionError("the sweep was started")

    monkeypatch.setattr("gaplab.launch.driver.run_sweep", run_sweep)


def first(key: str, value: Any) -> Change:
    """Change the only annotation of a file."""
    return lambda content: content["annotations"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "settings", "lines"),
    [
        (lambda content: content["annotations"].clear(), {}, ["no object", "no object"]),
        (first("iscrowd", 1), {}, ["no object", "no object"]),
        (first("area", 1e11), {}, ["the areas of all objects"]),
        (first("bbox", [0.1, 0.1, 0.5, 0.5]), {}, ["look normalised"] * 2),
        (first("id", 1), {"training": {"batch": 2}}, ["training.batch: 2 is more than the 1"]),
        (
            first("id", 1),
            {"training": {"batch": 2}, "resources": {"workers": 2}},
            ["training.batch: 2 is more", *["resources.workers: 2 is more"] * 2],
        ),
    ],
)
def test_unusable_data_is_refused_before_the_start(
    gaplab: Gaplab,
    write_spec: Write,
    tmp_path: Path,
    change: Change,
    settings: dict[str, Any],
    lines: list[str],
) -> None:
    data = coco(tmp_path / "data")
    for split in ("train", "val"):
        path = tmp_path / "data" / f"{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    spec = write_spec(data=data, **{"training": {"batch": 1}, **settings})
    shown = gaplab("run", spec, code=2).splitlines()
    refusals = [line.removeprefix("gaplab: ") for line in shown if line.startswith("gaplab: ")]
    assert len(refusals) == len(lines)
    for refusal, line in zip(refusals, lines, strict=True):
        assert line in refusal
    foreseen = json.loads(gaplab("plan", spec, "--json"))["notes"]
    assert sorted(foreseen) == sorted(f"gaplab run will refuse: {line}" for line in refusals)
