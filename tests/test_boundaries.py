"""Arrows between rooms run one way, also through other files; a heavy library has one importer."""

from graphlib import CycleError

import pytest

from tests.import_graph import arrows, graph, imports, layers, modules, room

SHARED = {"shared", "detectors"}
ARROWS = {
    "detectors": set(),
    "shared": {"detectors"},
    "spec": SHARED,
    "storage": SHARED,
    "ledger": SHARED,
    "trial": {"spec", "storage", *SHARED},
    "launch": {"launch/ray", "ledger", "trial", "spec", "storage", *SHARED},
    "launch/ray": {"launch", "trial", "spec", "storage", *SHARED},
    "results": {"ledger", "trial", "spec", "storage", *SHARED},
    "mirror": {"ledger", "spec", "storage", *SHARED},
    "cli": {
        "launch",
        "launch/ray",
        "results",
        "mirror",
        "ledger",
        "trial",
        "spec",
        "storage",
        "public",
        *SHARED,
    },
    "public": {"cli", "launch", "results", "ledger", "spec", "storage", *SHARED},
}
"""Room -> the rooms that its modules may import."""

NARROW = {
    ("launch", "launch/ray"): {"gaplab.launch.driver"},
    ("results", "trial"): {"gaplab.results.candidates.reevaluate", "gaplab.results.use.trained"},
    ("public", "cli"): {"gaplab.__main__"},
    ("cli", "public"): {"gaplab.cli.app"},
}
"""Arrows that only these modules may draw."""

NEVER = [
    *(("spec", far) for far in ("ledger", "trial", "launch", "launch/ray", "results", "mirror")),
    *(("storage", far) for far in ("ledger", "trial", "launch", "launch/ray", "results", "mirror")),
    *(("ledger", far) for far in ("spec", "storage", "trial", "launch", "launch/ray", "results")),
    *(("trial", far) for far in ("ledger", "launch", "launch/ray", "results", "mirror")),
    *(("results", far) for far in ("launch", "launch/ray", "mirror")),
    *(("mirror", far) for far in ("trial", "launch", "launch/ray", "results")),
    *(("launch", far) for far in ("results", "mirror")),
]
"""Room -> a room that none of its modules may reach, through any number of others."""

IMPORTERS: dict[str, str | tuple[str, ...]] = {
    "ray": "gaplab.launch.ray",
    "grpc": "gaplab.launch.ray.address",
    "mlflow": "gaplab.mirror.replay",
    "sqlalchemy": "gaplab.ledger",
    "alembic": "gaplab.ledger",
    "hotcoco": ("detectors.evaluation.coco", "detectors.rle"),
    "PIL": ("detectors.data.images", "gaplab.results.use.drawing"),
    "safetensors": "detectors.models.weights",
    "onnxruntime": "detectors.onnx_export",
    "onnxscript": "detectors.onnx_export",
    "matplotlib": "gaplab.results.report.figure",
    "markupsafe": "gaplab.results.report",
    "pyarrow": (
        "gaplab.storage",
        "detectors.data.index_file",
        "detectors.data.segmentations",
        "detectors.data.remote",
    ),
    "timm": "detectors.models.timm_backbone",
    "optuna": "gaplab.launch.search_optuna",
    "yaml": ("gaplab.spec.yaml_text", "detectors.data.yolo_files"),
    "typer": "gaplab.cli",
    "rich": "gaplab.cli",
    "pycocotools": "detectors.evaluation.oracle",
}
"""Library -> the one module or folder that may import it, or a few for different kinds of files."""


def chain(source: str, target: str) -> str:
    """The shortest way from one room to another, empty if there is none."""
    ours = [m for m in modules() if room(m) == source]
    theirs = {m for m in modules() if room(m) == target}
    for module in ours:
        for far in sorted(graph().find_upstream_modules(module) & theirs):
            return " -> ".join(graph().find_shortest_chain(module, far) or ())
    return ""


def test_every_room_is_named() -> None:
    assert {room(module) for module in modules()} == set(ARROWS)


@pytest.mark.parametrize("source", ARROWS)
def test_arrows_run_one_way(source: str) -> None:
    drawn = {pair: held for pair, held in arrows().items() if pair[0] == source}
    assert {target for _, target in drawn} <= ARROWS[source], drawn


@pytest.mark.parametrize("pair", NARROW)
def test_some_arrows_have_one_source(pair: tuple[str, str]) -> None:
    assert {source for source, _ in arrows().get(pair, [])} <= NARROW[pair]


@pytest.mark.parametrize(("source", "target"), NEVER)
def test_rooms_that_are_never_reached(source: str, target: str) -> None:
    assert chain(source, target) == ""


@pytest.mark.parametrize("source", sorted(set(ARROWS) - {"cli", "public"}))
def test_nothing_reaches_the_commands(source: str) -> None:
    assert chain(source, "cli") == ""


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        layers(imports(modules()))
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_heavy_library_has_one_importer(library: str) -> None:
    if library not in graph().modules:
        assert IMPORTERS[library] == "nobody"
        return
    users = graph().find_modules_that_directly_import(library)
    place = IMPORTERS[library]
    places = tuple(f"{each}." for each in ([place] if isinstance(place, str) else place))
    assert {user for user in users if not f"{user}.".startswith(places)} == set()
    assert users, f"nothing imports {library}: strike it from the table"
