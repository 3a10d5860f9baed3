"""Options declared `LATER`: migrations add every one of them to the trials of earlier releases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import gaplab.ledger
from detectors.models import DETECTORS
from detectors.options import LATER, Options
from gaplab.ledger.later_options import completed, without
from gaplab.spec.fields import models_of, table_of
from gaplab.spec.models import Experiment
from tests.builders import SECTIONS

Found = Iterator[tuple[str, str, Any]]


def is_later(model: type[Options], key: str) -> bool:
    extra = model.model_fields[key].json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") == LATER["identity"]


def later(model: type[Options], above: str = "", name: str = "") -> Found:
    """Yield the dotted key, the name of its section and the default of each later option."""
    for key, field in model.model_fields.items():
        path = f"{above}{key}"
        if is_later(model, key):
            yield path, name, field.default
        for inner, entry in table_of(field).items():
            yield from later(entry, f"{path}.", inner)
        if not table_of(field):
            for each in models_of(field):
                yield from later(each, f"{path}.", "")


def without_later(value: Any) -> Any:
    """Return options as plain JSON, as releases wrote them that had no later options."""
    if isinstance(value, Options):
        kind = type(value)
        keys = [key for key in kind.model_fields if not is_later(kind, key)]
        return {key: without_later(getattr(value, key)) for key in keys}
    return list(value) if isinstance(value, tuple) else value


@pytest.fixture(scope="module")
def migrations() -> list[Any]:
    """The migrations that add options to stored configurations, oldest first."""
    folder = Path(gaplab.ledger.__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    modules = [each.module for each in ScriptDirectory.from_config(config).walk_revisions()]
    return [each for each in reversed(modules) if hasattr(each, "LATER")]


def test_a_migration_adds_each(migrations: list[Any]) -> None:
    """An option that fails here belongs into the newest migration, or into a new one."""
    added = {
        (key, name, value)
        for each in migrations
        for key, names, value in each.LATER
        for name in names or ("",)
    }
    assert added == set(later(Experiment))


@pytest.mark.parametrize(
    ("detector", "assignment"),
    [*((name, "min_cost") for name in DETECTORS), ("fcos", "dual"), ("retinanet", "dual")],
)
def test_completed_configurations_are_those_of_today(
    migrations: list[Any], detector: str, assignment: str
) -> None:
    chosen = {"detector": {"name": detector}, "assignment": {"name": assignment}}
    experiment = Experiment.model_validate(SECTIONS | chosen)
    config = without_later(experiment)
    for each in migrations:
        config = completed(config, each.LATER)
    assert config == experiment.model_dump(mode="json")


def test_options_are_removed_at_their_default_only() -> None:
    later = (("detector.o2m_from", ("deformable_detr",), "layer"),)
    other = {"detector": {"name": "deformable_detr", "o2m_from": "cross_attention"}}
    assert without(other, later) == other
    for name in ("deformable_detr", "fcos"):
        config = {"detector": {"name": name}, "seed": 0}
        assert without(completed(config, later), later) == config
