"""What tests of several folders share: a sweep small enough to train in seconds."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# Machines are shared and slow at times; CI draws the same examples every time, people new ones.
settings.register_profile(
    "gaplab",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gaplab")

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"name": "shapes", "size": 64, "train_images": 16, "val_images": 6, "max_side": 40.0},
    "detector": {
        "name": "fcos",
        "backbone": {"name": "tiny", "channels": [8, 16, 16]},
        "channels": 16,
        "tower_convs": 1,
    },
    "assignment": {"name": "poto", "alpha": 0.5},
    "training": {"epochs": 3, "batch": 4, "warmup_steps": 4},
}


@pytest.fixture(scope="session")
def bccd() -> Path:
    """364 photographs of blood cells in COCO format, beside the checkout."""
    root = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "bccd"
    if not root.is_dir():
        pytest.skip(f"real photographs are not here ({root})")
    return root


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small spec, with top-level keys replaced, and returns its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


@pytest.fixture(scope="session")
def leaks() -> ModuleType:
    """`leaks.py`: looks for a secret where it must not be."""
    path = Path(__file__).with_name("leaks.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
