"""The command tree: help, version, shell completion, what is imported, and wrong input."""

import inspect
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

import pytest

from gaplab.cli.app import COMMANDS, GROUPS, Command, load
from gaplab.ledger import Ledger
from gaplab.storage.home import Home

Gaplab = Callable[..., str]
CALLS: dict[str, Command] = {
    **COMMANDS,
    **{f"{group.name} {c.name}": c for group in COMMANDS.values() for c in group.inner},
}
"""The words of every command, also of those in groups."""
each_command = pytest.mark.parametrize(("words", "command"), CALLS.items(), ids=CALLS)
READERS = ("leaderboard", "compare", "show", "status", "protocols")
"""Commands that only read the ledger."""


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command_on_one_uncut_line(gaplab: Gaplab, flag: str) -> None:
    lines = gaplab(flag).splitlines()
    for group, commands in GROUPS.items():
        start = lines.index(f"{group}:") + 1
        shown = [line.split(maxsplit=1) for line in lines[start : start + len(commands)]]
        assert shown == [[command.name, command.summary] for command in commands]
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...")]


def test_without_arguments_help_is_printed(gaplab: Gaplab) -> None:
    assert gaplab(code=2).split() == gaplab("--help").split()


@each_command
def test_a_docstring_starts_with_the_summary(words: str, command: Command) -> None:
    function = getattr(import_module(command.module), command.name)
    assert (inspect.getdoc(function) or "").split("\n\n")[0] == command.summary, words


@each_command
def test_an_example_parses(words: str, command: Command) -> None:
    program, *given = shlex.split(command.example)
    assert (program, " ".join(given).startswith(words)) == ("gaplab", True)
    context, left = load(COMMANDS[given[0]]).make_context(given[0], given[1:]), given[1:]
    if COMMANDS[given[0]].inner:
        name, inner, left = context.command.resolve_command(context, left)
        context = inner.make_context(name, left, parent=context)
    assert context.args == []


@each_command
def test_help_of_a_command(gaplab: Gaplab, words: str, command: Command) -> None:
    text = gaplab(*words.split(), "--help")
    assert text == gaplab(*words.split(), "-h")
    assert text.startswith(f"Usage: gaplab {words} ")
    assert f"\n  {command.summary}\n" in text
    assert text.endswith(f"\n  Example:\n    {command.example}\n")
    assert max(map(len, text.splitlines())) <= 80


def test_version(gaplab: Gaplab) -> None:
    assert gaplab("--version") == f"gaplab {metadata.version('gaplab')}\n"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("gaplab lea", ["leaderboard"]),
        ("gaplab re", ["resume", "report", "reevaluate"]),
        ("gaplab leaderboard --so", ["--sort"]),
        ("gaplab leaderboard --sort ap_n", ["ap_nms"]),
        ("gaplab --ver", ["--version"]),
        ("gaplab data c", ["check", "convert"]),
        ("gaplab data convert --co", ["--copy"]),
    ],
)
def test_shell_completion(
    gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch, typed: str, completed: list[str]
) -> None:
    monkeypatch.setenv("_GAPLAB_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert gaplab().split() == completed


def test_the_script_for_shell_completion(gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert "_GAPLAB_COMPLETE=complete_bash" in gaplab("--show-completion", "bash")


def imported(code: str, *modules: str) -> list[str]:
    """Run `code` in a new process and return those of `modules` that it imported."""
    last = f"print('\\n', json.dumps([m for m in {modules} if m in sys.modules]))"
    program = f"import json, sys\n{code}\n{last}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


CALL = """
from contextlib import suppress
from gaplab.cli import main
for words in {calls}:
    sys.argv = ["gaplab", *words]
    with suppress(SystemExit):
        main()
"""


def test_help_imports_no_heavy_library() -> None:
    heavy = ("torch", "ray", "mlflow", "sqlalchemy", "pydantic", "pyarrow", "numpy")
    assert imported(CALL.format(calls=[["--help"], ["--version"]]), *heavy) == []


def test_help_of_a_command_imports_no_torch() -> None:
    calls = [[*words.split(), "--help"] for words in CALLS]
    assert imported(CALL.format(calls=calls), "torch", "ray", "mlflow") == []


def test_readers_import_no_torch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLAB_HOME", str(home))
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    Ledger.open(Home(home).ledger_url).close()
    assert imported(CALL.format(calls=[[name] for name in READERS]), "torch", "ray") == []


def test_measuring_without_a_name_imports_no_database() -> None:
    code = "import gaplab.cli.measure, gaplab.results.measurement.measuring"
    assert imported(code, "sqlalchemy", "ray", "mlflow", "pycocotools") == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml"),
        (("resume",), "none in the ledger yet"),
        (("resume", "quickstart-123"), "quickstart-123"),
        (("show", "abc"), "abc"),
        (("leaderboard", "--epoch", "first"), '--epoch first: must be "last", "best", a number'),
        (("leaderboard", "--sweep", "x"), "x"),
        (("leaderbord",), "No such command 'leaderbord'. Did you mean 'leaderboard'"),
        (("plan",), "Missing argument 'SPEC'"),
    ],
)
def test_wrong_arguments(gaplab: Gaplab, home: Path, words: tuple[str, ...], line: str) -> None:
    Ledger.open(Home(home).ledger_url).close()
    assert line in gaplab(*words, code=2)


def test_an_empty_ledger_is_no_error(gaplab: Gaplab, home: Path) -> None:
    Ledger.open(Home(home).ledger_url).close()
    assert json.loads(gaplab("leaderboard", "--json")) == []
    assert json.loads(gaplab("compare", "--json")) == []
    assert gaplab("leaderboard", "--csv").startswith("trial,sweep,")
    assert "no sweeps yet; start one with: gaplab run SPEC" in gaplab("show")
