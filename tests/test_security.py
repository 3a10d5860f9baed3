"""Security: nothing in a data set, a storage folder, a spec or a ledger may run code or leave its
folder, and secrets stay secret. MLflow's server: tests/gaplab/mirror/test_server_security.py.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from PIL import EpsImagePlugin, Image
from pydantic import ValidationError

from detectors.data import DATASETS
from detectors.data.base import DataError
from detectors.data.images import ImageError, read_size
from detectors.data.orientation import Orientation
from gaplab.cli import main
from gaplab.errors import UserError
from gaplab.formatting import printable
from gaplab.mirror.replay import Mirror
from gaplab.spec.files import load_spec
from gaplab.spec.grid import Grid
from gaplab.spec.models import Spec
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.storage.parquet import Layout, write_table

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "detectors").rglob("*.py"), *(ROOT / "platform").rglob("*.py")])
OUTSIDE = [
    *("../../outside.jpg", "sub/../../../outside.jpg", "/etc/passwd", "../../../../etc/passwd"),
    "../../\u00e9.jpg",
]
WRITTEN_OTHERWISE = [
    *("..\\..\\outside.jpg", "%2e%2e/%2e%2e/outside.jpg", "..%5C..%5Coutside.jpg", "%2Fetc/passwd"),
    "..\\..\\e\u0301.jpg",
]
"""Names that are outside if backslashes separate folders, or URL quotes are decoded."""

# Part one: rules for every source file.

UNPICKLERS = {"pickle", "cloudpickle", "dill", "marshal", "joblib", "shelve"}
LOADS = {"load", "loads", "Unpickler", "open"}
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "pandas.read_pickle", "pd.read_pickle"),
    *("torch.jit.load", "torch.package.PackageImporter", "torch.hub.load"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.full_load_all"),
}
YAML_LOADERS = {"_Loader", "yaml.BaseLoader"}
"""Our own, a stricter SafeLoader, and the one that creates text, lists and mappings only."""
SQL_CALLS = {"text", "execute", "executemany", "executescript", "exec_driver_sql", "DDL"}
_MIGRATION = (
    (
        'f"CREATE VIEW classes AS SELECT e.trial_id AS trial, e.epoch, e.branch, e.pr'
        "otocol, e.truth, {name} AS class, {', '.join(numbers)} FROM evaluation_class"
        'es AS e, {each}"'
    ),
    (
        "f\"INSERT INTO chosen_evaluation ({names}) SELECT {found} FROM (SELECT {', '."
        "join(own)}, ROW_NUMBER() OVER (PARTITION BY trial_id, branch, protocol, trut"
        "h ORDER BY {order}) AS place FROM evaluation) AS e JOIN trial AS t ON t.id ="
        ' e.trial_id WHERE e.place = 1"'
    ),
    "f'CREATE VIEW {name} AS {query}'",
    "f'DROP VIEW {name}'",
    ("f'INSERT INTO evaluation_classes ({key}, classes) SELECT {key}, classes FROM evaluation'"),
    ("f'UPDATE evaluation SET classes = (SELECT classes FROM evaluation_classes WHERE {same})'"),
)
"""Statements of migration 0012: SQLAlchemy has no constructs for them."""
SQL_ALLOWED = {
    ("platform/gaplab/ledger/migrate.py", "f'PRAGMA {pragma}'"): "SQLite has no bound "
    "parameters there, and the names are constants of the same loop",
    **{
        ("platform/gaplab/ledger/migrations/versions/0012_settings_and_results.py", line): "names "
        "of tables, views and columns, which are constants of the module"
        for line in _MIGRATION
    },
}
SECRET = re.compile(r"token|secret|password|passw", re.IGNORECASE)
STARTERS = {"subprocess", "ray.job_submission"}
Audit = Callable[[ast.AST], list[str]]
"""Returns the lines of a file that break a rule."""


@lru_cache(maxsize=1)  # all audits look at a file, then at the next
def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Return every call with the dotted name of the function."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [(ast.unparse(node.func), node) for node in found]


def constant(call: ast.Call, keyword: str) -> Any:
    """Return the constant passed for a keyword argument, Ellipsis if there is none."""
    found = [each.value for each in call.keywords if each.arg == keyword]
    return found[0].value if found and isinstance(found[0], ast.Constant) else ...


def runs_code(tree: ast.AST) -> list[str]:
    """Find calls that run code from data, or commands through a shell."""
    found = []
    for name, call in calls(tree):
        module, _, function = name.rpartition(".")
        bad = name in FORBIDDEN or (module in UNPICKLERS and function in LOADS)
        bad |= name == "torch.load" and constant(call, "weights_only") is not True
        loader = [ast.unparse(each.value) for each in call.keywords if each.arg == "Loader"]
        bad |= name == "yaml.load" and not (loader and set(loader) <= YAML_LOADERS)
        bad |= constant(call, "allow_pickle") is True
        bad |= any(each.arg == "shell" for each in call.keywords)
        if bad:
            found.append(ast.unparse(call))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS | {"torch", "yaml"}:
            taken = {each.name for each in node.names} & {*LOADS, "full_load", "unsafe_load"}
            found += [f"from {node.module} import {name}" for name in sorted(taken)]
    return found


def builds_sql(tree: ast.AST) -> list[str]:
    """Find arguments of SQL calls that are assembled from parts."""
    found = []
    for name, call in calls(tree):
        if name.rpartition(".")[2] in SQL_CALLS:
            parts = [part for argument in call.args for part in ast.walk(argument)]
            found += [ast.unparse(part) for part in parts if _is_built(part)]
    return found


def _is_built(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
        sides = (node.left, node.right)
        return any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in sides)
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".format")


def exposes_secrets(tree: ast.AST) -> list[str]:
    """Find secrets in command lines and in entrypoints or environment variables of Ray jobs.

    Other users can read all three, with `ps` or in Ray's dashboard.
    """
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    lines: list[ast.AST] = []
    if modules & STARTERS:
        lines += [node for node in ast.walk(tree) if isinstance(node, ast.List)]
    for _, call in calls(tree):
        lines += [each.value for each in call.keywords if each.arg in ("entrypoint", "env_vars")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            lines += [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "env_vars"]
    return [ast.unparse(line) for line in lines if _names_secret(line)]


def _names_secret(line: ast.AST) -> bool:
    names = [n.id for n in ast.walk(line) if isinstance(n, ast.Name)]
    names += [n.attr for n in ast.walk(line) if isinstance(n, ast.Attribute)]
    texts = (n.value for n in ast.walk(line) if isinstance(n, ast.Constant))
    return any(map(SECRET.search, [*names, *(text for text in texts if isinstance(text, str))]))


def imports_from_here(tree: ast.AST) -> list[str]:
    """Find `python -m` without `-P`: it imports from the working directory."""
    lists = (node for node in ast.walk(tree) if isinstance(node, ast.List))
    texts = ([ast.unparse(each) for each in node.elts] for node in lists)
    return [str(t) for t in texts if {"sys.executable", "'-m'"} <= set(t) and "'-P'" not in t]


AUDITS: dict[Audit, list[str]] = {
    runs_code: [
        "pickle.load(f)",
        "from pickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "yaml.load(t, Loader=yaml.Loader)",
        "yaml.load(t)",
        "yaml.unsafe_load(t)",
        "eval(t)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "tempfile.mktemp()",
        "np.load(f, allow_pickle=True)",
    ],
    builds_sql: [
        "c.execute(f'SELECT {x}')",
        "c.execute('SELECT %s' % x)",
        "c.execute('SELECT ' + x)",
        "c.execute(text('SELECT {}'.format(x)))",
        "c.exec_driver_sql(f'PRAGMA {x}')",
    ],
    exposes_secrets: [
        "import subprocess\nc = ['ray', '--token', x]",
        "import subprocess\nc = ['ray', home.token]",
        "client.submit_job(entrypoint=f'RAY_AUTH_TOKEN={x} gaplab run')",
        "ray.init(runtime_env={'env_vars': {'RAY_AUTH_TOKEN': x}})",
    ],
    imports_from_here: ["c = [sys.executable, '-m', 'mlflow', 'server']"],
}


@pytest.mark.parametrize(("audit", "code"), [(a, c) for a, cs in AUDITS.items() for c in cs])
def test_each_audit_finds_what_it_forbids(audit: Audit, code: str) -> None:
    assert audit(ast.parse(code))


def test_the_audits_accept_safe_code() -> None:
    code = (
        "import subprocess, re\ntorch.load(f, weights_only=True)\nre.compile(x)\n"
        "yaml.load(t, Loader=_Loader)\nc.execute('SELECT 1', (x,))\nc.execute(select(t))\n"
        "c = [sys.executable, '-P', '-m', 'mlflow']\nsubprocess.run(c)\n"
    )
    assert [audit(ast.parse(code)) for audit in AUDITS] == [[]] * len(AUDITS)


@pytest.fixture(scope="module")
def findings() -> dict[Audit, set[tuple[str, str]]]:
    """What each audit finds, as names of files and lines; each file is parsed once."""
    assert len(SOURCES) > 40
    found = {audit: set[tuple[str, str]]() for audit in AUDITS}
    for path in SOURCES:
        tree, name = ast.parse(path.read_text()), path.relative_to(ROOT).as_posix()
        for audit in AUDITS:
            found[audit] |= {(name, line) for line in audit(tree)}
    return found


@pytest.mark.parametrize("audit", AUDITS)
def test_no_source_file_fails_an_audit(
    audit: Audit, findings: dict[Audit, set[tuple[str, str]]]
) -> None:
    found = findings[audit]
    allowed = set(SQL_ALLOWED) if audit is builds_sql else set()
    assert found - allowed == set()
    assert allowed - found == set(), "allowed, but not found any more"


# Part two: specs.


def test_an_expansion_bomb_in_a_spec_is_rejected(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 64)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(bomb))
    with pytest.raises(UserError, match=r"bomb\.yaml: line \d+: more than 20000 values"):
        load_spec(path)


def test_a_grid_of_a_billion_trials_is_rejected_before_it_is_built(
    write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: Any) -> Any:
        raise AssertionError("the grid is being built")

    monkeypatch.setattr(Grid, "trials", built)
    keys = ("assignment.alpha", "training.lr", "training.momentum", "training.weight_decay")
    grid: dict[str, list[float]] = {key: [i / 1000 for i in range(1, 101)] for key in keys}
    spec = write_spec(grid=grid | {"seed": list(range(10))})
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="1000000000 combinations, more than 10000; vary less"):
            load_spec(spec)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "/x", "a\n", "a\\b", "", "x" * 65])
def test_a_sweep_name_must_be_a_valid_folder_name(name: str) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate({"name": name})


# Part three: files.


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a//x", "..", ".", "", "a/..", "a\\..\\x", "a\0"]
)
def test_storage_rejects_paths_outside_its_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_text("outside")
    storage = Storage(str(tmp_path / "store"))
    attempts: list[Callable[[], Any]] = [
        lambda: storage.save_text(name, "text"),
        lambda: storage.open(name),
        lambda: storage.delete(name),
        lambda: storage.names(name or ".."),
    ]
    for attempt in attempts:
        with pytest.raises(UserError, match="leads out of"):
            attempt()
    assert {path.name for path in tmp_path.iterdir()} <= {"x", "store"}
    assert (tmp_path / "x").read_text() == "outside"


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, store = tmp_path / "victim", tmp_path / "store"
    victim.write_text("mine")
    store.mkdir()
    (store / "trials.parquet").symlink_to(victim)
    write_table(Storage(str(store)), "trials.parquet", Layout("trials", 1, {}, ""), {}, [])
    assert victim.read_text() == "mine"
    assert not (store / "trials.parquet").is_symlink()


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)
    return path


def coco(root: Path, name: str) -> dict[str, Any]:
    """Write a data set of one good image and one called `name`."""
    box = {"bbox": [1.0, 1.0, 20.0, 20.0], "category_id": 1}
    document = {
        "images": [
            {"id": i, "file_name": each, "width": 64, "height": 48}
            for i, each in enumerate(("good.jpg", name))
        ],
        "annotations": [{"id": i, "image_id": i, **box} for i in (0, 1)],
        "categories": [{"id": 1, "name": "circle"}],
    }
    photo(root / "images" / "good.jpg")
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(json.dumps(document))
    return {"name": "coco", "root": str(root)}


def crowdhuman(root: Path, name: str) -> dict[str, Any]:
    boxes = [{"tag": "person", "fbox": [1, 1, 20, 20]}]
    ids = ("good", name.removesuffix(".jpg"))
    lines = "".join(json.dumps({"ID": each, "gtboxes": boxes}) + "\n" for each in ids)
    photo(root / "Images" / "good.jpg")
    for split in ("train", "val"):
        (root / f"annotation_{split}.odgt").write_text(lines)
    return {"name": "crowdhuman", "root": str(root)}


def yolo(root: Path, name: str) -> dict[str, Any]:
    photo(root / "images" / "good.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "good.txt").write_text("0 0.2 0.2 0.1 0.1\n")
    (root / "list.txt").write_text(f"images/good.jpg\n{name}\n")
    places = {"train": "list.txt", "val": "list.txt"}
    (root / "data.yaml").write_text(json.dumps({"names": ["circle"], **places}))
    return {"name": "yolo", "root": str(root)}


def voc(root: Path, name: str) -> dict[str, Any]:
    photo(root / "JPEGImages" / "good.jpg")
    (root / "Annotations").mkdir()
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(CORNERS, (2, 2, 20, 20), strict=True))
    box = f"<object><name>circle</name><bndbox>{corners}</bndbox></object>"
    (root / "Annotations" / "good.xml").write_text(f"<annotation>{box}</annotation>")
    for split in ("train", "val"):
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"good\n{name.removesuffix('.jpg')}\n")
    return {"name": "voc", "root": str(root)}


CORNERS = ("xmin", "ymin", "xmax", "ymax")


PLACES = [
    *product((coco, crowdhuman, yolo, voc), OUTSIDE),
    *product((coco, crowdhuman), WRITTEN_OTHERWISE),
]


@pytest.mark.parametrize(("make", "name"), PLACES)
def test_an_annotation_file_cannot_name_files_outside_its_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, name: str
) -> None:
    photo(tmp_path / "outside.jpg")
    photo(tmp_path / "e\u0301.jpg")
    photo(tmp_path / "\u00e9.jpg")
    raw = make(tmp_path / "data", name)
    opened: list[Path] = []

    def record(path: Path, *, decode: bool) -> Orientation:
        opened.append(path)
        return Orientation((64, 48))

    monkeypatch.setattr("detectors.data.headers.read_size", record)
    options = DATASETS[raw["name"]].model_validate(raw)
    for use in (options.fingerprint, lambda: options.load("train")):
        with pytest.raises(DataError, match=r"image files outside the data set: 1 \(.*\)"):
            use()
    skipping = DATASETS[raw["name"]].model_validate(raw | {"on_bad": "skip"})
    assert len(skipping.load("train")) == 1
    assert len(skipping.fingerprint()) == 64
    assert {path.name for path in opened} == {"good.jpg"}


@pytest.mark.parametrize(("make", "name"), [*product((yolo, voc), WRITTEN_OTHERWISE)])
def test_a_list_of_images_cannot_name_files_outside_in_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, name: str
) -> None:
    """The name of the image is derived from that in the list, so the message may be another."""
    photo(tmp_path / "outside.jpg")
    photo(tmp_path / "e\u0301.jpg")
    raw = make(tmp_path / "data", name)
    opened: list[Path] = []

    def record(path: Path, *, decode: bool) -> Orientation:
        opened.append(path)
        return Orientation((64, 48))

    monkeypatch.setattr("detectors.data.headers.read_size", record)
    with pytest.raises(DataError):
        DATASETS[raw["name"]].model_validate(raw).load("train")
    skipping = DATASETS[raw["name"]].model_validate(raw | {"on_bad": "skip"})
    assert len(skipping.load("train")) == 1
    assert {path.name for path in opened} == {"good.jpg"}


def test_a_relative_name_may_stay_within_the_data_set(tmp_path: Path) -> None:
    raw = coco(tmp_path / "data", "../more/other.jpg")
    photo(tmp_path / "data/more/other.jpg")
    assert len(DATASETS["coco"].model_validate(raw).load("train")) == 2


def test_the_owner_may_link_or_configure_folders_elsewhere(tmp_path: Path) -> None:
    raw = coco(tmp_path / "data", "sub/other.jpg")
    photo(tmp_path / "elsewhere/sub/other.jpg")
    (tmp_path / "data/images/sub").symlink_to(tmp_path / "elsewhere/sub")
    assert len(DATASETS["coco"].model_validate(raw).load("train")) == 2
    shutil.copy(tmp_path / "data/images/good.jpg", tmp_path / "elsewhere")
    raw |= {each: str(tmp_path / "elsewhere") for each in ("train_images", "val_images")}
    assert len(DATASETS["coco"].model_validate(raw).load("train")) == 2


def test_reading_an_image_starts_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    disguised = (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **_: started.append(a))
    for decode in (False, True):
        with pytest.raises(ImageError, match="cannot identify"):
            read_size(disguised, decode=decode)
    assert started == []


def test_class_names_cannot_contain_control_characters(tmp_path: Path) -> None:
    raw = coco(tmp_path / "data", "good2.jpg")
    for split in ("train", "val"):
        path = tmp_path / "data" / f"{split}.json"
        path.write_text(path.read_text().replace("circle", "\\u001b[2J"))
    with pytest.raises(DataError, match=r"not COCO: categories\[0\]\.name"):
        DATASETS["coco"].model_validate(raw).load("train")


def test_error_messages_escape_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gaplab", "plan", "\x1b[2J\u202e.yaml"])
    with pytest.raises(SystemExit):
        main()
    assert "\\x1b[2J\\u202e.yaml" in capsys.readouterr().err
    assert printable("é \x1b\n") == "é \\x1b\\n"


# Part four: shared ledgers and secrets.


@pytest.mark.parametrize("name", ["../x", "..", ".", "/tmp/x", "a/b"])
def test_a_sweep_name_in_a_shared_ledger_creates_no_folder_elsewhere(
    tmp_path: Path, name: str
) -> None:
    mirror = Mirror(Home(tmp_path / "home"))
    with pytest.raises(UserError, match="leads out of the home folder"):
        mirror._runs(ModuleType("mlflow"), name)


def test_a_secret_in_a_command_line_is_found(leaks: ModuleType) -> None:
    secret = uuid4().hex
    leaks.assert_no_secret_in_argv(secret)
    command = [sys.executable, "-c", "input()", f"--token={secret}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        with pytest.raises(AssertionError, match="the secret is in"):
            leaks.assert_no_secret_in_argv(secret)
        process.communicate(b"\n")


def test_a_secret_in_a_file_is_found(tmp_path: Path, leaks: ModuleType) -> None:
    secret = "f" * 40
    (tmp_path / "ray.token").write_text(secret)
    with pytest.raises(AssertionError, match="no files to search"):
        leaks.assert_no_secret(secret, tmp_path)
    file = tmp_path / "a" / "blob"
    file.parent.mkdir()
    file.write_bytes(b"x" * (2**20 - 7))
    leaks.assert_no_secret(secret, tmp_path)
    file.write_bytes(b"x" * (2**20 - 7) + secret.encode())
    with pytest.raises(AssertionError, match="blob"):
        leaks.assert_no_secret(secret, tmp_path)
    with pytest.raises(AssertionError, match="too short"):
        leaks.assert_no_secret("abc", tmp_path)
