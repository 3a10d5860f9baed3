"""Helpers of the spec tests: spec files as text, nested values, and a small data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gaplab.errors import UserError
from gaplab.spec.files import load_spec
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand

BASE = """
name: quick
data: {name: shapes}
detector: {name: fcos}
assignment: {name: poto}
"""
NO_ASSIGNMENT = BASE.replace("assignment: {name: poto}\n", "")


def load(folder: Path, text: str, profile: str | None = None, sets: Sequence[str] = ()) -> Spec:
    path = folder / "quick.yaml"
    path.write_text(text)
    return load_spec(path, profile, sets).spec


def problems(
    folder: Path, text: str, profile: str | None = None, sets: Sequence[str] = ()
) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, text, profile, sets)
    return list(caught.value.problems)


def configs(spec: Spec) -> list[dict[str, Any]]:
    return [trial.config for trial in expand(resolve(spec)).trials]


def with_value(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return nested mappings with another value at a path."""
    if not path:
        return value
    inner = with_value(config.get(path[0], {}), path[1:], value)
    return config | {path[0]: inner}


def coco(root: Path, colour: int = 0) -> dict[str, Any]:
    """Write a data set with one image per split, and return the section that selects it."""
    (root / "images").mkdir(parents=True)
    for i, split in enumerate(["train", "val"], start=1):
        Image.new("RGB", (64 + colour, 48)).save(root / "images" / f"{i}.png")
        image = {"id": i, "file_name": f"{i}.png", "width": 64 + colour, "height": 48}
        box = {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400}
        content = {
            "images": [image],
            "annotations": [box | {"iscrowd": 0}],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return {"name": "coco", "root": str(root), "height": 64, "width": 64}
