"""The first spec of a data set: an input of the pictures' aspect ratio, a name, a valid spec."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners import ASSIGNERS
from detectors.data.sizes import fitted_size
from gaplab.spec.files import load_spec
from gaplab.spec.starter import (
    ASSIGNMENTS,
    LEAST,
    InputSize,
    input_size,
    spec_text,
    starter_spec,
    sweep_name,
)
from gaplab.spec.sweep import expand, experiment_of
from gaplab.spec.yaml_text import YamlError, parse_yaml
from tests.examples import examples

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
SIZE = InputSize(160, 120, "fit", 9.0)
sides = st.integers(1, 5000)


@examples(60)
@given(sides, sides, st.floats(1, 1e6), st.none() | st.integers(32, 4096))
def test_the_input_has_the_aspect_ratio_of_the_pictures(
    width: int, height: int, area: float, side: int | None
) -> None:
    size = input_size([(width, height)] * 3, [area], side)
    assert size.portrait == "fit"
    assert min(size.width, size.height) >= LEAST
    assert max(size.width, size.height) <= max(640, side or 0)
    if min(size.width, size.height) > LEAST:
        fitted = fitted_size(width, height, size.height, size.width)
        # rounding changes a side by half a pixel, and the other one with it
        slack = 1 + max(width, height) / min(width, height)
        assert abs(fitted[0] - size.width) <= slack
        assert abs(fitted[1] - size.height) <= slack


@pytest.mark.parametrize(
    ("pictures", "area", "expected"),
    [
        ([(640, 480)], 75**2, (160, 120, "fit")),
        ([(640, 480)], 20**2, (256, 192, "fit")),
        ([(1920, 1080)], 60**2, (256, 144, "fit")),
        ([(4000, 3000)], 5**2, (640, 480, "fit")),
        ([(1000, 2000)], 200**2, (80, 160, "fit")),
        ([(40, 30)], 20**2, (64, 48, "fit")),
        ([(100, 100)], 2**2, (100, 100, "fit")),
        ([(5000, 100)], 90**2, (448, 32, "fit")),
        ([(640, 480), (480, 640)], 75**2, (160, 120, "turn")),
        ([(640, 480)] * 19 + [(480, 640)], 75**2, (160, 120, "fit")),
    ],
)
def test_the_input_shows_small_objects(
    pictures: list[tuple[int, int]], area: float, expected: tuple[int, int, str]
) -> None:
    size = input_size(pictures, [area])
    assert (size.width, size.height, size.portrait) == expected


def test_a_tenth_of_the_objects_is_small() -> None:
    size = input_size([(640, 480)], [side**2 for side in range(40, 141, 10)])
    assert size.small_side == pytest.approx(50 * size.width / 640)


@examples(30)
@given(st.text())
def test_a_name_is_that_of_a_sweep(folder: str) -> None:
    spec = starter_spec(sweep_name(folder), folder, {"name": "coco", "root": "/d"}, 100, SIZE)
    parsed = parse_yaml(spec_text(spec, [folder, f"# {folder}"]))
    assert parsed == spec


@pytest.mark.parametrize("images", [1, 2, 9, 199, 205, 500, 118_287])
def test_the_spec_is_valid(tmp_path: Path, images: int) -> None:
    section = {"name": "coco", "root": str(tmp_path), "planned_images": images}
    path = tmp_path / "spec.yaml"
    path.write_text(spec_text(starter_spec("pets", "Pets", section, images, SIZE), ["a remark"]))
    resolved = load_spec(path)
    assert len(resolved.variants) == len(ASSIGNMENTS)
    training = resolved.variants[0].sections["training"].value
    assert training.batch <= images
    assert training.warmup_steps <= training.epochs * images


def test_the_grid_is_that_of_the_quickstart() -> None:
    trials = expand(load_spec(EXPERIMENTS / "quickstart.yaml")).trials
    usual = [experiment_of(each).config()["assignment"] for each in trials]
    own = [
        ASSIGNERS[each["name"]].model_validate(each).model_dump(mode="json") for each in ASSIGNMENTS
    ]
    assert own == [each for each in usual if each["name"] != "center"]


def test_a_path_that_yaml_cannot_hold() -> None:
    spec = starter_spec("pets", "Pets", {"name": "coco", "root": "/\udce9"}, 9, SIZE)
    with pytest.raises(YamlError, match="half of a surrogate pair"):
        spec_text(spec, [])
