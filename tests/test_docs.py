"""Documentation stays true: links, commands, paths, versions, and what the files must not name."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import dropwhile, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

import detectors
import gaplab
from detectors.assigners import ASSIGNERS
from detectors.options import Options, docstrings
from gaplab.cli.app import app
from gaplab.spec.describe import TABLES
from gaplab.spec.fields import models_of
from gaplab.spec.files import load_spec
from gaplab.spec.models import Experiment, Spec

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "experiments" / "LOG.md",
    *PAGES,
    *sorted((ROOT / "cluster").rglob("README.md")),
]
TOP = ("detectors", "platform", "experiments", "cluster", "docs", "tests")
PLACEHOLDERS = re.compile(r"yours|[A-Z]{3,}\b(?!\.md)")
"""In a path: to be replaced by the reader."""
HOSTS = {
    *("127.0.0.1", "localhost", "head", "me"),
    *("www.apache.org", "pytorch.org", "keepachangelog.com", "semver.org"),
    "www.w3.org",  # the namespace of SVG
    *("kubernetes.io", "app.kubernetes.io", "networking.k8s.io", "ray.io", "nvidia.com"),
}
"""Hosts that files of the repository may name."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language in languages]


def spans(text: str) -> list[str]:
    """What stands between backticks in the prose; a span may be broken over two lines."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table_column(text: str, heading: str) -> list[str]:
    """The cells of a column of the first table in Markdown, without backslashes."""
    table = text[text.index("\n| ") + 1 :].split("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()]
    place = [cell.strip() for cell in rows[0]].index(heading)
    return [row[place].strip().replace("\\", "") for row in rows[2:]]


@pytest.fixture(scope="module")
def pages(load: Callable[[Path], ModuleType]) -> dict[str, str]:
    """The generated pages of the reference, by name."""
    pytest.importorskip("mkdocs")
    generated: dict[str, str] = load(ROOT / "docs" / "reference_pages.py").pages()
    return generated


@pytest.fixture(scope="module")
def commands() -> TyperGroup:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_to_files(path: Path, pages: dict[str, str]) -> None:
    generated = {ROOT / "docs" / "reference" / f"{name}.md" for name in pages}
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if "://" in target:
            continue
        file, _, anchor = unquote(target).partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists() or linked in generated, target
        if anchor and linked.suffix == ".md" and linked not in generated:
            assert anchor in anchors(linked.read_text()), target


@pytest.mark.parametrize("path", TEXTS[:2] + PAGES, ids=name_of)
def test_paths_in_prose_exist(path: Path) -> None:
    for span in spans(path.read_text()):
        if re.fullmatch(rf"({'|'.join(TOP)})/[\w./-]*", span) and not PLACEHOLDERS.search(span):
            assert (ROOT / span).exists(), span


def command(commands: TyperGroup, words: list[str]) -> tuple[Any, list[str]]:
    """The command that a line calls and its arguments; raises a usage error for an unknown one."""
    context = commands.make_context("gaplab", [], resilient_parsing=True)
    _, found, rest = commands.resolve_command(context, words)
    if isinstance(found, TyperGroup) and rest and not rest[0].startswith("-"):
        return command(found, rest)
    return found, rest


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of every call of gaplab in the fenced blocks of shell commands."""
    for block in blocks(text, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = ["&&", *shlex.split(line, comments=True), "&&"]
            ends = [i for i, word in enumerate(words) if word in ("&&", "|", "&", ">")]
            for start, end in pairwise(ends):
                call = [*dropwhile(lambda word: "=" in word, words[start + 1 : end])]
                if call and call[0] == "gaplab":
                    yield call[1:]


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_command_lines_parse(path: Path, commands: TyperGroup) -> None:
    for words in command_lines(path.read_text()):
        called, rest = command(commands, words)
        called.make_context(words[0], rest)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_commands_in_prose_exist(path: Path, commands: TyperGroup) -> None:
    for span in spans(path.read_text()):
        words = span.split()
        if words[0] != "gaplab" or len(words) == 1:
            continue
        own = [*commands.params]
        if not words[1].startswith("-") and words[1] not in ("...", "COMMAND"):
            own += command(commands, words[1:])[0].params
        known = {option for parameter in own for option in parameter.opts} | {"--help", "-h"}
        known |= {"--install-completion"}
        given = {word.partition("=")[0] for word in words[1:] if word.startswith("-")}
        assert given <= known, span


def test_command_lines_are_found() -> None:
    lines = [
        "```",
        "kubectl get gaplab",
        "A=1 gaplab run x.yaml --set 'a=[1, 2]' && gaplab status # go",
    ]
    text = "\n".join([*lines, "```", ""])
    calls = [["run", "x.yaml", "--set", "a=[1, 2]"], ["status"]]
    assert list(command_lines(text)) == calls
    assert list(command_lines("gaplab run\n```yaml\ngaplab: 1\n```\n")) == []


def test_readme_is_short_and_shows_the_table_first() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    first_screen = lines[:20]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any("assignment" in line and "gap" in line for line in first_screen)


def test_the_table_is_the_same_everywhere() -> None:
    [table] = [block for block in blocks((ROOT / "README.md").read_text(), "") if "AR" in block]
    for name in ("index", "quickstart"):
        assert table in (ROOT / "docs" / f"{name}.md").read_text()


def test_results_have_every_assignment_and_way_to_train_queries() -> None:
    """README leads to both tables, and its number of assignments is that of the code."""
    readme = (ROOT / "README.md").read_text()
    assert f"[{len(ASSIGNERS)} assignments on one detector]" in readme
    results = ROOT / "experiments" / "results"
    names = table_column((results / "assignments.md").read_text(), "assignment")
    assert sorted(names) == sorted(ASSIGNERS)
    spec = yaml.safe_load((ROOT / "experiments" / "queries.yaml").read_text())
    assert len(table_column((results / "queries.md").read_text(), "group")) == len(spec["rows"])


def test_whole_specs_in_the_documentation_are_valid(tmp_path: Path) -> None:
    texts = [block for page in PAGES for block in blocks(page.read_text(), "yaml")]
    whole = [text for text in texts if "\ndetector:" in text and text.startswith("name:")]
    assert len(whole) >= 3
    for i, text in enumerate(whole):
        path = tmp_path / f"{i}.yaml"
        path.write_text(text)
        assert load_spec(path).variants


@pytest.mark.parametrize("key", TABLES)
def test_the_guide_names_every_entry_of_every_table(key: str) -> None:
    text = (ROOT / "docs" / "specs.md").read_text() + (ROOT / "docs" / "data.md").read_text()
    assert [name for name in TABLES[key] if f"`{name}`" not in text] == []


def test_recipes_for_other_tools_are_python() -> None:
    """They can't run here: the tools and their weights are not installed."""
    recipes = blocks((ROOT / "docs" / "exporting.md").read_text(), "py")
    assert len(recipes) == 7
    for body in recipes:
        compile(body, "recipe", "exec")


def test_examples_in_python_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = [body for page in PAGES for body in blocks(page.read_text(), "python")]
    assert examples
    for body in examples:
        exec(compile(body, "example", "exec"), {})


def options(model: type[Options]) -> Iterator[tuple[type[Options], str]]:
    """Every option of `model` and of the classes inside it."""
    for name, field in model.model_fields.items():
        yield model, name
        for inner in models_of(field):
            yield from options(inner)


def test_every_option_is_documented() -> None:
    found = {*options(Spec), *options(Experiment)}
    documented = {model: docstrings(model) for model, _ in found}
    missing = [
        f"{model.__name__}.{name}"
        for model, name in found
        if name != "name" and not documented[model].get(name)
    ]
    assert sorted(missing) == []


def test_the_reference_says_type_range_default_and_meaning(pages: dict[str, str]) -> None:
    poto = pages["assignments"].partition("## `poto`")[2].partition("\n## ")[0]
    alpha = next(line for line in poto.splitlines() if line.startswith("| `alpha` |"))
    assert alpha.startswith("| `alpha` | number, 0 to 1 | `0.8` | Weight of ")
    assert "| `workers` * | integer, at least 1 | `1` |" in pages["spec"]
    assert "| `name` | text | required |" in pages["spec"]
    assert "[`max_filter`](gates.md#max_filter)" in pages["detectors"]
    assert "| AP small | `ap_small` | `ap_small_nms` | `ap_small_gap` |" in pages["metrics"]


def test_the_reference_has_every_command(pages: dict[str, str], commands: TyperGroup) -> None:
    text = pages["cli"]
    for name in (*commands.commands, "data check"):
        assert f"## `{name}`" in text
        assert f"Usage: gaplab {name}" in text


def test_the_reference_has_the_public_names() -> None:
    listed = re.findall(
        r"^::: (\S+)$", (ROOT / "docs/reference/python.md").read_text(), re.MULTILINE
    )
    for package in (gaplab, detectors):
        names = {name for name in package.__all__ if not name.startswith("_")}
        assert {f"{package.__name__}.{name}" for name in names} <= set(listed)


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    for path in files():
        if path.is_relative_to(ROOT / "cluster"):
            assert set(re.findall(r"\bgaplab:(\d+\.\d+\.\d+)", text_of(path))) <= {version}, path


def files() -> list[Path]:
    """The files of the repository, also new ones, without what git ignores."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in found.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(errors="replace")


def test_files_name_no_unknown_hosts() -> None:
    address = re.compile(r"https?://([\w.-]+)|\b((?:[\w-]+\.)+(?:com|dev|io|net|org))/")
    found = {
        (name_of(path), (match[1] or match[2]).rstrip(".").lower())
        for path in files()
        for match in address.finditer(text_of(path))
    }
    assert {(name, host) for name, host in found if host not in HOSTS} == set()


def test_files_name_nothing_of_this_machine() -> None:
    command = [sys.executable, "-m", "pip", "config", "list"]
    config = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sources = re.findall(r"(?:index-url|find-links|proxy|trusted-host)='([^']*)'", config)
    private = {str(ROOT), *(word for value in sources for word in value.split())}
    found = {(name_of(path), each) for path in files() for each in private if each in text_of(path)}
    assert found == set()


def test_the_tests_of_every_kind_of_input_exist() -> None:
    """`docs/inputs.md` is written by hand; each of its rows names tests of its kind."""
    text = (ROOT / "docs" / "inputs.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    assert len(rows) > 100
    defined = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        names = re.findall(r"`(test_\w+)", row)
        assert names or row.startswith("| Input |") or "| same" in row, row
        missing = [name for name in names if f"def {name}(" not in defined]
        assert missing == [], row
